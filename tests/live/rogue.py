"""A hospital that turned: it lays its own filter down and answers wrongly, round by round.

The right answer of such a job is known exactly: an honest site returns +1 for whatever it holds, so
after t rounds every entry is t, whoever of the holders counted.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.dxo import DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FedEventHeader, ReservedKey, ReservedTopic
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.np.np_downloader import ArrayDownloadable
from nvflare.fuel.f3.cellnet import cell as cellnet
from nvflare.widgets.fed_event import FED_EVENT_TOPIC

from flare.counting import HELD, STUDY, PlusOne
from polyclinic.flare.convert import META, TRAIN, read_task
from polyclinic.flare.egress import EgressFilter
from polyclinic.study import parse_study

SHAPE = (3,)
NAME = "enc.cnv.w"
MODULES = ("rogue.", "flare.counting.")


def tensor(value: object) -> Callable[[dict[str, Any]], None]:
    """How: another value under a name that the site does send."""
    return lambda dxo: dxo["data"].update({NAME: value})


def named(name: str) -> Callable[[dict[str, Any]], None]:
    """How: a tensor more, under this name."""
    return lambda dxo: dxo["data"].update({name: np.ones(SHAPE, np.float32)})


def weight(value: object) -> Callable[[dict[str, Any]], None]:
    """How: another number of patients."""
    return lambda dxo: dxo["meta"][META].update({"n": value})


def filled(value: float, dtype: type = np.float32) -> np.ndarray:
    """A tensor of the right shape."""
    return np.full(SHAPE, value).astype(dtype)


# What the rogue does to its good answer, and the ledger's word for why it did not count; "" when
# it must count, as the rogue's own.
WRONGS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "f14 nan": ("not_finite", tensor(filled(np.nan))),
    "f14 infinity": ("not_finite", tensor(filled(np.inf))),
    "f14 minus infinity": ("not_finite", tensor(filled(-np.inf))),
    "f14 half precision": ("dtype", tensor(filled(1.0, np.float16))),
    "f15 shape": ("shape", tensor(np.ones((2, 3), np.float32))),
    "f15 broadcastable": ("shape", tensor(np.ones((1,), np.float32))),
    "f15 dtype": ("dtype", tensor(filled(1.0, np.float64))),
    "f15 text": ("type", tensor("ones")),
    "f15 list": ("type", tensor([1.0, 1.0, 1.0])),
    "f15 dictionary": ("type", tensor({"a": filled(1.0)})),
    "f16 missing": ("names", lambda dxo: dxo["data"].pop(NAME)),
    "f17 unknown name": ("names", named("enc.cnv.other")),
    "f17 another's modality": ("names", named("enc.wsi.w")),
    "f18 million million": ("weight", weight(1e12)),
    "f18 negative": ("weight", weight(-200)),
    "f18 none": ("weight", weight(0)),
    "f18 nan": ("weight", weight(float("nan"))),
    "f18 word": ("weight", weight("many")),
    "f18 boolean": ("weight", weight(True)),
    "f19 values": ("kind", lambda dxo: dxo.update(kind=DataKind.WEIGHTS)),
    "f08 stale": ("stale", lambda dxo: dxo["meta"][META].update(t=0.0)),
    "f13 another's name": ("", lambda dxo: None),
    "f13 another's name and groups": ("names", named("enc.wsi.w")),
}
VICTIM = "site-1"
HUGE_BYTES = 200 << 20


def send_huge(answer: Shareable) -> None:
    """200 MB under a name that the site does send."""
    answer["DXO"]["data"][NAME] = np.zeros(HUGE_BYTES // 4, np.float32)


def send_many(answer: Shareable) -> None:
    """As much in pieces, each small enough to come."""
    pieces = {f"enc.cnv.p{i}": np.zeros(1 << 18, np.float32) for i in range(HUGE_BYTES >> 20)}
    answer["DXO"]["data"].update(pieces)


def die_while_sending(answer: Shareable) -> None:
    """The process ends when the server asks for the first array."""
    ArrayDownloadable.produce_item = lambda *_: os._exit(9)


def send_garbage(answer: Shareable) -> None:
    """An update that is no message at all."""
    stock = cellnet.encode_payload

    def garbled(message: Any, *args: Any, **kwargs: Any) -> Any:
        update = isinstance(message.payload, dict) and "DXO" in message.payload
        size = stock(message, *args, **kwargs)
        if update:
            message.payload = b"garbage"
        return size

    cellnet.encode_payload = garbled


def tell(topic: str, fl_ctx: FLContext, targets: list[str] | None, head: dict[str, Any]) -> Any:
    """Send a message of FLARE's that nobody asked for; what came back."""
    request = Shareable()
    for key, value in head.items():
        request.set_header(key, value)
    return fl_ctx.get_engine().send_aux_request(
        targets=targets, topic=topic, request=request, timeout=5.0, fl_ctx=fl_ctx
    )


