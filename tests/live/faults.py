"""The smallest job there is, in classes that a test federation allows on purpose.

A kit allows none of them; a federation for tests names ``faults.`` in ``allow_classes``.
"""

from typing import Any

import numpy as np
from nvflare.apis.controller_spec import ClientTask, Task
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal


class OneTask(Controller):
    """Ask every site once, and be done."""

    def __init__(self, min_responses: int = 1) -> None:
        super().__init__(task_check_period=0.1)
        self.min_responses = min_responses
        self.heard = 0

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """One broadcast; a reply that is not in order ends the job."""
        task = Task(name="greet", data=Shareable(), timeout=30, result_received_cb=self._heard)
        self.broadcast_and_wait(
            task, fl_ctx, min_responses=self.min_responses, abort_signal=abort_signal
        )
        if self.heard < self.min_responses:
            self.system_panic(f"{self.heard} sites answered", fl_ctx)

    def _heard(self, client_task: ClientTask, fl_ctx: FLContext) -> None:
        code = client_task.result.get_return_code()
        self.heard += 1
        self.log_info(fl_ctx, f"{client_task.client.name} said {code}")
        if code != ReturnCode.OK:
            self.system_panic(f"{client_task.client.name} said {code}", fl_ctx)

    def process_result_of_unknown_task(self, *_: Any) -> None:
        """Nothing."""


class Greet(Executor):
    """Answer with nothing at all."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """No metric, no tensor."""
        return DXO(DataKind.METRICS, data={}, meta={"polyclinic": {}}).to_shareable()


class Leak(Executor):
    """Answer with what must never leave a hospital."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """A personal head."""
        head = {"personal.head.weight": np.ones(3, np.float32)}
        return DXO(DataKind.WEIGHT_DIFF, data=head, meta={}).to_shareable()
