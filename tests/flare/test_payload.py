"""F20: what a site sends is bounded before it is unpacked, and cannot end the server's job."""

import inspect
import io
import zipfile
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.app_common.np import np_downloader
from nvflare.app_common.np.np_downloader import ArrayConsumer, ArrayDownloadable
from nvflare.fuel.f3.cellnet import cell as cellnet
from nvflare.fuel.f3.cellnet.defs import Encoding
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming import blob_streamer
from nvflare.fuel.f3.streaming.blob_streamer import BlobHandler
from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
from nvflare.private.defs import CellChannel
from nvflare.private.fed.server.server_commands import ServerCommandNames

from polyclinic.flare import payload
from polyclinic.flare.payload import Fetched, array_of, bear_with_payloads, unpacked

MIB = 1 << 20
# As FLARE has them: a test that runs before these may have put the wraps in place.
STOCK = {
    "download": NumpyArrayDecomposer.download,
    "consume": ArrayConsumer.consume_items,
    "decode": cellnet.decode_payload,
}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Wrapped for messages of at most 1 MiB, and FLARE as it was afterwards."""
    places = [
        (blob_streamer, "BlobTask"),
        (cellnet, "decode_payload"),
        (NumpyArrayDecomposer, "download"),
        (NumpyArrayDecomposer, "native_recompose"),
        (ArrayConsumer, "consume_items"),
    ]
    before = [getattr(owner, name) for owner, name in places]
    stock, most = dict(payload._stock), payload._most
    bear_with_payloads(MIB)
    yield
    for (owner, name), value in zip(places, before, strict=True):
        setattr(owner, name, value)
    payload._stock.clear()
    payload._stock.update(stock)
    payload._most = most


def sent(arrays: dict[str, np.ndarray]) -> list[bytes]:
    """The chunks that FLARE makes of arrays."""
    whole = ArrayDownloadable(arrays, 2 * MIB)
    return [whole.produce_item(i) for i in range(whole.get_item_count())]


def consumer() -> ArrayConsumer:
    return ArrayConsumer(None, {})


def lying(shape: tuple[int, ...], data: bytes = b"1234") -> bytes:
    """An ``npy`` whose header claims another shape than its data have."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue() + data


def test_arrays_within_the_limit_come_as_they_were_sent(bounded: None) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.zeros((0, 4), np.int64),
        "c": np.array(2.5),
        "d": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    }
    got = consumer().consume_items(sent(arrays), None)
    assert got.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].dtype == value.dtype


def test_f20_arrays_beyond_the_limit_are_of_nothing_over_all_chunks_together(
    bounded: None,
) -> None:
    many = {f"t{i}": np.ones(MIB // 16, np.float32) for i in range(6)}  # 256 KiB each
    receiving, got = consumer(), None
    for chunk in sent(many):
        got = receiving.consume_items([chunk], got)
    assert got is not None
    assert got.keys() == many.keys()
    sizes = [value.nbytes for value in got.values()]
    # An npy is its data and 128 bytes of header, so the fourth does not fit any more.
    assert sizes == [MIB // 4] * 3 + [0] * 3


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 30, 4), (2,), (0,)])
def test_f20_a_header_that_claims_another_size_allocates_nothing(shape: tuple[int, ...]) -> None:
    assert array_of(lying(shape)).size == 0
    assert array_of(lying((1,))).size == 1


def test_f20_a_compressed_bomb_is_not_inflated() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.npy", lying((MIB * 16,), bytes(MIB * 64)))
    assert unpacked(stream.getvalue(), 1 << 40)["t"].size == 0


@pytest.mark.parametrize("item", [b"", b"PK", b"garbage" * 10, lying((1,))])
def test_what_is_no_archive_gives_no_arrays(item: bytes) -> None:
    assert unpacked(item, MIB) == {}


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"\x93NUMPY\x09\x09", b"x" * 50])
def test_what_is_no_array_is_an_array_of_nothing(data: bytes) -> None:
    assert array_of(data).size == 0


def test_an_array_of_objects_is_not_unpickled() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert array_of(stream.getvalue()).size == 0


