"""Whether allocated ranges are disjoint."""

from __future__ import annotations

from collections.abc import Iterable


def overlap(ranges: Iterable[tuple[int, int]]) -> str | None:
    """The first two ranges that share an ID, in words; None when there are none."""
    last: tuple[int, int] | None = None
    for first, end in sorted((first, end) for first, end in ranges):
        if end < first:
            return f"{first} to {end} is no range"
        if last is not None and first <= last[1]:
            return f"{last[0]} to {last[1]} and {first} to {end} share an ID"
        last = (first, end)
    return None
