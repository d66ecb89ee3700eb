"""Named NumPy tensors and torch models."""

import numpy as np
import pytest
import torch
from torch import nn

from polyclinic.errors import ContractViolation, StudyError
from polyclinic.models import tensors


def test_integer_buffers_never_travel() -> None:
    model = nn.BatchNorm1d(3)

    names = set(tensors.tensors_of(model))

    assert "num_batches_tracked" in model.state_dict()
    assert names == {"weight", "bias", "running_mean", "running_var"}


def test_a_loaded_model_gives_back_what_it_was_given() -> None:
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    tensors.load(target, tensors.tensors_of(source) | {"unknown": np.zeros(2, np.float32)})

    assert torch.equal(target.weight, source.weight)
    assert torch.equal(target.bias, source.bias)


def test_another_shape_is_refused_by_name() -> None:
    with pytest.raises(ContractViolation, match="'bias'"):
        tensors.load(nn.Linear(2, 3), {"bias": np.zeros(1, np.float32)})


def test_read_only_arrays_can_be_loaded() -> None:
    array = np.ones(3, np.float32)
    array.setflags(write=False)
    model = nn.Linear(2, 3)
    tensors.load(model, {"bias": array})
    assert model.bias.tolist() == [1.0, 1.0, 1.0]


def test_personal_names_come_back_as_they_were() -> None:
    kept = tensors.personal({"head.fused.0.weight": np.zeros(1)})
    assert list(kept) == ["personal.head.fused.0.weight"]
    assert list(tensors.from_personal(kept)) == ["head.fused.0.weight"]


def test_a_model_larger_than_a_site_should_bear_is_refused_before_it_takes_memory() -> None:
    with torch.device("meta"):
        small, large = nn.Linear(1 << 14, 1 << 13), nn.Linear(1 << 14, (1 << 14) + 1)
    tensors.require_bearable(small)
    with pytest.raises(StudyError, match="at most 256 million weights"):
        tensors.require_bearable(large)
