"""The counting relay passes everything on and counts what it passed."""

import socket
import threading

from relay import DOWN, UP, Relay

SENT, ANSWERED = 200_000, 70_000


def serve_once(listener: socket.socket) -> None:
    """Read to the end, then answer."""
    connection, _ = listener.accept()
    with connection:
        got = 0
        while data := connection.recv(4096):
            got += len(data)
        connection.sendall(b"y" * (ANSWERED if got == SENT else 1))


def test_what_passes_is_counted_in_its_direction() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve_once, args=(listener,))
        server.start()
        relay = Relay(listener.getsockname()[1])
        with socket.create_connection(("127.0.0.1", relay.port)) as site:
            site.sendall(b"x" * SENT)
            site.shutdown(socket.SHUT_WR)
            received = 0
            while data := site.recv(4096):
                received += len(data)
        server.join(5)
        relay.close()
    assert received == ANSWERED
    assert sum(n for _, d, n in relay.passed if d == UP) == SENT
    assert sum(n for _, d, n in relay.passed if d == DOWN) == ANSWERED


def test_a_closed_relay_takes_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = Relay(listener.getsockname()[1])
        relay.close()
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", relay.port)) != 0
