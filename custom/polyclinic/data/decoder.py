"""Decoded pixels of a compressed film, from a process of their own that may crash.

The process is started at the first compressed film and then stays: a film costs its decoding and
one copy through a pipe. When it crashes or hangs, that film is refused and the next one starts a
new process.
"""

import atexit
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from polyclinic.data.flaw import Flaw
from polyclinic.data.quarantine import REASONS
from polyclinic.errors import SiteError

CODEC = Path(__file__).with_name("codec.py")
FRAME = struct.Struct(">LQ")
READY = b"ready"
START_SECONDS = 120.0
# A film is given up after this: the slowest codec takes 1 s for a million pixels on a busy core.
BASE_SECONDS, SECONDS_PER_PIXEL = 5.0, 5e-6
DTYPES = frozenset({"|u1", "|i1", "<u2", "<i2", "<u4", "<i4"})
MAX_ANSWER_WORDS = 4096


class Decoder:
    """One process that decodes, used by one thread at a time.

    Args:
        program: that the process runs.
        seconds: that any film may take, beside ``SECONDS_PER_PIXEL``.
    """

    def __init__(self, program: Path = CODEC, seconds: float = BASE_SECONDS) -> None:
        self._program, self._seconds = program, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def decode(
        self, asked: dict[str, Any], value: bytes | memoryview
    ) -> tuple[npt.NDArray[Any], str]:
        """The frame as integers, (rows, columns) or (rows, columns, 3), and its photometric.

        Args:
            asked: the numbers that describe the pixels, as ``codec.py`` takes them.

        Raises:
            Flaw: with a reason code; also when the codec crashed or took too long.
            SiteError: the process cannot be started.
        """
        seconds = self._seconds + SECONDS_PER_PIXEL * asked["rows"] * asked["columns"]
        with self._lock:
            process = self._running()
            try:
                with _deadline(process, seconds):
                    told, pixels = _exchange(process, asked, value)
            except (OSError, EOFError, ValueError):
                self._stop()
                raise Flaw("unreadable", "the codec crashed or took too long") from None
        return _checked(told, pixels, asked)

    def close(self) -> None:
        """End the process; the next film starts another."""
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[bytes]:
        """The process, started if there is none; after a fork its pipes belong to the parent."""
        process = self._process
        if process is not None and self._owner == os.getpid() and process.poll() is None:
            return process
        self._process, self._owner = _started(self._program), os.getpid()
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()


def _started(program: Path) -> subprocess.Popen[bytes]:
    """A process that said it is ready.

    Raises:
        SiteError: it did not.
    """
    process = subprocess.Popen(
        # -P: its folder has modules named like those of other packages.
        [sys.executable, "-P", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with _deadline(process, START_SECONDS):
        said = _pipe(process.stdout).read(len(READY))
    if said != READY:
        process.kill()
        process.communicate()
        raise SiteError(
            expected="a process that decodes compressed pixels",
            got="one that did not start",
            remedy="install the package's requirements, and allow it 4 GiB of address space",
        )
    return process


@contextlib.contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """A block after which the process is killed if it lasts longer; its pipe then ends."""
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _exchange(
    process: subprocess.Popen[bytes], asked: dict[str, Any], value: bytes | memoryview
) -> tuple[Any, bytes]:
    """One request and its answer.

    Raises:
        OSError, EOFError, ValueError: the process ended, or answers what it should not.
    """
    text = json.dumps(asked).encode()
    sink, source = _pipe(process.stdin), _pipe(process.stdout)
    sink.write(FRAME.pack(len(text), len(value)) + text)
    sink.write(value)
    sink.flush()
    head = source.read(FRAME.size)
    if len(head) < FRAME.size:
        raise EOFError
    words, bulk = FRAME.unpack(head)
    # Hostile pixels may have taken the process over: its answer is bounded too.
    if words > MAX_ANSWER_WORDS or bulk > 4 * _samples(asked):
        raise ValueError
    told, pixels = json.loads(source.read(words)), source.read(bulk)
    if len(pixels) < bulk or not isinstance(told, dict):
        raise EOFError
    return told, pixels


def _checked(told: Any, pixels: bytes, asked: dict[str, Any]) -> tuple[npt.NDArray[Any], str]:
    """The answer as an array, if it is one that was asked for."""
    if "reason" in told:
        reason = told["reason"] if told["reason"] in REASONS else "unreadable"
        raise Flaw(reason, str(told.get("got", ""))[:80])
    colour = (3,) if asked["samples_per_pixel"] == 3 else ()
    shape = (asked["rows"], asked["columns"], *colour)
    dtype = told.get("dtype")
    if dtype not in DTYPES or len(pixels) != np.dtype(dtype).itemsize * _samples(asked):
        raise Flaw("bad_header", "decoded pixels of another size")
    return np.frombuffer(pixels, dtype).reshape(shape), str(told.get("photometric", ""))


def _samples(asked: dict[str, Any]) -> int:
    return int(asked["rows"] * asked["columns"] * asked["samples_per_pixel"])


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """A pipe that Popen opened."""
    if pipe is None:
        raise EOFError
    return pipe


class Decoders:
    """As many processes as threads decode at the same time; one where films come one by one."""

    def __init__(self) -> None:
        self._free: list[Decoder] = []
        self._lock = threading.Lock()

    def decode(
        self, asked: dict[str, Any], value: bytes | memoryview
    ) -> tuple[npt.NDArray[Any], str]:
        """As ``Decoder.decode``, by one that is free."""
        with self._lock:
            decoder = self._free.pop() if self._free else Decoder()
        try:
            return decoder.decode(asked, value)
        finally:
            with self._lock:
                self._free.append(decoder)

    def close(self) -> None:
        """End the processes that are free."""
        with self._lock:
            free, self._free = self._free, []
        for decoder in free:
            decoder.close()


DECODER = Decoders()
atexit.register(DECODER.close)
