"""FLARE's own tools see the metrics of a run and how far it is."""

from pathlib import Path

from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsData
from nvflare.apis.dxo import from_shareable
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

from flare.anchoring import hospitals, stepped
from flare.ward import Ward, failing, plain, plus_one, silence

SITES = ("site-1", "site-2", "site-3")


class _Listener(FLComponent):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, float, int]] = []

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == ANALYTIC_EVENT_TYPE:
            data = AnalyticsData.from_dxo(from_shareable(fl_ctx.get_prop(FLContextKey.EVENT_DATA)))
            self.heard.append((data.tag, data.value, data.step))


def test_a_tracking_receiver_of_the_job_gets_every_metric_by_site_and_round(
    tmp_path: Path,
) -> None:
    ward, listener = Ward(tmp_path, {s: plus_one(s) for s in SITES}), _Listener()
    ward.engine.listeners.append(listener)
    ward.run(plain(2, stages=["train"]))
    assert listener.heard == [(f"{s}/train/loss", 0.5, t) for t in (1, 2) for s in SITES]


def test_it_gets_the_metrics_of_the_anchor_step_by_round_too(tmp_path: Path) -> None:
    ward, listener = Ward(tmp_path, hospitals()), _Listener()
    ward.engine.listeners.append(listener)
    ward.run(stepped(1, stages=["train"]))
    told = [heard for heard in listener.heard if heard[0].startswith("site-2")]
    assert told == [("site-2/train/loss", 0.25, t) for t in (0, 1)]


def test_job_statistics_tell_the_last_closed_round(tmp_path: Path) -> None:
    sites = {s: plus_one(s) for s in SITES} | {"site-3": failing("site-3", {2}, silence)}
    ward, rounds = Ward(tmp_path, sites), plain(2, stages=["train"])
    ward.run(rounds)
    collector = GroupInfoCollector()
    with ward.engine.new_context() as fl_ctx:
        fl_ctx.set_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR, collector)
        rounds.handle_event(InfoCollector.EVENT_TYPE_GET_STATS, fl_ctx)
    told = collector.info["polyclinic"]
    assert (told["round"], told["heard"]) == (2, ["site-1", "site-2"])
    assert told["late"] == ["site-3"]
