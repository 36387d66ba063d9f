"""Blocks of IDs that the database has counted as used and that nobody has got yet.

With ``reserve = N`` the committer has each counter moved on by up to N IDs more than were asked
for, and keeps those here, where callers take them without a transaction. What is in a block belongs
to this process alone, since the counter on disk is above it; a crash loses it, which is a gap.

A claim made earlier is good only as long as the database is still the one that has it. So a block
is used for `LEASE` seconds at the most after the database last said that its counter is at the
block's end or above, and is given up where that may have changed: the database was away, another
session was made, a counter went back.

What is left of a block goes out before the IDs that follow it, and never after IDs above it. Where
somebody else has moved the counter on, what is left and does not suffice is given up: less than the
request that did not fit asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from uniqueid.errors import MAX_ID

LEASE = 5.0
"""Seconds for which a block may be used after the database was heard of."""
LOOK = 2.0
"""Seconds between two looks at the counters while there are blocks."""


@dataclass(slots=True)
class _Block:
    """What is left of one counter's reservation; where it ended, when nothing is."""

    first: int
    end: int
    """The next ID after it, where this process left the counter."""
    until: float = 0.0
    alone: bool = True
    """Whether the counter was where this process had left it when it was last moved on."""


class Blocks:
    """What is left of the reservations, by counter. Callers take, the committer does the rest.

    :param size: IDs that a block has at the most.
    """

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._blocks: dict[str, _Block] = {}
        # For the committer alone:
        self._counters: dict[str, str] = {}
        """Mode to counter, where the database spells it otherwise."""
        self._held: dict[str, _Block] = {}
        """By mode, what was taken out of circulation for the transaction under way."""
        self._filled: dict[str, _Block] = {}
        """By counter, what it left over, until it is known that nothing went back."""
        self._limits: dict[str, int] = {}
        self._excluded: set[str] = set()

    # -- for callers, from any thread ---------------------------------------------------------

    def take(self, mode: str, count: int) -> int | None:
        """The first of so many IDs; None where a transaction is needed for them."""
        counter = self._counters.get(mode, mode)
        with self._lock:
            block = self._blocks.get(counter)
            if block is None or block.end - block.first < count or self._clock() >= block.until:
                return None
            first = block.first
            block.first += count
            return first

    @property
    def left(self) -> int:
        """How many IDs are reserved and nobody's."""
        with self._lock:
            return sum(block.end - block.first for block in self._blocks.values())

    # -- for the committer: one transaction ---------------------------------------------------

    def exclude(self, mode: str) -> None:
        """Reserve no more of a mode.

        Requests with an entry get their IDs from the counter itself, above a block, and later
        ones out of the block would be lower.
        """
        counter = self._counters.get(mode, mode)
        if counter not in self._excluded:
            self._excluded.add(counter)
            self._held.pop(mode, None)
            with self._lock:
                self._blocks.pop(counter, None)

    def ask(self, mode: str, total: int, *, fill: bool = True) -> int:
        """How many IDs to have a counter moved on by, for requests for so many.

        Until the transaction is settled nobody takes anything of its block.

        :param fill: whether the block is to be full afterwards, or only to keep what it has.
        """
        counter = self._counters.get(mode, mode)
        if counter in self._excluded:
            return total
        held = self._held.get(mode)
        if held is None:
            with self._lock:
                held = self._blocks.pop(counter, None)
            held = self._held[mode] = held or _Block(0, 0)
        wanted = total + (self._size - (held.end - held.first) if fill else 0)
        return min(wanted, self._limits.pop(mode, wanted))

    def settle(self, mode: str, counter: str, first: int, asked: int, total: int) -> int | None:
        """Where the IDs for the requests begin, of a counter that was moved on.

        :param first: the first of the new IDs; there are as many as were `asked` for.
        :returns: None when they do not suffice: what was left of the block no longer adjoins.
        """
        held = self._held.pop(mode, None)
        if held is None:
            return first
        adjoins = held.end == first
        start = held.first if adjoins else first
        end = first + asked
        if counter != mode:
            self._counters[mode] = counter
        if end - start < total:
            return None
        filled = self._filled.get(counter)
        # Where two spellings of a mode share the transaction, the higher IDs are kept.
        if filled is None or filled.end < end:
            alone = adjoins or held.end == 0
            self._filled[counter] = _Block(start + total, end, self._clock() + LEASE, alone)
        return start

    def exhausted(self, mode: str, available: int) -> int:
        """How many IDs requests can still get of a counter that was not moved on since it ends.

        :param available: as the store says: from the counter to the end.
        """
        held = self._held.get(mode)
        if held is None:
            return available
        self._limits[mode] = available
        if held.end != MAX_ID + 1 - available:
            held.first = held.end
        return available + held.end - held.first

    def circulate(self, *, again: bool = False) -> None:
        """The end of a transaction: what there is can be taken.

        :param again: another one follows for what this one could not do, and needs what is held.
        """
        with self._lock:
            if not again:
                for mode, block in self._held.items():
                    if block.end:
                        self._blocks[self._counters.get(mode, mode)] = block
                self._held.clear()
                self._limits.clear()
            self._blocks |= self._filled
        self._filled.clear()

    # -- for the committer: what happens to them ----------------------------------------------

    @property
    def in_use(self) -> bool:
        """Whether there is something to look after."""
        return bool(self._blocks)

    def looked(self, counters: Mapping[str, int], since: float) -> None:
        """The database was asked, and no counter is below what was handed out.

        Where nobody else used a counter, and yet it was moved on, an operator did it, and wants no
        more of the IDs below. Another service that uses it for the first time looks the same.

        :param since: a time of the clock before it was asked.
        """
        with self._lock:
            for counter, block in self._blocks.items():
                found = counters.get(counter, 1)
                if block.alone and found != block.end:
                    # From here on, so that the next time is noticed as well.
                    block.first = block.end = found
                block.until = since + LEASE

    def drop(self) -> None:
        """Give all up: a gap. What a transaction under way leaves over comes after it."""
        with self._lock:
            for block in (*self._blocks.values(), *self._held.values()):
                block.first = block.end
        self._filled.clear()

    def close(self) -> dict[str, tuple[int, int]]:
        """The end of all taking.

        :returns: of each counter the first ID that is left, and the one after the last.
        """
        self.circulate()
        with self._lock:
            blocks, self._blocks = self._blocks, {}
        return {
            counter: (block.first, block.end)
            for counter, block in blocks.items()
            if block.first < block.end
        }
