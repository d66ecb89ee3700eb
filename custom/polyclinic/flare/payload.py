"""What one site may bring into the memory of the server's job, and what its transfer may break.

FLARE 2.9 bounds a message at 2 GB, unpacks arrays by the size their header claims, and ends the
whole job (``os._exit``) when one site's update cannot be fetched or decoded: a site that dies while
its weights are on their way takes the others with it. No setting changes the last, so these wraps
do, in the server's job process only:

* a message larger than the limit is refused while it comes, before it is decoded;
* arrays beyond the limit, or whose header claims another size than came, are not unpacked;
* what could not be fetched becomes arrays of nothing, which the guard refuses as a wrong shape,
  and what could not be decoded is dropped, so that its site is late.

They use members that FLARE does not promise to keep; tests/flare/test_payload.py pins them.
"""

import io
import logging
import math
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.app_common.np import np_downloader
from nvflare.fuel.f3.cellnet import cell as cellnet
from nvflare.fuel.f3.streaming import blob_streamer
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.private.defs import CellChannel
from nvflare.private.fed.server.server_commands import ServerCommandNames

Array = npt.NDArray[Any]

log = logging.getLogger(__name__)

# Two copies of an update, and what FLARE says around it.
COPIES, AROUND = 2, 16 << 20
# What an array takes beside its numbers.
ITEM = 256
NOTHING: Array = np.zeros(0, dtype=np.float32)

_stock: dict[str, Any] = {}
_most = 0


def largest_message(update_bytes: int) -> int:
    """Bytes that a message to the server may have when an update has ``update_bytes``."""
    return COPIES * update_bytes + AROUND


def bear_with_payloads(most: int) -> None:
    """Hold every message to this process to ``most`` bytes and survive what cannot be read."""
    global _most
    _most = most
    if _stock:
        return
    _stock.update(
        decode=cellnet.decode_payload,
        fetch=np_downloader.download_arrays,
    )
    # Not the handler: its bound methods are registered before a job's process comes here.
    blob_streamer.BlobTask = BoundedTask
    cellnet.decode_payload = _decoded
    NumpyArrayDecomposer.download = _fetched
    NumpyArrayDecomposer.native_recompose = _recomposed
    np_downloader.ArrayConsumer.consume_items = _consumed


class BoundedTask(blob_streamer.BlobTask):
    """A message on its way; FLARE refuses it when its declared or its real size is over ours."""

    def __init__(
        self, future: Any, stream: Any, max_size: int = 0, preserve_chunks: bool = False
    ) -> None:
        super().__init__(future, stream, min(max_size or _most, _most), preserve_chunks)


class Fetched(Mapping[str, Array]):
    """Arrays by the id of their item; an item that is not there is an array of nothing."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)

    def __getitem__(self, item: str) -> Array:
        return self._arrays.get(item, NOTHING)

    def __contains__(self, item: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def _fetched(self: Any, *args: Any, fobs_ctx: object = None, **kwargs: Any) -> tuple[str, Fetched]:
    """The arrays of one message; without an error whatever happened on their way."""
    try:
        error, arrays = _stock["fetch"](*args, **kwargs)
    except Exception as problem:
        error, arrays = type(problem).__name__, None
    if error:
        # The text is the sender's; only that it failed is ours to say.
        log.warning("arrays of a message were not fetched; they count as arrays of nothing")
    return "", Fetched({} if error or not arrays else arrays)


def _consumed(self: Any, items: list[bytes], result: dict[str, Array] | None) -> dict[str, Array]:
    """One chunk's arrays added to those before; beyond the limit they are arrays of nothing."""
    arrays = {} if result is None else result
    taken: int = getattr(self, "polyclinic_taken", 0)
    for item in items:
        for name, value in unpacked(item, _most - taken).items():
            taken += value.nbytes + ITEM
            if taken <= _most:  # a name without numbers takes memory, too
                arrays[name] = value
    self.polyclinic_taken = taken
    return arrays


def unpacked(item: bytes, most: int) -> dict[str, Array]:
    """Arrays of one ``npz``, of ``most`` bytes together; those that do not fit are of nothing."""
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(item)) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                found[name] = NOTHING
                stored = entry.compress_type == zipfile.ZIP_STORED
                if stored and entry.file_size <= min(most, len(item)):
                    found[name] = array_of(archive.read(entry))
                    most -= found[name].nbytes
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        return found
    return found


def array_of(data: bytes) -> Array:
    """The array of one ``npy``, or an array of nothing when its header claims what is not there."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = (
            np.lib.format.read_array_header_1_0(stream)
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0(stream)
        )
        shape, _, dtype = header
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            return NOTHING
        stream.seek(0)
        array: Array = np.load(stream, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TypeError):
        return NOTHING
    return array


def _recomposed(self: Any, data: bytes, manager: Any = None) -> Array:
    """An array that came inside the message itself, which was within the limit."""
    return array_of(data)


def _decoded(message: Any, encoding_key: str = "", fobs_ctx: Any = None) -> None:
    """FLARE's decoding; an update that cannot be decoded becomes one that FLARE drops."""
    try:
        if encoding_key:
            _stock["decode"](message, encoding_key, fobs_ctx=fobs_ctx)
        else:
            _stock["decode"](message, fobs_ctx=fobs_ctx)
    except Exception:
        route = (
            message.get_header(StreamHeaderKey.CHANNEL),
            message.get_header(StreamHeaderKey.TOPIC),
        )
        if route != (CellChannel.SERVER_COMMAND, ServerCommandNames.SUBMIT_UPDATE):
            raise
        log.warning("an update could not be decoded; it is dropped")
        message.payload = _dropped()
        message.remove_header(encoding_key)


def _dropped() -> Shareable:
    """A submission of no job: FLARE says so in its log and goes on."""
    nothing = Shareable()
    nothing.set_peer_context(FLContext())
    return nothing
