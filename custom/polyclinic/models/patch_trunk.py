"""The frozen network that turns the tiles of a slide into features: ResNet-34 up to stage 3.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", arXiv 1512.03385, cut after
its third residual stage and averaged over the tile: 256 numbers, as FedMM (arXiv 2402.15858) takes
them. Whoever shares features must share the weights too, so the extractor's name holds a hash of
the weights themselves: sites that differ differ in name, whatever file the weights came from.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet34_Weights, resnet34

from polyclinic.device import require_device
from polyclinic.errors import SiteError
from polyclinic.models.weights import load_weights

WIDTH = 256
# Of ImageNet, in the order red, green, blue.
MEAN, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM = "random:"
# Tiles that one thread embeds at once: more are no faster and take memory.
TILES_A_THREAD = 2
STAGES = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")


class PatchTrunk(nn.Module):
    """Maps tiles (N, 3, H, W), uint8 in 0..255, to features (N, 256).

    Its convolutions hold nothing until they are filled or drawn.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.device("meta"):  # stage 4 and the classifier never take memory
            whole = resnet34(weights=None)
        self.stages = nn.Sequential()
        for name in STAGES:
            self.stages.add_module(name, getattr(whole, name))
        self.stages.to_empty(device="cpu")
        for module in self.stages.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
        # Not part of the weights: no persistent buffers.
        mean, scale = (255 * torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, SCALE))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 256)."""
        x: Tensor = self.stages((tiles.float() - self.mean) / self.scale)  # (N, 256, H/16, W/16)
        return x.mean(dim=(2, 3))


@dataclass(frozen=True)
class Extractor:
    """A frozen trunk and what it is called.

    Attributes:
        name: what sites and study compare, such as ``resnet34-layer3-1a2b3c4d``.
        sha256: of the weights themselves (names and values), in hex.
    """

    name: str
    sha256: str
    trunk: PatchTrunk
    device: torch.device

    @property
    def width(self) -> int:
        """Length of one tile's features."""
        return WIDTH

    @property
    def batch(self) -> int:
        """Tiles to embed at once."""
        return TILES_A_THREAD * torch.get_num_threads() if self.device.type == "cpu" else 128

    def features(self, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of tiles (n, H, W, 3); (n, 256) float32.

        On CPUs every thread embeds tiles of its own. Torch's way, all threads at one tile, makes
        them wait for each other at every layer: a quarter more work on a free machine and four
        times as much on a busy one.
        """
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            return self._embedded(tiles)
        parts = [tiles[i : i + TILES_A_THREAD] for i in range(0, len(tiles), TILES_A_THREAD)]
        try:
            with ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                found = list(pool.map(self._embedded, parts))
        finally:
            torch.set_num_threads(threads)  # new threads take the number that was set last
        return np.concatenate(found)

    def _embedded(self, tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The same by one thread, or by the device."""
        with torch.inference_mode():
            x = torch.from_numpy(tiles).to(self.device).permute(0, 3, 1, 2)  # channels last
            found: npt.NDArray[np.float32] = self.trunk(x).cpu().numpy()
        return found


def extractor(weights: str, sha256: str = "", device: str = "cpu") -> Extractor:
    """The trunk with the weights that a user names.

    Args:
        weights: a file (safetensors, or torch's own without code), a name of torchvision's
            enumeration whose file lies in the torch cache, or ``random:SEED``.
        sha256: that the file must have; "" takes any.

    Raises:
        SiteError: no such file or device, another hash, or not the weights of a ResNet-34.
    """
    place, trunk = require_device(device), PatchTrunk()
    if weights.startswith(RANDOM):
        seed = _seed(weights)
        _draw(trunk, seed)
        name = f"resnet34-layer3-random{seed}"
    else:
        _fill(trunk, load_weights(_file(weights), sha256))
        name = f"resnet34-layer3-{digest(trunk)[:8]}"
    found = digest(trunk)  # of the weights as they were given
    trunk = folded(trunk).requires_grad_(False).to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Extractor(name, found, trunk, place)


def folded(trunk: PatchTrunk) -> PatchTrunk:
    """The same function for evaluation, with each normalisation inside the convolution before it.

    A frozen normalisation is a factor and an offset of each channel, which the convolution can
    apply itself: one pass over memory less. Features agree to 1e-6 of their size.
    """
    trunk.eval()
    for module in list(trunk.modules()):
        for (name, one), (after, two) in pairwise(list(module.named_children())):
            if isinstance(one, nn.Conv2d) and isinstance(two, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(one, two))
                setattr(module, after, nn.Identity())
    return trunk


def digest(trunk: PatchTrunk) -> str:
    """SHA-256 over names and float32 values of the weights, the same for every file format."""
    total = hashlib.sha256()
    for name, value in sorted(trunk.state_dict().items()):
        if value.is_floating_point():
            total.update(f"{name} {tuple(value.shape)}\n".encode())
            total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def _seed(weights: str) -> int:
    """The seed of ``random:SEED``.

    Raises:
        SiteError: it is no whole number.
    """
    text = weights.removeprefix(RANDOM)
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise _refused("random:SEED with a whole number", "another text")
    return int(text)


def _draw(trunk: PatchTrunk, seed: int) -> None:
    """He initialisation from a generator of its own; normalisation layers are as they are made."""
    generator = torch.Generator().manual_seed(seed)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode="fan_out", nonlinearity="relu", generator=generator
            )


def _fill(trunk: PatchTrunk, given: Mapping[str, Tensor]) -> None:
    """Copy what the trunk needs; stage 4 and the classifier of a whole ResNet-34 are left.

    Raises:
        SiteError: a tensor is missing or has another shape.
    """
    wanted = trunk.state_dict()
    filled, missing = {}, 0
    for name, place in wanted.items():
        value = given.get(name.removeprefix("stages."), given.get(name))
        if name.endswith("num_batches_tracked"):
            filled[name] = place
        elif value is None or value.shape != place.shape or not bool(value.isfinite().all()):
            missing += 1
        else:
            filled[name] = value.to(torch.float32)
    if missing:
        got = f"{missing} of {len(wanted)} tensors missing, of another shape or not finite"
        raise _refused("the weights of torchvision's ResNet-34", got)
    trunk.load_state_dict(filled)


def _file(weights: str) -> Path:
    """The file of the weights; nothing is ever downloaded.

    Raises:
        SiteError: it is not there.
    """
    if weights in ResNet34_Weights.__members__:
        name = ResNet34_Weights[weights].url.rpartition("/")[2]
        path = Path(str(torch.hub.get_dir())) / "checkpoints" / str(name)
        if not path.is_file():
            raise _refused(f"'{name}' in the torch cache", "no such file")
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest()
        if not whole.startswith(path.stem.rpartition("-")[2]):  # torch names files for their hash
            raise _refused(f"'{name}' with the hash in its name", "another hash")
        return path
    if not Path(weights).is_file():
        names = ", ".join(ResNet34_Weights.__members__)
        raise _refused(f"a file of weights, {names} or random:SEED", "none of these")
    return Path(weights)


def _refused(expected: str, got: str) -> SiteError:
    return SiteError(
        expected=expected,
        got=got,
        remedy="bring the file of weights that the study's sites agreed on, with its SHA-256, and "
        "name it with --weights; nothing is downloaded here",
    )
