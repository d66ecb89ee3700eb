"""Is the server's port free? When it is not FLARE says 'Server started' all the same."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil

from polyclinic.flare.doctor.kit import Finding, Kit, failed

_SERVER = "nvflare.private.fed.app.server.server_train"


def server_port(kit: Kit) -> Iterator[Finding]:
    """Nothing but this kit's own server listens where the server is to listen."""
    server = (kit.config.get("servers") or [{}])[0]
    port = int(str(server.get("service", {}).get("target", "")).rpartition(":")[2])
    why = _refusal(port)
    if why == errno.EADDRINUSE and not _runs_already(kit):
        what = f"expected port {port} to be free, got another process on it"
        remedy = "stop it, or have the port changed in the consortium's description"
        yield failed("server-port", what, remedy, "site IT")
    elif why and why != errno.EADDRINUSE:
        what = f"expected port {port} to be open to this account, got {errno.errorcode.get(why)}"
        remedy = "choose a port above 1023 in the consortium's description"
        yield failed("server-port", what, remedy, "site IT")


def _refusal(port: int) -> int:
    """The system's reason not to lend a port on all addresses, or 0."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the server itself does: a connection that just ended does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def _runs_already(kit: Kit) -> bool:
    """True when a FLARE server was started from this kit; it then holds the port by right."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if _SERVER in words and any((Path(w) / "startup").resolve() == kit.startup for w in words):
            return True
    return False
