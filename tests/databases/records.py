"""Requests with their records in the journal."""

from __future__ import annotations

from itertools import count
from typing import Any

from uniqueid.model import AllocationRecord, RecordedRange, now

from .direct import Direct

_NUMBERS = count(1)
HOUR = 3600 * 10**6
"""In microseconds."""


def entry(mode: str, size: int = 1, key: str | None = None, **facts: Any) -> AllocationRecord:
    """A request of its own, which expires in an hour."""
    facts.setdefault("time", now())
    facts.setdefault("expires", now() + HOUR)
    facts.setdefault("request_id", f"request-{next(_NUMBERS)}")
    return AllocationRecord(mode, size, None if key is None else key.ljust(16, "."), **facts)


def record(direct: Direct, *entries: AllocationRecord, **options: Any) -> dict[str, Any]:
    """Advance by entries alone."""
    totals: dict[str, int] = {}
    for one in entries:
        totals[one.mode] = totals.get(one.mode, 0) + one.count
    return direct.advance(totals, records=entries, **options)


def placed(direct: Direct, one: AllocationRecord, **options: Any) -> RecordedRange:
    """What became of one entry, which must have got a range."""
    outcome = record(direct, one, **options)[one.mode]
    (found,) = outcome.records
    assert isinstance(found, RecordedRange), found
    return found
