"""A clock; an allocator that counts; and a store without a database, whose transactions a test can
hold up."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from uniqueid.database.journal import Plan, Record
from uniqueid.errors import MAX_ID, CounterExhausted, CounterRegressed, UniqueIDError
from uniqueid.model import Allocation, AllocationRecord, CounterUpdate


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class FakeAllocator:
    """Allocates IDs from one counter for all modes, or raises an error."""

    def __init__(self, error: Exception | None = None, *, first: int = 1) -> None:
        self.error = error
        self.next_id = first
        self.batch_size = 1
        self.requests: list[tuple[str, int]] = []
        """Mode and count of each, refused ones included."""

    def allocate(self, mode: str, count: int, record: AllocationRecord | None = None) -> Allocation:
        self.requests.append((mode, count))
        if self.error is not None:
            raise self.error
        first, self.next_id = self.next_id, self.next_id + count
        return Allocation(first, self.batch_size)


class FakeStore:
    """Counters in a dictionary; each transaction waits at a gate and is written down."""

    def __init__(self, **counters: int) -> None:
        self.values: dict[str, int] = dict(counters)
        self.transactions: list[dict[str, int]] = []
        self.direct: list[dict[str, int]] = []
        """Those of `transactions` that were not the committer's."""
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)
        self.errors: list[Exception] = []
        self.failing: dict[str, Exception] = {}
        """Raised by every transaction with that mode."""
        self.ping_error: Exception | None = None
        self.outcomes: dict[str, UniqueIDError] = {}
        self.connections = 1
        self.pings = threading.Semaphore(0)
        self.disconnected = threading.Event()
        self.rows: dict[tuple[str, str], Record] = {}
        """The journal's rows that have a key."""
        self.inserted: list[AllocationRecord] = []
        """What was recorded, with a key or without."""
        self.errors_after_commit: list[Exception] = []
        """Raised after what was asked for was done: a COMMIT whose answer is lost."""

    def advance(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        *,
        repair: bool = True,
        deadline: float,
        records: Sequence[AllocationRecord] = (),
    ) -> dict[str, CounterUpdate | UniqueIDError]:
        self.arrived.release()
        self.gate.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        for mode in totals:
            if mode in self.failing:
                raise self.failing[mode]
        self.transactions.append(dict(totals))
        if threading.current_thread().name != "committer":
            self.direct.append(dict(totals))
        before: dict[tuple[str, str], AllocationRecord] = {}
        plans = {
            mode: Plan([record for record in records if record.mode == mode], self.rows, before)
            for mode in totals
            if any(record.mode == mode for record in records)
        }
        results: dict[str, CounterUpdate | UniqueIDError] = {}
        for mode, asked in totals.items():
            plan = plans.get(mode)
            count = asked if plan is None else asked - plan.unused
            found = self.values.get(mode, 1)
            first = max(found, high_water_marks.get(mode, 1))
            if mode in self.outcomes:
                results[mode] = self.outcomes[mode]
            elif first > found and not repair:
                results[mode] = CounterRegressed(mode, found, first)
            elif first + count > MAX_ID + 1:
                results[mode] = CounterExhausted(mode, count, MAX_ID + 1 - first)
            else:
                self.values[mode] = first + count
                done = results[mode] = CounterUpdate(mode, first, count, found, first > found)
                if plan is not None:
                    results[mode] = self._record(done, plan, first + count - plan.taken)
        if self.errors_after_commit:
            raise self.errors_after_commit.pop(0)
        return results

    def _record(self, done: CounterUpdate, plan: Plan, first: int) -> CounterUpdate:
        rows, placed = plan.place(first)
        for entry, start in rows:
            self.inserted.append(entry)
            if entry.identity is not None:
                self.rows[entry.identity] = Record(
                    len(self.inserted),
                    entry.key,
                    entry.caller,
                    entry.mode,
                    start,
                    start + entry.count - 1,
                    entry.time,
                    entry.expires,
                    entry.client,
                    entry.request_id,
                    0,
                )
        return replace(done, records=tuple(placed))

    def counters(self) -> dict[str, int]:
        return dict(self.values)

    def find(self, names: Collection[str]) -> dict[str, int]:
        return {name: self.values[name] for name in names if name in self.values}

    def ping(self) -> None:
        self.pings.release()
        if self.ping_error is not None:
            raise self.ping_error

    def disconnect(self) -> None:
        self.disconnected.set()
