"""A TCP proxy on loopback between the service and a database, which can do what networks do.

It passes, holds, delays and cuts; it cuts in the middle of a statement, and around COMMIT in both
ways: 'the COMMIT arrived, the answer was lost' and 'the COMMIT never arrived'. The answer of a
COMMIT can also come late. The same can happen to an UPDATE that commits itself. The proxy can be
pointed at another server while clients stay connected to its port.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from collections.abc import Callable

# A client's COMMIT on the wire: MySQL's COM_QUERY (0x03) and PostgreSQL's simple query. Whole
# messages, since SET TRANSACTION ... READ COMMITTED has the word in it as well.
_COMMIT = (b"\x03COMMIT", b"Q\x00\x00\x00\x0bCOMMIT\x00")
# What begins and ends a time in which statements wait for a COMMIT: MySQL's drivers say which way a
# session goes from then on, PostgreSQL's begin each transaction.
_BEGIN = re.compile(rb"\x03SET AUTOCOMMIT = 0$|Q....BEGIN", re.DOTALL)
_END = re.compile(rb"\x03SET AUTOCOMMIT = 1$|Q....(COMMIT|ROLLBACK)\x00$", re.DOTALL)
_PING = b" WHERE 1 = 0"
_UPDATE = (b"UPDATE `uniqueindex`", b'UPDATE "uniqueindex"')

Plan = Callable[["_Link", bytes], bytes | None]
"""What to do with a chunk from the client: what to pass on, or None to cut."""
Which = Callable[["_Link", bytes], bool]
"""Whether a chunk from the client is the one that something happens to."""


def never_arrives(which: Which) -> Plan:
    """Cut before such a message: the database rolls back, or was not even asked."""

    def plan(link: _Link, chunk: bytes) -> bytes | None:
        return None if which(link, chunk) else chunk

    return plan


def answer_is_lost(which: Which) -> Plan:
    """Pass it on, let the database do it, and cut instead of passing its answer back."""

    def plan(link: _Link, chunk: bytes) -> bytes | None:
        link.swallow = link.swallow or which(link, chunk)
        return chunk

    return plan


def answer_is_late(which: Which, seconds: float) -> Plan:
    """Pass it on and keep its answer for so long before it is delivered."""

    def plan(link: _Link, chunk: bytes) -> bytes | None:
        if which(link, chunk):
            link.late = seconds
        return chunk

    return plan


def cut_in_the_middle(which: Which) -> Plan:
    """Pass half of it on and cut."""

    def plan(link: _Link, chunk: bytes) -> bytes | None:
        if not which(link, chunk):
            return chunk
        with contextlib.suppress(OSError):
            link.server.sendall(chunk[: len(chunk) // 2])
        return None

    return plan


def fall_silent(link: _Link, chunk: bytes) -> bytes | None:
    """Keep the connection of a query for a sign of life open and never answer."""
    if _PING in chunk:
        link.silent = True
    return chunk


def is_commit(_link: _Link, chunk: bytes) -> bool:
    """Whether it is a COMMIT."""
    return any(chunk.endswith(message) for message in _COMMIT)


def is_update(_link: _Link, chunk: bytes) -> bool:
    """Whether it moves counters on."""
    return _PING not in chunk and any(word in chunk for word in _UPDATE)


def commits_itself(link: _Link, chunk: bytes) -> bool:
    """Whether it moves a counter on in a transaction of its own, which no COMMIT follows."""
    return is_update(link, chunk) and not link.in_transaction


commit_never_arrives = never_arrives(is_commit)
commit_answer_is_lost = answer_is_lost(is_commit)
cut_in_statement = cut_in_the_middle(is_update)


class _Link:
    """A client's connection and the one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.swallow = False
        """Whether the next answer is lost and the connection cut."""
        self.late = 0.0
        """Seconds for which the next answer is kept."""
        self.silent = False
        """Whether nothing is passed on any more, while the connection stands."""
        self.in_transaction = False
        """Whether what the client says next needs a COMMIT."""

    def note(self, chunk: bytes) -> None:
        """Take note of what the client says about transactions."""
        if _BEGIN.search(chunk):
            self.in_transaction = True
        elif _END.search(chunk):
            self.in_transaction = False

    def cut(self) -> None:
        """Reset both connections, as a router does that lost its state."""
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # close() alone would not wake the thread that reads from it.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


