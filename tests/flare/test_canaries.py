"""No word that identifies a patient is in anything that leaves a site (scenario P11).

Twelve canaries stand in file names, tables, settings, exceptions and what a client half prints;
then every task is asked, in health and under every fault, and each reply is searched as FLARE
would send it, before and after the site's filter.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.decomposers import common_decomposers, numpy_decomposers
from nvflare.fuel.utils import fobs

from flare.kit import Kit, ask, executor, request
from polyclinic.errors import PolyclinicError
from polyclinic.flare.egress import EgressFilter
from polyclinic.flare.executor import SiteExecutor

CANARIES = {
    "patient id": "TCGA-ZZ-CANARY",
    "name": "Canaria^Jane",
    "birth date": "1951-03-02",
    "record number": "MRN99887766",
    "path": "canary_ward_7",
    "file name": "canary_slide_0042",
    "accession": "ACC31415926",
    "uid": "1.2.840.99999.4242",
    "address": "canary@patient.example",
    "telephone": "555-0142-7788",
    "social security": "078-05-1120",
    "diagnosis": "canary carcinoma of the left flank",
}
WORDS = list(CANARIES.values())


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    """Every reply as bytes on the wire, by what was asked of which fault."""
    with pytest.MonkeyPatch.context() as patch:
        found: dict[str, bytes] = {}
        for fault in ("", "words", "sentence", "broken table", "broken settings"):
            kit = spoiled_kit(tmp_path_factory.mktemp("kit") / CANARIES["path"], fault)
            site = executor(patch, fault=fault, words=WORDS)
            try:
                for task in ("census", "train", "anchor", "finalise", "evaluate"):
                    fl_ctx = kit.context(task)
                    reply = site.execute(task, request(1), fl_ctx, Signal())
                    found[f"{fault or 'healthy'}, {task}, unfiltered"] = wire(reply)
                    found[f"{fault or 'healthy'}, {task}"] = filtered(reply, fl_ctx)
            finally:
                stop(site)
        yield found


def spoiled_kit(root: Path, fault: str) -> Kit:
    """A kit whose data, paths and tables are full of canaries."""
    source = {"kind": "vector", "table": f"{CANARIES['file name']}.csv", "units": "log2"}
    kit = Kit(root, {"cohorts": {"demo": {"root": "../data", "modalities": {"cnv": source}}}})
    kit.write_data(name=CANARIES["patient id"] + "{:04d}")
    manifest = (kit.root / "data" / "manifest.csv").read_text().splitlines()
    columns = ",".join(w for w in WORDS)
    lines = [manifest[0] + ",name,born,record,a,b,c,d,e,f,g,h,i"]
    lines += [f"{line},{columns}" for line in manifest[1:]]
    (kit.root / "data" / "manifest.csv").write_text("\n".join(lines) + "\n")
    table = kit.root / "data" / "cnv.csv"
    content = table.read_text()
    table.unlink()
    if fault == "broken table":
        content = content.replace("patient_id,f1,f2", f"{CANARIES['name']},f1,f2")
    table.with_name(f"{CANARIES['file name']}.csv").write_text(content)
    if fault == "broken settings":
        (kit.root / "local" / "polyclinic.yaml").write_text("site: [" + ": ".join(WORDS))
    return kit


def wire(reply: Shareable) -> bytes:
    common_decomposers.register()
    numpy_decomposers.register()
    content: bytes = fobs.dumps(reply)
    return content


def filtered(reply: Shareable, fl_ctx: FLContext) -> bytes:
    """What the filter lets out; nothing when it refuses."""
    try:
        return wire(EgressFilter().process(reply, fl_ctx))
    except PolyclinicError as error:
        return str(error).encode()


def stop(site: SiteExecutor) -> None:
    if site.child is not None:
        site.child.end()


def test_healthy_and_faulty_sites_both_answer(replies: dict[str, Any]) -> None:
    assert b"enc.cnv.weight" in replies["healthy, train"]
    assert b"its text stayed at the site" in replies["words, train"]
    assert b"data manager" in replies["broken table, census"]
    assert b"polyclinic.yaml" in replies["broken settings, census"]


@pytest.mark.parametrize("word", CANARIES.values(), ids=CANARIES.keys())
def test_no_canary_leaves(replies: dict[str, bytes], word: str) -> None:
    found = re.compile(re.escape(word).encode(), re.IGNORECASE)
    # One of the faults is a sentence about data that holds a canary.
    assert [k for k, content in replies.items() if found.search(content)] == []


def test_what_a_client_half_prints_is_in_the_sites_own_log(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kit, site = Kit(tmp_path), executor(patch, words=["Canaria^Jane"])
        ask(site, kit, "train")
        stop(site)
    log = kit.storage / "worker.log"
    assert "Canaria^Jane" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