@pytest.mark.parametrize("ends", ["error", "exception"])
def test_f20_arrays_that_could_not_be_fetched_are_of_nothing_and_raise_nothing(
    bounded: None, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    def fetch(**_: Any) -> tuple[str, None]:
        if ends == "exception":
            raise RuntimeError("the site is gone")
        return "site gone", None

    monkeypatch.setitem(payload._stock, "fetch", fetch)
    error, items = NumpyArrayDecomposer().download("site-1", "ref", 1.0, None)  # type: ignore[arg-type]
    assert error == ""
    assert "whatever" in items
    assert items["whatever"].size == 0


def test_fetched_arrays_are_a_mapping_of_what_came() -> None:
    there = Fetched({"a": np.ones(2)})
    assert dict(there).keys() == {"a"}
    assert len(there) == 1
    assert there.get("a") is there["a"]


def message(topic: str) -> Message:
    headers = {
        StreamHeaderKey.CHANNEL: CellChannel.SERVER_COMMAND,
        StreamHeaderKey.TOPIC: topic,
        StreamHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS,
    }
    return Message(headers, b"garbage")


def test_an_update_that_cannot_be_decoded_becomes_one_of_no_job(bounded: None) -> None:
    update = message(ServerCommandNames.SUBMIT_UPDATE)
    cellnet.decode_payload(update, StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx={})
    assert isinstance(update.payload, Shareable)
    assert not update.payload.get_peer_context().get_job_id()
    assert update.get_header(StreamHeaderKey.PAYLOAD_ENCODING) is None


def test_any_other_message_that_cannot_be_decoded_is_flares_affair(bounded: None) -> None:
    with pytest.raises(Exception, match=r".+"):
        cellnet.decode_payload(
            message(ServerCommandNames.GET_TASK), StreamHeaderKey.PAYLOAD_ENCODING, fobs_ctx={}
        )


@pytest.mark.parametrize("encoding", [None, Encoding.FOBS])
def test_f20_a_message_is_refused_by_the_size_it_declares(
    request: pytest.FixtureRequest, encoding: str | None
) -> None:
    # The handler of a running job is made, and its method registered, before it is bounded.
    handler = BlobHandler(lambda future, *args: None)
    received = handler.handle_blob_cb
    request.getfixturevalue("bounded")
    failed: list[Exception] = []
    stream = SimpleNamespace(
        headers={StreamHeaderKey.PAYLOAD_ENCODING: encoding},
        get_size=lambda: 2 << 30,
        task=SimpleNamespace(stop=failed.append),
    )
    received(SimpleNamespace(set_exception=failed.append), stream, False)
    assert len(failed) == 1
    assert f"{2 << 30} exceeds configured limit {MIB}" in str(failed[0])


def test_the_members_of_flare_that_this_rests_on_are_there() -> None:
    assert "os._exit(1)" in inspect.getsource(cellnet.Adapter.call)  # the reason for the wraps
    assert "= BlobTask(" in inspect.getsource(BlobHandler.handle_blob_cb)
    parameters = inspect.signature(STOCK["download"]).parameters
    assert {"from_fqcn", "ref_id", "per_request_timeout", "cell"} <= set(parameters)
    assert list(inspect.signature(STOCK["consume"]).parameters) == [
        "self",
        "items",
        "result",
    ]
    assert list(inspect.signature(STOCK["decode"]).parameters) == [
        "message",
        "encoding_key",
        "fobs_ctx",
    ]
    assert "download_arrays(" in inspect.getsource(STOCK["download"])
    assert callable(np_downloader.download_arrays)


def test_names_without_numbers_do_not_fill_memory_either(bounded: None) -> None:
    receiving, got = consumer(), None
    empty = np.zeros(0, np.float32)
    for start in range(0, 3 * MIB // payload.ITEM, 512):
        chunk = sent({f"t{start + i}": empty for i in range(512)})
        for item in chunk:
            got = receiving.consume_items([item], got)
    assert got is not None
    assert len(got) <= payload._most // payload.ITEM
    assert payload.Fetched(got)["another"].size == 0
