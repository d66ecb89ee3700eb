"""What FLARE's own tools see of a run: metrics as analytics events, progress as job statistics."""

from typing import Any

from nvflare.apis.analytix import AnalyticsDataType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.apis.utils.analytix_utils import create_analytic_dxo, send_analytic_dxo
from nvflare.widgets.info_collector import GroupInfoCollector, InfoCollector

from polyclinic.ledger import Record

SHOWN = (
    "kind",
    "round",
    "status",
    "heard",
    "refused",
    "failed",
    "late",
    "absent",
    "lost",
    "anchor",
)


class Bulletin:
    """Posts the latest ledger line.

    Args:
        component: on whose behalf events are fired.
    """

    def __init__(self, component: FLComponent) -> None:
        self._component = component
        self._latest: Record = {}

    def publish(self, record: Record, fl_ctx: FLContext) -> None:
        """Post a line: any tracking receiver of the job (TensorBoard, MLflow) gets its metrics."""
        self._latest = record
        told = record.get("metrics", {}) | record.get("anchor", {}).get("metrics", {})
        for site, metrics in sorted(told.items()):
            for name, value in sorted(metrics.items()):
                dxo = create_analytic_dxo(
                    tag=f"{site}/{name}",
                    value=value,
                    data_type=AnalyticsDataType.SCALAR,
                    global_step=int(record["round"]),
                )
                send_analytic_dxo(self._component, dxo=dxo, fl_ctx=fl_ctx)

    def answer(self, event_type: str, fl_ctx: FLContext) -> None:
        """Tell ``nvflare job stats`` how far the run is."""
        if event_type != InfoCollector.EVENT_TYPE_GET_STATS:
            return
        collector: Any = fl_ctx.get_prop(InfoCollector.CTX_KEY_STATS_COLLECTOR)
        if isinstance(collector, GroupInfoCollector):
            info = {name: self._latest[name] for name in SHOWN if name in self._latest}
            collector.set_info(group_name="polyclinic", info=info)
