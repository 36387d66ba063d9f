"""Connections whose request takes too long to arrive."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from uniqueid.runtime.request_timeout import (
    TIMEOUT,
    RequestReadTimeout,
    ports,
    raise_listen_backlog,
)


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


def test_the_kernel_holds_as_many_connections_as_it_may() -> None:
    """At the ports that are named and no others; nothing is left open by the search."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1) as server,
        socket.create_server(("127.0.0.1", 0), backlog=1) as other,
    ):
        before = len(os.listdir("/proc/self/fd"))
        raise_listen_backlog([server.getsockname()[1]])
        assert len(os.listdir("/proc/self/fd")) == before
        allowed = int(Path("/proc/sys/net/core/somaxconn").read_text())
        assert backlog(server) == min(4096, allowed)
        assert backlog(other) == 1


def backlog(server: socket.socket) -> int:
    """How many connections the kernel holds for a listening socket, as ss(8) shows it."""
    port = server.getsockname()[1]
    text = subprocess.run(
        ["ss", "-Hltn", f"sport = :{port}"], check=True, capture_output=True, text=True
    ).stdout
    return int(text.split()[2])


def test_only_the_reading_side_is_shut_and_only_of_the_servers_own_connections() -> None:
    """The server reads the end of it, and can still answer; the listener and others stay whole."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("", 0)) as other:
        timeout = RequestReadTimeout([server.getsockname()[1]])
        with (
            socket.create_connection(server.getsockname()) as client,
            socket.create_connection(("127.0.0.1", other.getsockname()[1])) as elsewhere,
            server.accept()[0] as here,
            other.accept()[0] as there,
        ):
            here.settimeout(30)
            there.setblocking(False)
            for _look in range(TIMEOUT):
                timeout.check()
            client.sendall(b"slow")
            assert here.recv(10) == b"slow"
            timeout.check()
            assert here.recv(10) == b""
            here.sendall(b"answer")
            assert client.recv(10) == b"answer"
            with pytest.raises(BlockingIOError):
                there.recv(10)
            elsewhere.sendall(b"as before")
            there.settimeout(30)
            assert there.recv(10) == b"as before"
        with socket.create_connection(server.getsockname()) as late, server.accept()[0] as here:
            timeout.check()
            late.sendall(b"quick")
            here.settimeout(30)
            assert here.recv(10) == b"quick"
