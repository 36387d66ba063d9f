"""What can go wrong, each error with its facts; `uniqueid.web.app` alone turns them into HTTP."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

MAX_ID = 2**63 - 2
"""The highest ID there can be: the counter holds the next one, in a signed 64-bit column."""

SYNC = "run 'pacifica-uniqueid-cmd dbsync'"
"""What repairs an absent or old schema, or a missing key."""


SYNC_NEW = (
    f"if the counters are to start at 1 there, {SYNC}; otherwise correct [database] url, or mount"
    " the volume that the counters are on"
)
"""What to do where the service finds no tables."""


class UniqueIDError(Exception):
    """Any error this service raises on purpose; its text is fit for an operator or a caller."""


class ConfigError(UniqueIDError):
    """A setting that cannot be used."""

    def __init__(self, option: str, value: str | None, source: str, allowed: str) -> None:
        self.option = option
        self.value = value
        self.source = source
        self.allowed = allowed
        given = "" if value is None else f" = {value!r}"
        super().__init__(f"{option}{given} ({source}): {allowed}")


@dataclass(frozen=True)
class Fault:
    """One parameter of a request that is wrong: which, what was sent, what is allowed."""

    type: str
    parameter: str
    value: str | None
    allowed: str

    def __str__(self) -> str:
        given = "is missing" if self.value is None else f"is {self.value!r}"
        return f"{self.parameter} {given}: {self.allowed}"


class InvalidRequest(UniqueIDError):
    """A request that can never be met as it stands; nothing was allocated for it."""

    def __init__(self, *faults: Fault, nonce: str | None = None) -> None:
        self.faults = faults
        self.nonce = nonce
        super().__init__("; ".join(str(fault) for fault in faults))


class CounterExhausted(UniqueIDError):
    """The counter of a mode has fewer IDs left than were asked for."""

    def __init__(self, mode: str, count: int, available: int) -> None:
        self.mode = mode
        self.count = count
        self.available = available
        super().__init__(
            f"mode {mode!r} has {available} IDs left up to {MAX_ID}, and {count} were asked for"
        )


class TooManyModes(UniqueIDError):
    """A new mode was asked for when `max_modes` of them exist."""

    def __init__(self, mode: str, max_modes: int) -> None:
        self.mode = mode
        self.max_modes = max_modes
        super().__init__(
            f"mode {mode!r} is new, and the service is set to create no more than"
            f" {max_modes} modes (max_modes)"
        )


class ModeNotStorable(UniqueIDError):
    """The database's character set has no place for a character of the mode."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        super().__init__(f"mode {mode!r} has a character which the database cannot store")


class ModeBusy(UniqueIDError):
    """Another transaction holds the mode's counter locked; the others are not affected."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        super().__init__(f"the counter of mode {mode!r} is locked by another transaction")


class CounterRegressed(UniqueIDError):
    """The database holds less than was already allocated: it was restored or failed over."""

    def __init__(self, mode: str, found: int, expected: int) -> None:
        self.mode = mode
        self.found = found
        self.expected = expected
        super().__init__(
            f"the counter of mode {mode!r} has regressed: its next ID in the database is {found},"
            f" but IDs up to {expected - 1} were allocated; advance it to {expected} or more"
        )

    @classmethod
    def among(
        cls,
        counters: Mapping[str, int],
        floors: Mapping[str, int],
        find: Callable[[Collection[str]], Mapping[str, int]],
    ) -> dict[str, CounterRegressed]:
        """The counters below the lowest ID that may still be allocated.

        :param counters: each mode of the database and its next ID.
        :param find: looks up the next IDs of names that are not among them, which may be other
            spellings of a counter's; one that has none is at the start.
        """
        others = find([name for name in floors if name not in counters])
        found = {name: counters.get(name, others.get(name, 1)) for name in floors}
        return {
            name: cls(name, found[name], floor)
            for name, floor in floors.items()
            if found[name] < floor
        }


class KeyReused(UniqueIDError):
    """An idempotency key that stands for another request already; nothing was allocated."""

    def __init__(self, key: str, mode: str, count: int) -> None:
        self.key = key
        self.mode = mode
        self.count = count
        super().__init__(
            f"the Idempotency-Key {key!r} was sent before, with range {count} and mode {mode!r}:"
            " send a new key with each new request"
        )


class KeyInFlight(UniqueIDError):
    """An earlier request with the same key has no answer yet; ask again with the same key."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"an earlier request with the Idempotency-Key {key!r} is not answered yet: send the"
            " same again later"
        )


class JournalMissing(UniqueIDError):
    """The database has no table for what was asked to be recorded; nothing was allocated."""

    def __init__(self) -> None:
        super().__init__(
            "the database has no table for idempotency keys and the journal yet: run"
            " 'pacifica-uniqueid-cmd dbsync'"
        )


class Overloaded(UniqueIDError):
    """More requests wait than the queue may hold."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        super().__init__(f"{waiting} requests are waiting, which is as many as may")


class Closing(UniqueIDError):
    """The process is stopping and takes no new requests."""

    def __init__(self) -> None:
        super().__init__("the service is stopping")


class Unavailable(UniqueIDError):
    """Something that every allocation needs is away; `cause` says why, in the log's words.

    The words name hosts, users and paths: callers get `public`. `tables` is whether it is for a
    table which is not there.
    """

    what = "the service"
    public = "no IDs were allocated"
    remedy = ""

    def __init__(self, cause: str, *, tables: bool = False) -> None:
        self.cause = cause
        self.tables = tables
        super().__init__(f"{self.what} is not available: {cause}{self.remedy}")


class DatabaseUnavailable(Unavailable):
    """The database did not do its work in time."""

    what = "the database"
    public = "the database is not available; no IDs were allocated"


class TransactionRejected(DatabaseUnavailable):
    """The database rejected a transaction for a reason that this release does not list. It may
    concern one of its requests alone."""


class ConnectionLimitReached(DatabaseUnavailable):
    """The database accepts no further connection; those that exist are not affected."""


class UnsafeSession(DatabaseUnavailable):
    """A session on which a committed transaction could be lost; it is not used."""


class FenceUnavailable(Unavailable):
    """The fence file cannot be used now: another process has it, or it cannot be written."""

    what = "the fence"
    public = "the fence file cannot be written; no IDs were allocated"


class FenceDamaged(Unavailable):
    """The fence file is missing, or is not what was written."""

    what = "the fence"
    public = (
        "the fence file is missing or damaged; no IDs are allocated until an operator has run"
        " 'pacifica-uniqueid-cmd fence --adopt'"
    )
    newer = False
    """Whether it is whole, and a newer release's."""
    remedy = "; see that the counters are right, then run 'pacifica-uniqueid-cmd fence --adopt'"


class Unexpected(UniqueIDError):
    """A mistake of this program's own, which the log has under a reference."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        super().__init__(
            f"an unexpected error; the service's log has it under the reference {reference}"
        )


class SchemaError(UniqueIDError):
    """The tables are absent, older or newer than this release works with."""

    def __init__(self, found: str, remedy: str) -> None:
        self.found = found
        self.remedy = remedy
        super().__init__(f"{found}; {remedy}")


class Unauthorized(UniqueIDError):
    """A request without a token that counts; `challenge` is what WWW-Authenticate says."""

    def __init__(self, detail: str, challenge: str) -> None:
        self.challenge = challenge
        super().__init__(detail)
