"""Plain data that the packages exchange, and the interfaces between them."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from uniqueid.errors import KeyReused, UniqueIDError

MAX_MODE_LENGTH = 255
"""Characters: the width of the column ``uniqueindex.id`` of every release."""
MIN_KEY_LENGTH, MAX_KEY_LENGTH = 16, 128
MAX_CALLER_LENGTH = 64
MAX_CLIENT_LENGTH = 128


def now() -> int:
    """The time, as the table has it: microseconds since 1970."""
    return time.time_ns() // 1000


def is_mode(text: str) -> bool:
    """Whether a text can be the name of a mode."""
    return 0 < len(text) <= MAX_MODE_LENGTH and (
        (text.isascii() and text.isprintable())
        or not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    )


class Allocation(NamedTuple):
    """The range that a request got."""

    first: int
    """Its first ID; it ends at ``first + count - 1``."""
    batch_size: int
    """How many requests shared the transaction."""
    replayed: bool = False
    """Whether it is the range of an earlier request with the same idempotency key."""


@dataclass(frozen=True, slots=True)
class AllocationRecord:
    """What the journal is to record of a request (`uniqueid.database.journal`)."""

    mode: str
    count: int
    key: str | None = None
    """The idempotency key; None is recorded for the sake of provenance alone."""
    caller: str = ""
    """The name of the token, within which a key counts; empty where there are no tokens."""
    client: str = ""
    """What the client calls itself: up to 128 printable ASCII characters."""
    request_id: str = ""
    time: int = 0
    """When it came, in microseconds since 1970."""
    expires: int = 0
    """When its row may be deleted, in the same."""

    @property
    def identity(self) -> tuple[str, str] | None:
        """Under what it can be found again; None without a key."""
        return None if self.key is None else (self.key, self.caller)


class RecordedRange(NamedTuple):
    """The range of a record."""

    first: int
    replayed: bool = False
    """Whether an earlier request with the same key got it."""


@dataclass(slots=True)
class CounterUpdate:
    """What a committed transaction did to one counter."""

    counter: str
    """The name of its high-water mark: the same for all modes that are one counter by the
    collation of the database."""
    first: int
    """The first of the allocated IDs."""
    count: int
    """How many were allocated: those that were asked for, without those of replays and of records
    that were refused."""
    database_next_id: int
    """The next ID according to the database before; 0 where the counter was not used."""
    regressed: bool = False
    """Whether that was less than the counter's high-water mark."""
    records: tuple[RecordedRange | KeyReused, ...] = ()
    """What became of each record of the mode, in their order. Requests without a record have the
    IDs from `first` on, new records those behind."""

    @property
    def next_id(self) -> int:
        """The next ID after the transaction."""
        return self.first + self.count


class CounterStore(Protocol):
    """Counters in a database (`uniqueid.database.store`); one thread at a time uses it."""

    @property
    def connections(self) -> int:
        """How many sessions were opened so far. Counters have to be compared with their high-water
        marks in each."""

    def advance(
        self,
        totals: Mapping[str, int],
        high_water_marks: Mapping[str, int],
        *,
        repair: bool = True,
        deadline: float,
        records: Sequence[AllocationRecord] = (),
    ) -> Mapping[str, CounterUpdate | UniqueIDError]:
        """Allocate IDs of each mode in one transaction.

        :param totals: mode to the number of IDs, those of its records included.
        :param high_water_marks: counter to the lowest ID that may be allocated.
        :param repair: raise a counter that is below its mark; False refuses its mode.
        :param deadline: on the clock of `time.monotonic`; no further attempt is made after it.
        :returns: for each mode what was done, or why it was refused alone.
        :raises Unavailable: when it could not be done before the deadline.
        """

    def counters(self) -> Mapping[str, int]:
        """Each mode and its next ID."""

    def find(self, names: Collection[str]) -> Mapping[str, int]:
        """The next ID of each of the counters with these names, as the database compares names."""

    def ping(self) -> None:
        """See that a transaction would be executed, without allocating.

        :raises Unavailable: when it would not.
        """

    def disconnect(self) -> None:
        """Close the session; the next call opens another."""


class Observer:
    """Is told what happens, for the metrics; this one ignores it."""

    def committed(self, requests: int, seconds: float) -> None:
        """A transaction was committed for a number of requests."""

    def allocated(self, mode: str, requests: int, count: int, next_id: int) -> None:
        """IDs of a mode were allocated to a number of requests."""

    def regressed(self, mode: str) -> None:
        """A counter was below its high-water mark."""

    def replayed(self, requests: int) -> None:
        """Requests got the range of an earlier one."""

    def pruned(self, records: int) -> None:
        """Expired records were deleted."""

    def fence_written(self) -> None:
        """The fence file was written."""

    def fence_failed(self) -> None:
        """The fence file could not be written."""

    def fence_skipped(self, ids: int) -> None:
        """IDs were skipped when the fence was opened."""
