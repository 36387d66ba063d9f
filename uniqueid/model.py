"""What the journal is to know of a request; `uniqueid.database.journal` says what becomes of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

MIN_KEY_LENGTH, MAX_KEY_LENGTH = 16, 128
MAX_CALLER_LENGTH = 64
MAX_CLIENT_LENGTH = 128


def now() -> int:
    """The time, as the table has it: microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Entry:
    """One request, as the journal is to know it."""

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
    replayed: bool = False
    """Told by the allocator: whether the answer is that of an earlier request."""

    @property
    def identity(self) -> tuple[str, str] | None:
        """Under what it can be found again; None without a key."""
        return None if self.key is None else (self.key, self.caller)
