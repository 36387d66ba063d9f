"""Connections whose request takes too long to arrive."""

from __future__ import annotations

import socket

import pytest

from uniqueid.arrival import PATIENCE, Arrival, ports


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (b":8051", [8051]),
        ([b"127.0.0.1:80", b"[::1]:81"], [80, 81]),
        (b"/run/uniqueid.sock", []),
        (None, []),
    ],
)
def test_the_ports_of_uwsgis_option(addresses: object, expected: list[int]) -> None:
    """As uWSGI has it: bytes, or a list where it was given more than once."""
    assert ports(addresses) == expected


def test_only_the_reading_side_is_shut_and_only_of_the_servers_own_connections() -> None:
    """The server reads the end of it, and can still answer; the listener and others stay whole."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("", 0)) as other:
        arrival = Arrival([server.getsockname()[1]])
        with (
            socket.create_connection(server.getsockname()) as client,
            socket.create_connection(("127.0.0.1", other.getsockname()[1])) as elsewhere,
            server.accept()[0] as here,
            other.accept()[0] as there,
        ):
            here.settimeout(30)
            there.setblocking(False)
            for _look in range(PATIENCE):
                arrival.look()
            client.sendall(b"slow")
            assert here.recv(10) == b"slow"
            arrival.look()
            assert here.recv(10) == b""
            here.sendall(b"answer")
            assert client.recv(10) == b"answer"
            with pytest.raises(BlockingIOError):
                there.recv(10)
            elsewhere.sendall(b"as before")
            there.settimeout(30)
            assert there.recv(10) == b"as before"
        with socket.create_connection(server.getsockname()) as late, server.accept()[0] as here:
            arrival.look()
            late.sendall(b"quick")
            here.settimeout(30)
            assert here.recv(10) == b"quick"
