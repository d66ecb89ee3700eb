"""A message is its tensors and little else, as FLARE serialises it."""

import numpy as np
import pytest
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers import common_decomposers
from nvflare.fuel.utils import fobs

from polyclinic.exchange import State, Update
from polyclinic.flare.convert import reply, task_data

TARGET = 1.02
TENSORS = {f"enc.wsi.{i}": np.full(100_000, i, np.float32) for i in range(10)}
LEAST = 10 * 100_000 * 4
REPLY = reply(Update(TENSORS, {"n": 100.0, "t": 1.0}), {"train/loss": 0.5, "validation/auroc": 0.7})
TASK = task_data(State(TENSORS, 3), {"t": 4, "run": "r" * 36, "rounds": 40, "deadline": 900.0})


@pytest.mark.parametrize("message", [REPLY, TASK], ids=["reply", "task"])
def test_a_million_parameters_cost_at_most_two_percent_more(message: Shareable) -> None:
    common_decomposers.register()
    size = len(fobs.dumps(message))
    assert LEAST < size <= TARGET * LEAST
