"""Weights from a file: tensors only, of a known hash, and never code.

A file of weights travels between people, and torch's old format is a pickle, which is a program.
Here a file is measured, hashed and compared before anything in it is read; safetensors and torch's
``weights_only`` reader build tensors and refuse everything else. Nothing is downloaded.

A study names weights by an id and a hash, and whoever draws first weights (the server; a site for
what it does not share) says where that file lies. A job therefore names no path, and there is no
other road than that file: without it a run ends, it never starts from random weights instead.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor

from polyclinic.errors import SiteError

MAX_BYTES = 4 << 30
SHA256 = re.compile(r"[0-9a-f]{64}")
# Under which common checkpoints keep the weights, beside epochs and optimisers.
NESTED = ("state_dict", "model_state_dict", "model")

_places: ContextVar[Mapping[str, str]] = ContextVar("weights", default={})  # noqa: B039


@contextmanager
def weights_at(places: Mapping[str, str]) -> Iterator[None]:
    """Find stated weights in these files, by id, inside this context."""
    token = _places.set(places)
    try:
        yield
    finally:
        _places.reset(token)


def stated_weights(name: str, sha256: str) -> dict[str, Tensor]:
    """The tensors of the weights that a study names.

    Raises:
        SiteError: nobody said where they lie, or the file there is another.
    """
    place = _places.get().get(name)
    if place is None:
        raise _refused(f"a file for the weights '{name}'", "none under 'weights'")
    return load_weights(Path(place), sha256)


def load_weights(path: Path, sha256: str = "") -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; all finite.

    Args:
        path: safetensors, or what ``torch.save`` wrote of a dictionary of tensors.
        sha256: of the whole file in hex; "" takes any file, for a user at a terminal.

    Guarantees:
      - A file of another hash is not parsed.
      - No code of the file runs: a pickle that names anything but tensors is refused.
      - Neither the file nor what it unpacks to is larger than ``MAX_BYTES``.

    Raises:
        SiteError: one of these does not hold, or the file is not there; never with its path.
    """
    raw = _bytes(path, sha256)
    tensors = _safetensors(raw) if path.suffix.lower() == ".safetensors" else _pickled(raw)
    for value in tensors.values():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise _refused("finite weights", "NaN or infinity")
    return tensors


def _bytes(path: Path, sha256: str) -> bytes:
    """The content of a file of the right size and hash."""
    if sha256 and not SHA256.fullmatch(sha256.lower()):
        raise _refused("a SHA-256 of 64 hexadecimal digits", f"{len(sha256)} characters")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused("a readable file of weights", type(error).__name__) from None
    if len(raw) > MAX_BYTES:
        raise _refused(f"at most {MAX_BYTES >> 30} GiB of weights", "more")
    if sha256 and hashlib.sha256(raw).hexdigest() != sha256.lower():
        raise _refused("the stated SHA-256", "another file")
    return raw


def _safetensors(raw: bytes) -> dict[str, Tensor]:
    try:
        return dict(read_safetensors(raw))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _refused("safetensors", type(error).__name__) from None


def _pickled(raw: bytes) -> dict[str, Tensor]:
    """The tensors of a file of ``torch.save``."""
    stream = io.BytesIO(raw)
    try:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                # A record may be compressed, and inflate to anything.
                if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise _refused(f"at most {MAX_BYTES >> 30} GiB of weights", "more")
        stream.seek(0)
        content = torch.load(stream, map_location="cpu", weights_only=True)
    except SiteError:
        raise
    except Exception as error:
        # A damaged or hostile file makes torch raise nearly anything; the text may quote the file.
        got = f"something else ({type(error).__name__})"
        raise _refused("tensors, and no code, in a torch file", got) from None
    for name in NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content:
        raise _refused("a dictionary of tensors", type(content).__name__)
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()):
        raise _refused("tensors by name", "other values among them")
    # A tensor may claim a shape that its storage repeats without end.
    if sum(v.numel() * v.element_size() for v in content.values()) > MAX_BYTES:
        raise _refused(f"at most {MAX_BYTES >> 30} GiB of weights", "more")
    return {k.removeprefix("module."): v.detach().contiguous() for k, v in content.items()}


def _refused(expected: str, got: str) -> SiteError:
    return SiteError(
        expected=expected,
        got=got,
        remedy="bring the file that the study names, and say where it lies under 'weights' (a "
        "site in polyclinic.yaml, the server in local/weights.yaml); nothing is downloaded here",
    )
