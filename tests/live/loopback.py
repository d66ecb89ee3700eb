"""A network of the tests' own, and patience with a limit."""

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

_NEW_NETWORK = 0x40000000


def enter_own_network() -> bool:
    """True when this process, and all it starts from now on, see a loopback of their own.

    Needs root; elsewhere the tests share the machine's loopback with free ports.
    """
    if os.environ.get("POLYCLINIC_OWN_NETWORK") == str(os.getpid()):
        return True
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.environ["POLYCLINIC_OWN_NETWORK"] = str(os.getpid())
    return True


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
