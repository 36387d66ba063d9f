"""Many clients at once, each noting every call."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

import servers
from history import Call, History

CLIENTS = 16
MAX_CALLS = 96_000
"""Of all clients: a load is bounded in count."""
MAX_SECONDS = 240
"""And in time."""
MODES = ("upload_job", "file", "päth ☃ +&=", "SELECT 1;--")


def usual_clients(services: int) -> int:
    """How many a load has by default: CHAOS_CLIENTS, and one for each service at least."""
    return max(int(os.environ.get("CHAOS_CLIENTS") or CLIENTS), services)


class Load:
    """Clients which ask for ranges of several modes and sizes until they are told to stop.

    :param ports: of the services; client N uses the N-th, counted round.
    :param clients: how many there are; None for the usual number.
    :param modes: what they ask for in turn.
    :param timeout: seconds that a client waits for its answer.
    """

    def __init__(
        self,
        ports: Sequence[int],
        *,
        clients: int | None = None,
        modes: Sequence[str] = MODES,
        timeout: float = 20,
    ) -> None:
        self.history = History()
        self.ports = list(ports)
        self.clients = clients or usual_clients(len(self.ports))
        self.modes = tuple(modes)
        self.timeout = timeout
        self._stop = threading.Event()
        self._end = time.monotonic() + MAX_SECONDS
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True)
            for number in range(self.clients)
        ]

    def start(self) -> None:
        """Set the clients going."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> History:
        """Let each client end its call; the history is complete then."""
        self._stop.set()
        for thread in self._threads:
            thread.join(servers.START_TIMEOUT)
            assert not thread.is_alive(), "a client waits forever"
        return self.history

    def more_answers(self, count: int, mode: str | None = None) -> None:
        """Return when this many more calls were answered, all begun after now."""
        now = time.monotonic()

        def enough() -> bool:
            new = [
                call
                for call in reversed(self.history.calls)
                if call.answered and call.begin > now and mode in (None, call.mode)
            ]
            return len(new) >= count

        servers.wait_until(enough, f"{count} more answers")

    def more(self, fits: Callable[[Call], bool], what: str) -> None:
        """Return when a call that ends after now ends in a certain way."""
        now = time.monotonic()
        servers.wait_until(
            lambda: any(call.end > now and fits(call) for call in self.history.calls), what
        )

    def _client(self, number: int) -> None:
        port = self.ports[number % len(self.ports)]
        for step in range(MAX_CALLS // self.clients):
            if self._stop.is_set() or time.monotonic() > self._end:
                return
            mode = self.modes[(number + step) % len(self.modes)]
            # 1 for most, and now and then a large one.
            count = 1 if step % 3 else 1 + (number * 7919 + step * 104729) % 5000
            call = ask(port, number, mode, count, self.timeout)
            self.history.add(call)
            if not call.answered and not call.refused:
                # Neither a busy loop of refusals nor in step with the others.
                self._stop.wait(0.01 + number / 1000)


def ask(port: int, client: int, mode: str, count: int, timeout: float) -> Call:
    """One call, over a connection of its own."""
    begin = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    status, error = None, ""
    try:
        connection.request("GET", f"/getid?range={count}&mode={quote(mode)}")
        response = connection.getresponse()
        body = response.read()
        if response.status == 200:
            answer = json.loads(body)
            first, last = answer["startIndex"], answer["endIndex"]
            return Call(client, mode, count, begin, time.monotonic(), first, last)
        status, error = response.status, body.decode(errors="replace")
    except (OSError, http.client.HTTPException) as broken:
        error = repr(broken)
    finally:
        connection.close()
    return Call(client, mode, count, begin, time.monotonic(), status=status, error=error)


def hang_up(port: int, client: int, mode: str, count: int) -> Call:
    """A call whose client resets its connection before the answer."""
    begin = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        target = f"/getid?range={count}&mode={quote(mode)}"
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return Call(client, mode, count, begin, time.monotonic(), error="hung up")
