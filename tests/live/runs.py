"""A job made shorter, what its run left at the server, and what one process makes of the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from federation import SERVER, Federation
from safetensors.numpy import load_file

from polyclinic.comparison import run_federation
from polyclinic.comparison.experiment import anchor_of
from polyclinic.data.cohort import open_cohort
from polyclinic.evaluation.metrics import scores_of
from polyclinic.jobs import load_job
from polyclinic.ledger import Record, read_ledger
from polyclinic.settings import load_settings
from polyclinic.worker.desk import SPLIT_MARK

CLOSE = 1e-5


def copy_job(job: Path, folder: Path, **args: Any) -> Path:
    """A copy of a job below ``folder``, with other arguments of the controller."""
    copy = folder / job.name
    shutil.copytree(job, copy)
    path = copy / "app" / "config" / "config_fed_server.json"
    config = json.loads(path.read_text())
    config["workflows"][0]["args"] |= args
    path.write_text(json.dumps(config))
    return copy


def run_folder(federation: Federation, run: str) -> Path:
    """Where the server keeps a run."""
    return federation.kit(SERVER) / "storage" / "runs" / run


def ledger(federation: Federation, run: str) -> list[Record]:
    """The ledger of a run so far, its chain verified; [] before its first line."""
    path = run_folder(federation, run) / "ledger.jsonl"
    return read_ledger(path) if path.exists() else []


def rounds(federation: Federation, run: str) -> list[Record]:
    """The closed rounds of a run."""
    return [line for line in ledger(federation, run) if line["kind"] == "round"]


def last_state(federation: Federation, run: str) -> dict[str, np.ndarray]:
    """The tensors of the newest checkpoint that the ledger of a run names."""
    entry = next(r["checkpoint"] for r in reversed(ledger(federation, run)) if "checkpoint" in r)
    return load_file(run_folder(federation, run) / "checkpoints" / entry["file"])


def assert_equals_one_process(federation: Federation, run: str, job: Path) -> None:
    """A completed run is what ``compare``'s federation makes of the same job and site folders."""
    said = load_job(job)
    kits = {site: federation.kit(site) / "local" / "polyclinic.yaml" for site in federation.sites}
    sites = {s: open_cohort(load_settings(path), said.study) for s, path in kits.items()}
    anchor = anchor_of(sites, said.study)
    reference = run_federation(
        sites, said.client, said.server, said.study, said.rounds, anchor=anchor
    )

    # Tensors have weights of about 1; a run that was not trained would be far from the start.
    found = last_state(federation, run)
    assert set(found) == set(reference.state.tensors)
    for name, array in reference.state.tensors.items():
        assert np.abs(found[name] - array).max(initial=0.0) <= CLOSE, name
    start = said.server.initial(said.study).tensors
    assert max(np.abs(found[n] - a).max(initial=0.0) for n, a in start.items()) > 100 * CLOSE

    told = next(r for r in ledger(federation, run) if r["kind"] == "evaluate")["metrics"]
    contract = said.server.contract(said.study)
    for site, patients in sites.items():
        store = federation.kit(site) / "storage" / "personal" / run
        kept = load_file(store / f"round_{said.rounds}.safetensors")
        kept.pop(SPLIT_MARK, None)  # of the site's process, not of the algorithm
        assert set(kept) == set(reference.personal[site])
        for name, array in reference.personal[site].items():
            assert np.abs(kept[name] - array).max(initial=0.0) <= CLOSE, f"{site} {name}"
        slice_ = reference.state.restricted(
            sorted(contract.names_for(patients.modalities, "state"))
        )
        predicted = said.client.predict(patients, slice_, reference.personal[site], "test")
        score = "dice" if said.study.task.segments else "auroc"
        expected = scores_of(predicted, said.study.task)[score]
        assert abs(told[site][f"test/{score}"] - expected) <= CLOSE, site
