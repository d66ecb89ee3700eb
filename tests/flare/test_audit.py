"""A line in the site's own audit for every reply, or nothing leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply

from flare.kit import JOB, Kit, agreed, ask, executor
from polyclinic.errors import CheckpointError, ContractViolation, SiteError
from polyclinic.exchange import Update
from polyclinic.flare.audit import FILE, ROUND, RUN, EgressAudit
from polyclinic.flare.convert import ERROR, reply
from polyclinic.flare.egress import EgressFilter
from polyclinic.ledger import Record, read_ledger

WEIGHTS = {"enc.cnv.w": np.ones((2, 3), np.float32), "fuse.w": np.ones(3, np.float32)}


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def trained(**more: Any) -> Shareable:
    return reply(Update(WEIGHTS | more, {"n": 40.0, "t": 1.0}), {"train/loss": 0.5})


def lines(kit: Kit) -> list[Record]:
    return read_ledger(kit.storage / FILE)


def context(kit: Kit) -> FLContext:
    fl_ctx = agreed(kit.context("train"), WEIGHTS)
    fl_ctx.set_prop(RUN, "first-job", private=True, sticky=False)
    fl_ctx.set_prop(ROUND, 3, private=True, sticky=False)
    return fl_ctx


def test_what_is_sent_is_on_record_by_number_size_and_group(kit: Kit) -> None:
    EgressFilter().process(trained(), context(kit))
    (line,) = lines(kit)
    assert line.pop("time").endswith("+00:00")
    line.pop("previous")
    assert line == {
        "job": JOB,
        "task": "train",
        "run": "first-job",
        "round": 3,
        "verdict": "sent",
        "code": "",
        "tensors": 2,
        "bytes": (6 + 3) * 4,
        "groups": ["enc.cnv", "fuse"],
    }


def test_an_error_and_a_refusal_are_on_record_with_their_code_and_without_words(kit: Kit) -> None:
    egress, words = EgressFilter(), {"code": "data", "message": "Jane Roe has no label."}
    egress.process(make_reply(ReturnCode.EXECUTION_EXCEPTION, {ERROR: words}), context(kit))
    egress.process(make_reply(ReturnCode.EXECUTION_EXCEPTION), context(kit))
    with pytest.raises(ContractViolation):
        egress.process(trained(**{"personal.Jane Roe": WEIGHTS["fuse.w"]}), context(kit))
    told = [(r["verdict"], r["code"], r["tensors"], r["groups"]) for r in lines(kit)]
    assert told == [
        ("error", "data", 0, []),
        ("error", "unknown", 0, []),
        ("refused", "contract", 0, []),
    ]
    assert "Jane" not in (kit.storage / FILE).read_text()


def test_the_file_is_the_owners_alone_even_when_it_was_made_wider(kit: Kit) -> None:
    kit.storage.mkdir()
    (kit.storage / FILE).touch(mode=0o666)
    EgressFilter().process(trained(), context(kit))
    assert (kit.storage / FILE).stat().st_mode & 0o777 == 0o600


def test_a_name_with_a_newline_cannot_forge_a_line(kit: Kit) -> None:
    fl_ctx = context(kit)
    fl_ctx.set_prop(FLContextKey.TASK_NAME, 'train"}\n{"verdict": "sent', private=True)
    with pytest.raises(ContractViolation):
        EgressFilter().process(trained(), fl_ctx)
    assert [r["verdict"] for r in lines(kit)] == ["refused"]
    assert len((kit.storage / FILE).read_text().splitlines()) == 1


def full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_without_room_for_the_line_nothing_leaves(kit: Kit, monkeypatch: Any) -> None:
    egress = EgressFilter()
    egress.process(trained(), context(kit))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(SiteError, match=FILE):
            egress.process(trained(), context(kit))
        with pytest.raises(SiteError, match=FILE):
            egress.process(make_reply(ReturnCode.EXECUTION_EXCEPTION), context(kit))
    egress.process(trained(), context(kit))
    assert [r["verdict"] for r in lines(kit)] == ["sent", "sent"]


def test_where_the_file_cannot_be_made_nothing_leaves(kit: Kit) -> None:
    kit.storage.write_text("a file where the folder should be")
    with pytest.raises(SiteError, match=FILE):
        EgressFilter().process(trained(), context(kit))


def test_a_link_in_the_files_place_is_not_followed(kit: Kit, tmp_path: Path) -> None:
    kit.storage.mkdir()
    (kit.storage / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SiteError, match=FILE):
        EgressFilter().process(trained(), context(kit))
    assert not (tmp_path / "elsewhere").exists()


def test_after_a_changed_line_nothing_leaves_and_a_reader_is_told(kit: Kit) -> None:
    for _ in range(2):
        EgressFilter().process(trained(), context(kit))
    path = kit.storage / FILE
    path.write_text(path.read_text().replace('"bytes": 36', '"bytes": 35', 1))
    with pytest.raises(SiteError, match="changed, dropped or moved"):
        EgressFilter().process(trained(), context(kit))
    with pytest.raises(CheckpointError):
        read_ledger(path)


def test_a_line_torn_by_a_kill_is_cut_off_and_the_chain_goes_on(kit: Kit) -> None:
    EgressFilter().process(trained(), context(kit))
    with (kit.storage / FILE).open("a") as stream:
        stream.write('{"verdict": "se')
    EgressFilter().process(trained(), context(kit))
    assert [r["verdict"] for r in lines(kit)] == ["sent", "sent"]


WRITER = """
import sys
from pathlib import Path
from flare.kit import Kit
from polyclinic.flare.audit import EgressAudit
audit, kit = EgressAudit(), Kit(Path(sys.argv[1]))
for _ in range(20):
    audit.record(kit.context("train"), "sent")
"""


def test_two_jobs_write_one_unbroken_chain(kit: Kit) -> None:
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", WRITER, str(kit.root)]
    env = {**os.environ, "PYTHONPATH": tests}
    other = subprocess.Popen(command, env=env)
    audit = EgressAudit()
    while other.poll() is None:
        audit.record(kit.context("train"), "refused", "contract")
    assert other.returncode == 0
    verdicts = [r["verdict"] for r in lines(kit)]
    assert verdicts.count("sent") == 20
    assert "refused" in verdicts


def test_run_and_round_come_from_the_executor(kit: Kit, monkeypatch: Any) -> None:
    site, fl_ctx = executor(monkeypatch, run="first-job"), kit.context("train")
    monkeypatch.setattr(kit, "context", lambda task: fl_ctx)
    try:
        EgressFilter().process(ask(site, kit, "train"), fl_ctx)
    finally:
        if site.child is not None:
            site.child.end()
    (line,) = lines(kit)
    assert (line["run"], line["round"], line["verdict"]) == ("first-job", 1, "sent")
    assert json.dumps(line)
