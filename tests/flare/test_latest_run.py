"""``run: latest``: the newest completed run of this study and algorithm, and no other."""

import pytest

from polyclinic.errors import CheckpointError
from polyclinic.flare.runbook import latest_run
from polyclinic.ledger import Ledger
from polyclinic.study import parse_study

STUDY = parse_study(
    {
        "name": "toy",
        "task": {"label": "y", "classes": ["no", "yes"]},
        "modalities": {"cnv": {"kind": "vector", "features": ["g"]}},
    }
)
FEDMM = "polyclinic.algorithms.fedmm.Server"


class Workspace:
    """The two folders that are asked of FLARE's workspace."""

    def __init__(self, root):
        self.root = root
        (root / "local").mkdir()
        (root / "local" / "polyclinic.yaml").write_text("site: server\nstorage: ../storage\n")

    def get_site_config_dir(self):
        return str(self.root / "local")

    def get_root_dir(self):
        return str(self.root)


def record(workspace, run, time, *, rounds=2, status="completed", algorithm=FEDMM, study=STUDY):
    ledger = Ledger(workspace.root / "storage" / "runs" / run / "ledger.jsonl")
    start = {"kind": "start", "run": run, "time": time, "round": 0, "algorithm": algorithm}
    ledger.append(start | {"study": study.fingerprint()})
    for t in range(1, rounds + 1):
        ledger.append({"kind": "round", "round": t})
    if status:
        ledger.append({"kind": "end", "status": status})


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_the_newest_of_several_is_taken_at_its_last_round(workspace):
    record(workspace, "old", "2026-01-01T00:00:00", rounds=9)
    record(workspace, "new", "2026-02-01T00:00:00", rounds=3)
    assert latest_run(workspace, STUDY, FEDMM) == ("new", 3)


def test_other_studies_algorithms_and_unfinished_runs_are_passed_over(workspace):
    record(workspace, "mine", "2026-01-01T00:00:00")
    other = STUDY.model_copy(update={"seed": 1})
    record(workspace, "study", "2026-02-01T00:00:00", study=other)
    record(workspace, "algorithm", "2026-02-02T00:00:00", algorithm="x.Server")
    record(workspace, "running", "2026-02-03T00:00:00", status="")
    record(workspace, "failed", "2026-02-04T00:00:00", status="failed_quorum")
    assert latest_run(workspace, STUDY, FEDMM) == ("mine", 2)


def test_a_broken_ledger_is_passed_over(workspace):
    record(workspace, "mine", "2026-01-01T00:00:00")
    record(workspace, "broken", "2026-02-01T00:00:00")
    path = workspace.root / "storage/runs/broken/ledger.jsonl"
    path.write_text(path.read_text().replace('"round": 1', '"round": 7'))
    assert latest_run(workspace, STUDY, FEDMM) == ("mine", 2)


def test_without_a_run_the_sentence_says_what_to_do(workspace):
    with pytest.raises(CheckpointError, match="train first"):
        latest_run(workspace, STUDY, FEDMM)
