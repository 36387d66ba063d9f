"""Which request gets which IDs of a transaction: functions without state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from uniqueid.allocation.requests import PendingRequest
from uniqueid.errors import CounterExhausted, UniqueIDError
from uniqueid.model import Allocation, CounterUpdate


def by_mode(requests: Iterable[PendingRequest]) -> dict[str, list[PendingRequest]]:
    """The requests of each mode, in their order."""
    modes: dict[str, list[PendingRequest]] = {}
    for request in requests:
        modes.setdefault(request.mode, []).append(request)
    return modes


def totals(modes: Mapping[str, Sequence[PendingRequest]]) -> dict[str, int]:
    """How many IDs each mode needs."""
    return {mode: sum([request.count for request in group]) for mode, group in modes.items()}


def results(
    requests: Sequence[PendingRequest], update: CounterUpdate, batch_size: int
) -> list[Allocation | UniqueIDError]:
    """The result of each request of a mode whose counter was advanced for all of them.

    Requests without a record get disjoint ranges from `update.first` on; the store has resolved
    the others.

    :param batch_size: how many requests shared the transaction.
    """
    first = update.first
    found: list[Allocation | UniqueIDError] = []
    records = iter(update.records)
    for request in requests:
        if request.record is None:
            found.append(Allocation(first, batch_size))
            first += request.count
            continue
        resolution = next(records)
        if isinstance(resolution, UniqueIDError):
            found.append(resolution)
        else:
            found.append(Allocation(resolution.first, batch_size, resolution.replayed))
    return found


def fitting(
    requests: Sequence[PendingRequest], available: int
) -> tuple[list[PendingRequest], dict[PendingRequest, CounterExhausted]]:
    """The requests that fit into the rest of a counter, first come first served.

    :param available: how many IDs are left.
    :returns: those that fit, and the error of each that does not.
    """
    fit = []
    errors = {}
    for request in requests:
        if request.count <= available:
            available -= request.count
            fit.append(request)
        else:
            errors[request] = CounterExhausted(request.mode, request.count, available)
    return fit, errors
