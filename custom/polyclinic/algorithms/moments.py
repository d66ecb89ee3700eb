"""Adam's moments between rounds: personal tensors, since they tell of the site's gradients."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from polyclinic.exchange import PERSONAL, Array, Tensors

ADAM = PERSONAL + "adam."
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def restore_moments(
    optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor], memory: Mapping[str, Array]
) -> None:
    """Give the weights the moments they had; a weight without any starts anew."""
    for name, weight in named.items():
        keys = [f"{ADAM}{name}.{moment}" for moment in MOMENTS]
        if all(k in memory for k in keys):
            optimiser.state[weight] = {
                moment: torch.tensor(memory[k], device=weight.device)
                for moment, k in zip(MOMENTS, keys, strict=True)
            }


def moments(optimiser: torch.optim.Optimizer, named: Mapping[str, Tensor]) -> Tensors:
    """The moments of the weights that were stepped, as personal tensors."""
    kept: Tensors = {}
    for name, weight in named.items():
        state = optimiser.state.get(weight)
        if state:
            for moment in MOMENTS:
                value = state[moment].detach().cpu().numpy()
                kept[f"{ADAM}{name}.{moment}"] = np.array(value, dtype=np.float32)
    return kept
