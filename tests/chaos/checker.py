"""Whether a history keeps the promise: a pure function, with no knowledge of the service.

It holds what the clients saw against the counters in the database afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from history import Call

MAX_ID = 2**63 - 2
DECLARED = frozenset({409, 503})
"""Statuses with which the service may refuse a request that is well formed."""


@dataclass
class Verdict:
    """What the checker found."""

    calls: int = 0
    answers: int = 0
    unanswered: int = 0
    """Calls which got neither a range nor a refusal: they may have taken IDs or not."""
    refused: int = 0
    gaps: int = 0
    """IDs below the counters that no client got."""
    duplicates: int = 0
    """IDs that are in more than one answer, counted once for each further answer."""
    violations: list[str] = field(default_factory=list)


def check(
    calls: Iterable[Call],
    counters: Mapping[str, int],
    *,
    initial: Mapping[str, int] | None = None,
    ambiguous: bool,
) -> Verdict:
    """Judge a history.

    :param calls: every call of every client.
    :param counters: each mode and its next ID, read after the last call.
    :param initial: the same before the first call; 1 for a mode that is not in it.
    :param ambiguous: whether a COMMIT may have been lost, or a counter raised by the service. Then
        a transaction that was done again leaves a gap though all its calls were answered;
        otherwise a mode's gaps are at most what its unanswered calls asked for.
    """
    verdict = Verdict()
    by_mode: dict[str, list[Call]] = {}
    for call in calls:
        by_mode.setdefault(call.mode, []).append(call)
        verdict.calls += 1
        if call.answered:
            verdict.answers += 1
        elif call.refused:
            verdict.refused += 1
        else:
            verdict.unanswered += 1
        _check_one(call, verdict)
    for mode in sorted(by_mode.keys() | counters.keys()):
        start = (initial or {}).get(mode, 1)
        own = by_mode.get(mode, [])
        _check_order(mode, [call for call in own if call.answered], verdict)
        _check_mode(mode, own, counters.get(mode), start, ambiguous, verdict)
    return verdict


def _check_one(call: Call, verdict: Verdict) -> None:
    told = verdict.violations.append
    if call.end < call.begin:
        told(f"broken log: {call} ended before it began")
    if call.status is not None and call.status not in DECLARED:
        told(f"undeclared status: {call}")
    if call.first is None:
        return
    if call.last is None or call.last - call.first + 1 != call.count:
        told(f"wrong size: {call} asked for {call.count} IDs")
    if call.first < 1 or (call.last or 0) > MAX_ID:
        told(f"outside of 1 to 2^63-2: {call}")


def _check_mode(
    mode: str,
    calls: list[Call],
    counter: int | None,
    start: int,
    ambiguous: bool,
    verdict: Verdict,
) -> None:
    told = verdict.violations.append
    answered = [call for call in calls if call.first is not None and call.last is not None]
    covered = _overlaps(mode, answered, verdict)
    if counter is None:
        if answered:
            told(f"mode {mode!r} has answers and no counter")
        return
    if counter < start:
        told(f"mode {mode!r}: the counter regressed from {start} to {counter}")
    for call in answered:
        if call.first < start:  # type: ignore[operator]
            told(f"below the counter, which was at {start}: {call}")
        if call.last >= counter:  # type: ignore[operator]
            told(f"the counter is at {counter}, not above {call}")
    gaps = counter - start - covered
    verdict.gaps += max(0, gaps)
    lost = sum(call.count for call in calls if not call.answered and not call.refused)
    if not ambiguous and gaps > lost:
        told(f"mode {mode!r}: a gap of {gaps} IDs, and unanswered calls account for {lost}")


def _overlaps(mode: str, answered: list[Call], verdict: Verdict) -> int:
    """Note IDs in two answers; how many different IDs were answered."""
    covered = 0
    reach = 0
    holder: Call | None = None
    for call in sorted(answered, key=lambda call: (call.first or 0, call.last or 0)):
        first, last = call.first or 0, call.last or 0
        if holder is not None and first <= reach:
            twice = min(last, reach) - first + 1
            verdict.duplicates += twice
            verdict.violations.append(
                f"mode {mode!r}: {twice} IDs from {first} on are in two answers: {holder}, {call}"
            )
        covered += max(0, last - max(first, reach + 1) + 1)
        if last > reach:
            reach, holder = last, call
    return covered


def _check_order(mode: str, answered: list[Call], verdict: Verdict) -> None:
    """Later answers are higher: per client, and between clients when one call ended before another
    began."""
    per_client: dict[int, list[Call]] = {}
    for call in answered:
        per_client.setdefault(call.client, []).append(call)
    for client, own in per_client.items():
        for earlier, later in pairwise(sorted(own, key=lambda call: call.begin)):
            if (later.first or 0) <= (earlier.last or 0):
                verdict.violations.append(
                    f"mode {mode!r}: client {client} got a lower range later: {earlier}, {later}"
                )
    ended = sorted(answered, key=lambda call: call.end)
    highest: Call | None = None
    position = 0
    for call in sorted(answered, key=lambda call: call.begin):
        while position < len(ended) and ended[position].end < call.begin:
            if highest is None or (ended[position].last or 0) > (highest.last or 0):
                highest = ended[position]
            position += 1
        if highest is not None and (call.first or 0) <= (highest.last or 0):
            verdict.violations.append(
                f"mode {mode!r}: a call began after another had ended and got less:"
                f" {highest}, {call}"
            )
