"""Published weights of colour photographs, put into networks for grey films.

torchvision's and MONAI's DenseNet-121 name their layers differently, and both expect three colours;
grey is all three at once, so the first layer's weights are added up.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polyclinic.errors import SiteError

# Of torchvision, also as its files were written before 2018 (``norm.1``).
_DENSE_LAYER = re.compile(r"^(.*\.denselayer\d+)\.(norm|conv)\.?([12])\.")


def fill(network: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Copy into the network every number it has; what else is given, such as a classifier, is left.

    With group normalisation the scales and shifts of the published batch normalisation are taken,
    and its statistics are left.

    Raises:
        SiteError: a tensor is missing or has another shape; the network is then as it was.
    """
    named = {_DENSE_LAYER.sub(r"\1.layers.\2\3.", n): v for n, v in given.items()}
    wanted = {n: v for n, v in network.state_dict().items() if v.is_floating_point()}
    found: dict[str, Tensor] = {}
    for name, place in wanted.items():
        value = named.get(name)
        if value is not None and value.dim() == 4 and (value.shape[1], place.shape[1]) == (3, 1):
            value = value.sum(dim=1, keepdim=True)
        if value is not None and value.shape == place.shape:
            found[name] = value
    if len(found) < len(wanted):
        raise SiteError(
            expected="the weights of the network that the study names",
            got=f"{len(wanted) - len(found)} of {len(wanted)} tensors missing or of another shape",
            remedy="correct 'network' or 'weights' of the encoder in study.json",
            owner="researcher",
        )
    with torch.no_grad():
        for name, value in found.items():
            wanted[name].copy_(value)