class Proxy:
    """Passes connections at `port` to a server at `target`, until told otherwise.

    :param pause: lets this many seconds pass, less when the proxy is closed.
    """

    def __init__(self, target: int, pause: Callable[[float], object] | None = None) -> None:
        self.target = target
        self._ended = threading.Event()
        self._pause = pause or self._ended.wait
        self._delays: dict[str, tuple[float, float]] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.fired = 0
        """How often a plan was carried out."""
        self.accepted = 0
        self._plan: Plan | None = None
        self._shots = 0
        self._passing = threading.Event()
        self._passing.set()
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    # -- what a test may ask for --------------------------------------------------------------

    def arm(self, plan: Plan, shots: int) -> None:
        """Do this to as many connections as there are shots; then pass again."""
        with self._lock:
            self._plan, self._shots = plan, shots

    def delay(self, direction: str, least: float, most: float) -> None:
        """Keep each piece of data for a time between two numbers of seconds; 0 and 0 for none.

        :param direction: "up" to the server or "down" to the client.
        """
        assert direction in ("up", "down")
        self._delays[direction] = (least, most)

    def hold(self) -> None:
        """Accept and read, and pass nothing on in either direction, without a word."""
        self._passing.clear()

    def silence(self) -> None:
        """Never pass anything again on the connections there are; new ones are as good as new."""
        with self._lock:
            for link in self._links:
                link.silent = True

    def go_on(self) -> None:
        """Pass what was held, and all that comes."""
        self._passing.set()

    def cut(self) -> None:
        """Reset every connection there is."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.cut()

    def point_at(self, target: int) -> None:
        """Lead new connections to another server, and cut the old ones."""
        self.target = target
        self.cut()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._links)

    def close(self) -> None:
        """Stop, and cut all."""
        self._closed = True
        self._ended.set()
        # Wakes accept(), which close() alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._passing.set()
        self.cut()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_args: object) -> None:
        self.close()

    # -- its threads --------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._passing.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=30)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._lock:
            self._links.add(link)
        threading.Thread(target=self._upwards, args=(link,), daemon=True).start()
        self._downwards(link)

    def _end(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        link.cut()

    def _upwards(self, link: _Link) -> None:
        """From the client to the server."""
        with contextlib.suppress(OSError):
            while chunk := link.client.recv(65536):
                self._keep("up")
                self._passing.wait()
                passed = chunk if link.silent else self._planned(link, chunk)
                if passed is None:
                    break
                if link.silent:
                    continue
                link.server.sendall(passed)
        self._end(link)

    def _keep(self, direction: str) -> None:
        least, most = self._delays.get(direction, (0.0, 0.0))
        if most:
            self._pause(random.uniform(least, most))

    def _planned(self, link: _Link, chunk: bytes) -> bytes | None:
        with self._lock:
            link.note(chunk)
            if self._plan is None or self._shots <= 0:
                return chunk
            passed = self._plan(link, chunk)
            if passed is None or link.swallow or link.silent or link.late:
                self._shots -= 1
            if passed is None or link.silent:
                self.fired += 1
            return passed

    def _downwards(self, link: _Link) -> None:
        """From the server to the client."""
        with contextlib.suppress(OSError):
            while chunk := link.server.recv(65536):
                self._keep("down")
                self._passing.wait()
                if link.silent:
                    continue
                if link.late:
                    self._pause(link.late)
                    link.late = 0.0
                    self.fired += 1
                if link.swallow:
                    self.fired += 1
                    break
                link.client.sendall(chunk)
        self._end(link)
