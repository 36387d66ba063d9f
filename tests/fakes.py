"""A store without a database, whose transactions a test can hold up."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from uniqueid.errors import MAX_ID, CounterExhausted, CounterRegressed, UniqueIDError
from uniqueid.store import Advanced


class FakeStore:
    """Counters in a dictionary; each transaction waits at a gate and is written down."""

    def __init__(self, **counters: int) -> None:
        self.values: dict[str, int] = dict(counters)
        self.transactions: list[dict[str, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.errors: list[Exception] = []
        self.ping_error: Exception | None = None
        self.outcomes: dict[str, UniqueIDError] = {}
        self.connections = 1
        self.pings = threading.Semaphore(0)
        self.disconnected = threading.Event()

    def advance(
        self,
        totals: Mapping[str, int],
        floors: Mapping[str, int],
        *,
        repair: bool,
        deadline: float,
    ) -> dict[str, Advanced | UniqueIDError]:
        self.arrived.release()
        self.gate.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        self.transactions.append(dict(totals))
        results: dict[str, Advanced | UniqueIDError] = {}
        for mode, count in totals.items():
            found = self.values.get(mode, 1)
            first = max(found, floors.get(mode, 1))
            if mode in self.outcomes:
                results[mode] = self.outcomes[mode]
            elif first > found and not repair:
                results[mode] = CounterRegressed(mode, found, first)
            elif first + count > MAX_ID + 1:
                results[mode] = CounterExhausted(mode, count, MAX_ID + 1 - first)
            else:
                self.values[mode] = first + count
                results[mode] = Advanced(mode, first, found, first > found)
        return results

    def counters(self) -> dict[str, int]:
        return dict(self.values)

    def ping(self) -> None:
        self.pings.release()
        if self.ping_error is not None:
            raise self.ping_error

    def disconnect(self) -> None:
        self.disconnected.set()
