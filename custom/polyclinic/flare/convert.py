"""State and Update as FLARE sends them: a FLModel whose params are named tensors.

Scalars travel in the FLModel's meta under one key, ``polyclinic``; metrics in its metrics. Nothing
derived from data may hide anywhere else, so every filter sees it.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nvflare.apis.dxo import DataKind, MetaKey, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from polyclinic.errors import ContractViolation
from polyclinic.exchange import State, Update, Way

META = "polyclinic"
ERROR = "polyclinic.error"  # header of an error reply: code, owner, message
CENSUS, TRAIN, ANCHOR = "census", "train", "anchor"
FINALISE, EVALUATE = "finalise", "evaluate"
TASKS = (CENSUS, TRAIN, ANCHOR, FINALISE, EVALUATE)
# The two tasks whose answers hold tensors, and what of the contract they hold.
WAYS: dict[str, Way] = {TRAIN: "train", ANCHOR: "anchor"}


@dataclass(frozen=True)
class Reply:
    """What a site answered, as it came: nothing in it has been checked against the contract.

    Attributes:
        kind: FLARE's data kind.
        tensors: whatever stands in the params, {} when there are none.
        scalars: what stands under ``polyclinic`` in the meta.
        metrics: what stands in the metrics.
    """

    kind: str
    tensors: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def task_data(state: State, scalars: dict[str, Any]) -> Shareable:
    """A task for a site: the values it may see and the scalars of the task (``t``, ``run``, ...).

    The arrays are shared, not copied; nobody may write to them.
    """
    model = FLModel(
        params_type=ParamsType.FULL,
        params=dict(state.tensors),
        current_round=int(scalars.get("t", state.round)),
        meta={META: {**scalars, "round": state.round}},
    )
    return FLModelUtils.to_shareable(model)


def read_task(shareable: Shareable) -> tuple[State, dict[str, Any]]:
    """What ``task_data`` packed: the state and the scalars of the task.

    Raises:
        ContractViolation: not a state with its scalars.
    """
    model = _model(shareable)
    scalars = (model.meta or {}).get(META)
    if model.params_type != ParamsType.FULL or not isinstance(scalars, dict):
        raise _malformed("values with the task's scalars", "another kind of message")
    number = scalars.get("round")
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise _malformed("the number of the state's round", type(number).__name__)
    return State(dict(model.params or {}), number), dict(scalars)


def reply(update: Update, metrics: dict[str, float] | None = None) -> Shareable:
    """A site's answer: differences when there are tensors, scalars and metrics alone otherwise.

    The answer to the census is of the second kind; names of modalities are among its scalars.
    """
    if update.tensors:
        model = FLModel(
            params_type=ParamsType.DIFF, params=dict(update.tensors), metrics=dict(metrics or {})
        )
    else:
        model = FLModel(metrics=dict(metrics or {}))
    model.meta = {META: dict(update.scalars)}
    return FLModelUtils.to_shareable(model)


def read_reply(shareable: Shareable) -> Reply:
    """What a site answered.

    Raises:
        ContractViolation: an error return code, or a message that is not a DXO.
    """
    code = shareable.get_return_code()
    if code not in (None, "", ReturnCode.OK):
        raise _malformed("an answer", "another return code")
    try:
        dxo = from_shareable(shareable)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _malformed("a data exchange object", type(error).__name__) from None
    meta = dxo.meta if isinstance(dxo.meta, dict) else {}
    kind = str(getattr(dxo.data_kind, "value", dxo.data_kind))
    if kind == DataKind.METRICS.value:
        return Reply(kind, {}, _dict(meta.get(META)), _dict(dxo.data))
    metrics = _dict(meta.get(MetaKey.INITIAL_METRICS))
    return Reply(kind, _dict(dxo.data), _dict(meta.get(META)), metrics)


def is_number(value: object) -> bool:
    """True for a finite int or float, Python's or NumPy's; booleans and text are not numbers.

    Neither is an integer that no float can hold.
    """
    if isinstance(value, bool | np.bool_):
        return False
    try:
        return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
    except OverflowError:
        return False


def _dict(value: object) -> dict[str, Any]:
    """The value if it is a dictionary, else {}: an odd type is treated as nothing said."""
    return dict(value) if isinstance(value, dict) else {}


def _model(shareable: Shareable) -> FLModel:
    try:
        return FLModelUtils.from_shareable(shareable)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _malformed("a model message", type(error).__name__) from None


def _malformed(expected: str, got: str) -> ContractViolation:
    return ContractViolation(
        expected=expected, got=got, remedy="run the same polyclinic version everywhere"
    )
