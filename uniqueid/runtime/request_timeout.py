"""A bound on the time in which a request has to arrive under uWSGI, which has none.

uWSGI waits `socket-timeout` seconds for each piece of a request and not for the whole: a client
that sends an octet a second holds a thread for hours, and as many of them as there are threads shut
everybody else out. A body that trickles in has the process killed by `harakiri` besides.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from uniqueid.runtime import threads

TIMEOUT = 10
"""Seconds that a request has to arrive in, more or less one."""
_DESCRIPTORS = "/proc/self/fd"
# Linux' own default for net.core.somaxconn, which bounds it.
_BACKLOG = 4096


class RequestReadTimeout:
    """Reads no more from a connection that has been there for `TIMEOUT` seconds.

    Only its reading side is shut down: who is still sending is cut off, and who has sent all of
    the request and waits is answered, however long that takes. So it is for servers that read one
    request from a connection, as uWSGI's `http-socket` does.

    :param ports: those at which the server listens.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._ports = frozenset(ports)
        self._rounds: dict[int, int] = {}

    def start(self) -> None:
        """Check the connections once a second, from a thread; never without the /proc of Linux."""
        if self._ports and os.path.isdir(_DESCRIPTORS):
            threads.start(self._run, "arrival")

    def _run(self) -> None:
        while True:
            time.sleep(1)
            self.check()

    def check(self) -> None:
        """Check all sockets; those that were there in `TIMEOUT` checks before are read no more.

        Checks are counted, not seconds: a process that was stopped for a while closes none.
        """
        seen: dict[int, int] = {}
        for descriptor, inode in _sockets():
            rounds = seen[inode] = self._rounds.get(inode, 0) + 1
            if rounds > TIMEOUT:
                with suppress(OSError):
                    self._shut(descriptor, inode)
        self._rounds = seen

    def _shut(self, descriptor: int, inode: int) -> None:
        # A copy, since the server may close its own at any moment, and open another by that number.
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            if (
                os.fstat(connection.fileno()).st_ino == inode
                and _is_at(connection, self._ports)
                and not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            ):
                connection.shutdown(socket.SHUT_RD)


def raise_listen_backlog(ports: Iterable[int]) -> None:
    """Have the kernel keep as many connections as it may until a thread accepts them.

    What comes beyond them is not refused, but tried again by its client's kernel after a second.
    uWSGI's own option does not start where the kernel allows less; listen(2) takes what there is.
    """
    if not os.path.isdir(_DESCRIPTORS):
        return
    wanted = frozenset(ports)
    for descriptor, _inode in _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as found:
            if _is_at(found, wanted) and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.listen(_BACKLOG)


def _sockets() -> Iterator[tuple[int, int]]:
    """The descriptor and the inode of each socket of this process."""
    for name in os.listdir(_DESCRIPTORS):
        with suppress(OSError):
            status = os.stat(f"{_DESCRIPTORS}/{name}")
            if stat.S_ISSOCK(status.st_mode):
                yield int(name), status.st_ino


def _is_at(found: socket.socket, ports: Collection[int]) -> bool:
    """Whether this end of a socket is at one of these TCP ports."""
    return found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] in ports


def ports(addresses: object) -> list[int]:
    """The TCP ports of an option that uWSGI was given once or several times, as it has them."""
    return [port for _host, port in _tcp(addresses)]


def urls(addresses: object) -> list[str]:
    """Where these can be reached, from the same machine where they are all its addresses."""
    everywhere = ("", "0.0.0.0", "[::]")
    return [
        f"http://{'localhost' if host in everywhere else host}:{port}/"
        for host, port in _tcp(addresses)
    ]


def _tcp(addresses: object) -> Iterator[tuple[str, int]]:
    for address in addresses if isinstance(addresses, list) else [addresses]:
        if isinstance(address, bytes):
            host, colon, port = address.decode("latin-1").rpartition(":")
            if colon and port.isascii() and port.isdigit():
                yield host, int(port)
