"""Clients which send a key with each request, and send it again until it is answered."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import servers
from history import Call
from load import MAX_SECONDS

MODES = ("keyed", "keyed ☃")
MAX_CALLS = 4000
"""Of one client."""
SHARED = 4
"""How many clients send each key."""
_TRIED_AGAIN = frozenset({409, 503})


@dataclass
class Logical:
    """One request, however often and by whomever it was sent."""

    key: str
    mode: str
    count: int
    answers: set[tuple[int, int]] = field(default_factory=set)
    begin: float = float("inf")
    """When it was first sent."""
    end: float = float("inf")
    """When it was first answered."""
    sent: int = 0
    replays: int = 0


class KeyedLoad:
    """Groups of clients; all of a group go through the same requests, each at its own speed.

    :param ports: of the services; the clients of a group use different ones.
    """

    def __init__(self, ports: Sequence[int], *, groups: int = 4, timeout: float = 20) -> None:
        self.requests: dict[str, Logical] = {}
        self.violations: list[str] = []
        self._ports = list(ports)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._end = time.monotonic() + MAX_SECONDS
        self._threads = [
            threading.Thread(target=self._client, args=(group, number), daemon=True)
            for group in range(groups)
            for number in range(SHARED)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def more_answers(self, count: int) -> None:
        """Return when this many more requests were answered."""
        before = self._answered()
        servers.wait_until(lambda: self._answered() >= before + count, f"{count} more keys met")

    def _answered(self) -> int:
        with self._lock:
            return sum(bool(one.answers) for one in self.requests.values())

    def stop(self) -> list[Call]:
        """Let each client have its last request answered; one call for each request."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * servers.START_TIMEOUT)
            assert not thread.is_alive(), "a client's request is never met"
        assert self.violations == []
        calls = []
        for number, one in enumerate(self.requests.values()):
            assert len(one.answers) == 1, f"not exactly once: {one}"
            ((first, last),) = one.answers
            calls.append(
                Call(10_000 + number, one.mode, one.count, one.begin, one.end, first, last)
            )
        return calls

    def exactly_once(self, counters: dict[str, int]) -> None:
        """Hold the answers against the counters afterwards: nothing was taken beside them."""
        for mode in MODES:
            asked = sum(one.count for one in self.requests.values() if one.mode == mode)
            assert counters[mode] == 1 + asked, f"mode {mode!r}: not each request once"

    @property
    def replays(self) -> int:
        """How many answers said that they were given before."""
        return sum(one.replays for one in self.requests.values())

    def _client(self, group: int, number: int) -> None:
        port = self._ports[number % len(self._ports)]
        for step in range(MAX_CALLS):
            if self._stop.is_set() or time.monotonic() > self._end:
                return
            with self._lock:
                key = f"group {group}, request {step}"
                count = 1 + (group * 7919 + step * 104729) % 500
                one = self.requests.setdefault(
                    key, Logical(key, MODES[(group + step) % len(MODES)], count)
                )
            end = time.monotonic() + servers.START_TIMEOUT
            while not self._ask(port, one):
                if self.violations or time.monotonic() > end:
                    with self._lock:
                        self.violations.append(f"never met: {one}")
                    return
                # Not in step with the others; the load's end does not end this wait.
                threading.Event().wait(0.01 + number / 200)

    def _ask(self, port: int, one: Logical) -> bool:
        """Send it once more; whether it was answered."""
        with self._lock:
            one.sent += 1
            one.begin = min(one.begin, time.monotonic())
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=self._timeout)
        try:
            target = f"/getid?range={one.count}&mode={quote(one.mode)}"
            connection.request("POST", target, headers={"Idempotency-Key": f'"{one.key}"'})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        with self._lock:
            if response.status == 200:
                answer = json.loads(body)
                one.end = min(one.end, time.monotonic())
                one.answers.add((answer["startIndex"], answer["endIndex"]))
                one.replays += response.getheader("Idempotency-Replayed") == "true"
                return True
            if response.status not in _TRIED_AGAIN:
                self.violations.append(f"{response.status} {body!r} to {one}")
        return False