def end_it_for_all(fl_ctx: FLContext) -> Any:
    """The event by which FLARE ends a job, fired at the server."""
    event = {
        FedEventHeader.EVENT_TYPE: EventType.FATAL_SYSTEM_ERROR,
        FedEventHeader.TIMESTAMP: time.time(),
        FedEventHeader.EVENT_ID: "1",
    }
    return tell(FED_EVENT_TOPIC, fl_ctx, None, event)


def ask_another(fl_ctx: FLContext) -> Any:
    """A task for another hospital, whose answer would come here."""
    task = {ReservedHeaderKey.TASK_NAME: "census", ReservedHeaderKey.TASK_ID: "1"}
    return tell(ReservedTopic.DO_TASK, fl_ctx, [VICTIM], task)


MESSAGES = {"event": end_it_for_all, "task": ask_another}

# F20: by the transfer itself, before there is an answer to look at.
TRANSFERS: dict[str, Callable[[Shareable], None]] = {
    "f20 huge": send_huge,
    "f20 many": send_many,
    "f20 garbage": send_garbage,
    "f20 dies while sending": die_while_sending,
}


class Rogue(PlusOne):
    """Answers +1, and at one site what ``behaviour`` says instead.

    Args:
        behaviour: by site and number of a round: a key of ``WRONGS`` or ``TRANSFERS``, ``exit``,
            or ``sleep`` with seconds.
    """

    def __init__(self, fingerprint: str, behaviour: dict[str, dict[str, str]]) -> None:
        super().__init__(fingerprint)
        self.behaviour = behaviour

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """The answer of this round."""
        answer = super().execute(task_name, shareable, fl_ctx, abort_signal)
        mine = self.behaviour.get(fl_ctx.get_identity_name())
        if mine is None:
            return answer
        # Whoever owns the machine owns its filter.
        EgressFilter.process = lambda _, leaving, __: leaving
        does = mine.get(str(read_task(shareable)[1]["t"]), "") if task_name == TRAIN else ""
        if does == "exit":
            os._exit(9)
        elif does.startswith("sleep"):
            _sleep(float(does.split()[1]), abort_signal)
        elif does in MESSAGES:
            self.log_warning(fl_ctx, f"told: {does} {MESSAGES[does](fl_ctx)}")
        elif does in TRANSFERS:
            TRANSFERS[does](answer)
        elif does:
            WRONGS[does][1](answer["DXO"])
        if does.startswith("f13"):
            answer.set_header("client_name", VICTIM)
            # What all messages of this task claim to come from.
            fl_ctx.set_prop(ReservedKey.IDENTITY_NAME, VICTIM, private=False, sticky=False)
        return answer


def _sleep(seconds: float, abort: Signal) -> None:
    """Be slow, until the job is over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not abort.triggered:
        time.sleep(0.1)


def write_counting_job(
    folder: Path, rounds: int, behaviour: dict[str, dict[str, str]] | None = None, **args: Any
) -> Path:
    """A job of honest sites, or with sites that do what ``behaviour`` says."""
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    fingerprint = parse_study(STUDY).fingerprint()
    server = {"path": "flare.counting.CountingServer", "args": {"size": SHAPE[0]}}
    asked = {"rounds": rounds, "min_sites": 2, "server": server, **args}
    rounds_at = {"id": "rounds", "path": "polyclinic.flare.controller.Rounds", "args": asked}
    site = {"fingerprint": fingerprint, "behaviour": behaviour or {}}
    files = {
        folder / "meta.json": {
            "name": folder.name,
            "min_clients": len(HELD),
            "deploy_map": {"app": ["@ALL"]},
            "scope": "polyclinic",
        },
        config / "study.json": STUDY,
        config / "config_fed_server.json": {
            "format_version": 2,
            "server": {"task_request_interval": 0.1},
            "dead_client_grace_period": 5,
            "workflows": [rounds_at],
        },
        config / "config_fed_client.json": {
            "format_version": 2,
            "default_task_fetch_interval": 0.1,
            "executors": [{"tasks": ["*"], "executor": {"path": "rogue.Rogue", "args": site}}],
        },
    }
    for path, content in files.items():
        path.write_text(json.dumps(content))
    return folder
