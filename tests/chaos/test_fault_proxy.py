"""The proxy itself: what it delays, in which direction, and that it delivers it afterwards."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import servers
from fault_proxy import (
    Proxy,
    answer_is_late,
    commit_answer_is_lost,
    commits_itself,
    is_commit,
    never_arrives,
)

COMMIT = b"\x03COMMIT"


class Pause:
    """Notes how long a piece is to be kept, and keeps it until the gate is opened."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.gate = threading.Event()

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        assert self.gate.wait(servers.START_TIMEOUT)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Pair:
    """A client and the server at the other end of the proxy."""

    def __init__(self, listener: socket.socket, proxy: Proxy) -> None:
        self.client = socket.create_connection(("127.0.0.1", proxy.port))
        self.server, _address = listener.accept()
        for end in (self.client, self.server):
            end.settimeout(servers.START_TIMEOUT)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_args: object) -> None:
        self.client.close()
        self.server.close()


def arrived(end: socket.socket) -> bool:
    """Whether there is something to read."""
    end.setblocking(False)
    try:
        return bool(end.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        end.settimeout(servers.START_TIMEOUT)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_piece_is_kept_in_one_direction(listener: socket.socket, direction: str) -> None:
    """For a time within the bounds, then delivered; the other direction is as fast as ever."""
    pause = Pause()
    with Proxy(listener.getsockname()[1], pause) as proxy, Pair(listener, proxy) as pair:
        proxy.delay(direction, 0.05, 0.15)
        slow = (pair.client, pair.server) if direction == "up" else (pair.server, pair.client)
        fast = slow[::-1]
        slow[0].sendall(b"slow")
        servers.wait_until(lambda: pause.seconds, "the piece being kept")
        assert 0.05 <= pause.seconds[0] <= 0.15
        fast[0].sendall(b"fast")
        assert fast[1].recv(10) == b"fast"
        assert not arrived(slow[1])
        pause.gate.set()
        assert slow[1].recv(10) == b"slow"
        proxy.delay(direction, 0, 0)
        slow[0].sendall(b"as before")
        assert slow[1].recv(10) == b"as before"
        assert len(pause.seconds) == 1


def test_the_answer_of_a_commit_is_late_and_delivered(listener: socket.socket) -> None:
    """Of as many as there are shots; what is no COMMIT passes."""
    pause = Pause()
    with Proxy(listener.getsockname()[1], pause) as proxy, Pair(listener, proxy) as pair:
        proxy.arm(answer_is_late(is_commit, 3), 1)
        pair.client.sendall(b"\x03SELECT")
        assert pair.server.recv(10) == b"\x03SELECT"
        pair.server.sendall(b"row")
        assert pair.client.recv(10) == b"row"
        pair.client.sendall(COMMIT)
        assert pair.server.recv(10) == COMMIT
        pair.server.sendall(b"done")
        servers.wait_until(lambda: pause.seconds == [3], "the answer being kept")
        assert not arrived(pair.client)
        assert proxy.fired == 0
        pause.gate.set()
        assert pair.client.recv(10) == b"done"
        assert proxy.fired == 1
        pair.client.sendall(COMMIT)
        assert pair.server.recv(10) == COMMIT
        pair.server.sendall(b"done")
        assert pair.client.recv(10) == b"done"
        assert pause.seconds == [3]


def test_the_answer_of_a_commit_is_lost(listener: socket.socket) -> None:
    """The COMMIT arrives, and the client sees the connection end."""
    with Proxy(listener.getsockname()[1]) as proxy, Pair(listener, proxy) as pair:
        proxy.arm(commit_answer_is_lost, 1)
        pair.client.sendall(COMMIT)
        assert pair.server.recv(10) == COMMIT
        pair.server.sendall(b"done")
        with contextlib.suppress(ConnectionResetError):
            assert pair.client.recv(10) == b""
        assert proxy.fired == 1


def simple_query(text: bytes) -> bytes:
    """As PostgreSQL's clients send it."""
    return b"Q" + (len(text) + 5).to_bytes(4, "big") + text + b"\x00"


@pytest.mark.parametrize(
    ("before", "after", "update"),
    [
        (
            b"\x16\x00\x00\x00\x03SET AUTOCOMMIT = 0",
            [b"\x07\x00\x00\x00\x03COMMIT", b"\x16\x00\x00\x00\x03SET AUTOCOMMIT = 1"],
            b"\x03UPDATE `uniqueindex` SET `index` = 2",
        ),
        (
            simple_query(b"BEGIN ISOLATION LEVEL SERIALIZABLE"),
            [simple_query(b"COMMIT")],
            simple_query(b'UPDATE "uniqueindex" SET "index" = 2'),
        ),
        (
            simple_query(b"BEGIN ISOLATION LEVEL SERIALIZABLE"),
            [simple_query(b"ROLLBACK")],
            simple_query(b'UPDATE "uniqueindex" SET "index" = 2'),
        ),
    ],
    ids=["mysql", "postgresql", "postgresql_rollback"],
)
def test_an_update_that_commits_itself_never_arrives(
    listener: socket.socket, before: bytes, after: list[bytes], update: bytes
) -> None:
    """One of a transaction passes, with its COMMIT; the next without one is cut."""
    with Proxy(listener.getsockname()[1]) as proxy, Pair(listener, proxy) as pair:
        proxy.arm(never_arrives(commits_itself), 1)
        for chunk in (before, update, *after):
            assert proxy.fired == 0
            pair.client.sendall(chunk)
            assert pair.server.recv(100) == chunk
        pair.client.sendall(update)
        with contextlib.suppress(ConnectionResetError):
            assert pair.server.recv(100) == b""
        assert proxy.fired == 1
