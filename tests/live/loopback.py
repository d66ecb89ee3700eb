"""A network of the tests' own, and patience with a limit."""

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

_NEW_NETWORK = 0x40000000
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1


def enter_own_network() -> bool:
    """True when this process, and all it starts from now on, see a loopback of their own.

    Needs root; elsewhere the tests share the machine's loopback with free ports.
    """
    if os.environ.get("POLYCLINIC_OWN_NETWORK") == str(os.getpid()):
        return True
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        return False
    _raise_loopback()
    os.environ["POLYCLINIC_OWN_NETWORK"] = str(os.getpid())
    return True


def _raise_loopback() -> None:
    """Bring ``lo`` up, by the system call that ``ip link set lo up`` makes; ip may be missing."""
    with socket.socket() as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _GET_FLAGS, request))[1]
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of ``condition``; an AssertionError that names ``what`` otherwise."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.25)
