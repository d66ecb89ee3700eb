"""A TCP relay that counts: bytes on the wire, up and down, with the time they passed.

What it counts is what the network would carry for one site: TLS records with everything in them
(HTTP/2 and grpc frames, FLARE's message headers, heartbeats, polling, the tensors). Only TCP/IP
headers are missing.
"""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field

UP, DOWN = "up", "down"
_CHUNK = 1 << 16


@dataclass
class Relay:
    """Forwards connections from a port of its own on loopback to another.

    Attributes:
        target: port that connections are forwarded to.
        port: where it listens; a free one is taken.
        passed: (time.time(), ``up`` or ``down``, bytes), in the order they passed.
    """

    target: int
    port: int = 0
    passed: list[tuple[float, str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # the server is not up yet; the site tries again
                    near.close()
                    continue
                self._open += [near, far]
                for source, sink, direction in ((near, far, UP), (far, near, DOWN)):
                    # A held-back small packet would be a delay that the network does not have.
                    sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    arguments = (source, sink, direction)
                    threading.Thread(target=self._pump, args=arguments, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        """Copy until one side ends, then end the other's reading."""
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                self.passed.append((time.time(), direction, len(data)))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
