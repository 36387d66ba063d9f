"""One transaction for the requests of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from uniqueid.allocation import distribution
from uniqueid.allocation.availability import DatabaseAvailability
from uniqueid.allocation.high_water_marks import HighWaterMarks
from uniqueid.allocation.regression import RegressionGuard
from uniqueid.allocation.requests import PendingRequest
from uniqueid.errors import (
    CounterExhausted,
    CounterRegressed,
    JournalMissing,
    ModeBusy,
    UniqueIDError,
)
from uniqueid.logs import Event
from uniqueid.model import CounterStore, CounterUpdate, Observer

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Unfinished:
    """The requests that a transaction has not completed."""

    retry: list[list[PendingRequest]] = field(default_factory=list)
    """Each list needs a transaction of its own."""
    busy: list[tuple[ModeBusy, list[PendingRequest]]] = field(default_factory=list)
    """Another transaction holds their counter locked."""


class BatchExecutor:
    """Executes a transaction and completes its requests, in this order:

    1. The store commits the transaction.
    2. If it used a new session, all counters are compared with their high-water marks.
    3. The high-water marks of the counters are raised.
    4. The requests are completed.

    What fails between two of these leaves a gap. The thread that holds the store lock calls it.
    """

    def __init__(
        self,
        store: CounterStore,
        marks: HighWaterMarks,
        guard: RegressionGuard,
        availability: DatabaseAvailability,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._marks = marks
        self._guard = guard
        self._availability = availability
        self._observer = observer
        self._clock = clock
        self._exhausted: set[str] = set()
        self.batch_size = 0
        """How many requests the last transaction had."""

    def execute(self, requests: list[PendingRequest], deadline: float) -> Unfinished:
        """Allocate a range for each request, in one transaction.

        :param deadline: on the allocator's clock; there is no further attempt after it.
        :returns: the requests that are not completed.
        :raises CounterRegressed: when requests are rejected because of a regressed counter.
        :raises Unavailable: when the transaction was not committed, as far as can be known.
        """
        modes = distribution.by_mode(requests)
        totals = distribution.totals(modes)
        records = [request.record for request in requests if request.record is not None]
        started = self._clock()
        try:
            updates = self._store.advance(
                totals, self._marks, repair=self._guard.repair, deadline=deadline, records=records
            )
        except JournalMissing as error:
            return self._reject_records(requests, error)
        self.batch_size = len(requests)
        seconds = self._clock() - started
        self._availability.mark_available()
        self._guard.check_new_session()
        self._guard.raise_if_regressed()
        unfinished = Unfinished()
        retry: list[PendingRequest] = []
        regressed = False
        for mode, update in updates.items():
            group = modes[mode]
            if isinstance(update, CounterUpdate):
                self._complete(mode, group, update)
                regressed |= update.regressed
            elif isinstance(update, CounterRegressed):
                self._guard.reject(update)
                regressed = True
            elif isinstance(update, ModeBusy):
                unfinished.busy.append((update, group))
            elif isinstance(update, CounterExhausted):
                if len(group) > 1 and any(request.record is not None for request in group):
                    # A request whose key has its range already needs no IDs.
                    unfinished.retry += [[request] for request in group]
                else:
                    retry += self._reject_excess(mode, group, update.available)
            else:
                for request in group:
                    request.complete(update)
        if retry:
            unfinished.retry.insert(0, retry)
        self._report(seconds, totals)
        if regressed:
            self._guard.check_all()
            self._guard.raise_if_regressed()
        return unfinished

    @staticmethod
    def _reject_records(requests: list[PendingRequest], error: JournalMissing) -> Unfinished:
        """Fail the requests that have to be recorded; the others need another transaction."""
        rest = []
        for request in requests:
            if request.record is None:
                rest.append(request)
            else:
                request.complete(error)
        return Unfinished([rest] if rest else [])

    def _complete(self, mode: str, requests: list[PendingRequest], update: CounterUpdate) -> None:
        if update.regressed:
            self._guard.report(update)
        # Before any request is completed: an error in between must not leave an ID unguarded.
        self._marks.raise_to(update.counter, update.next_id)
        allocated = replayed = 0
        results = distribution.results(requests, update, self.batch_size)
        for request, result in zip(requests, results, strict=True):
            if not isinstance(result, UniqueIDError):
                replayed += result.replayed
                allocated += not result.replayed
            request.complete(result)
        if allocated:
            self._observer.allocated(mode, allocated, update.count, update.next_id)
        if replayed:
            self._observer.replayed(replayed)

    def _reject_excess(
        self, mode: str, requests: list[PendingRequest], available: int
    ) -> list[PendingRequest]:
        """Fail the requests that do not fit into the rest of a counter, and return the others."""
        fit, errors = distribution.fitting(requests, available)
        for request, error in errors.items():
            request.complete(error)
            if mode not in self._exhausted:
                self._exhausted.add(mode)
                log.warning("%s; what does not fit is refused with 409", error)
        return fit

    def _report(self, seconds: float, totals: Mapping[str, int]) -> None:
        self._observer.committed(self.batch_size, seconds)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                Event(
                    "committed",
                    batch=self.batch_size,
                    duration=seconds,
                    modes=",".join(totals),
                    ids=sum(totals.values()),
                )
            )
