"""What the promise needs of a database server beyond what a session can set.

A committed counter has to survive a crash of the server and a power cut. What a session can set,
the dialects set and verify when one is opened (`uniqueid.database.dialects`); a session on which
that fails is not used. What only the server's operator can set is checked once in each new session,
so that no request pays for it, and reported here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uniqueid.errors import UnsafeSession
from uniqueid.logs import Event

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DurabilityProblem:
    """A variable of the database server with which it may lose a committed transaction."""

    variable: str
    value: str
    needed: str
    remedy: str
    """What an operator has to do."""

    def __str__(self) -> str:
        return f"{self.variable} is {self.value}, needed is {self.needed}: {self.remedy}"


def log_problem(problem: DurabilityProblem) -> None:
    """Write the warning for a new problem."""
    log.warning(
        Event(
            "database may lose committed transactions",
            variable=problem.variable,
            value=problem.value,
            needed=problem.needed,
            remedy=problem.remedy,
        )
    )


class DurabilityMonitor:
    """The problems of the server that the newest session leads to, and what follows from them.

    Every thread that opens a session reports to it; `_lock` guards `_problems` and keeps the log
    lines in the order of the reports.

    :param required: refuse a session on a server with a problem (``durability = require``) instead
        of warning once.
    :param warn: called with each problem that the session before did not have.
    """

    def __init__(
        self,
        *,
        required: bool = False,
        warn: Callable[[DurabilityProblem], None] = log_problem,
    ) -> None:
        self._required = required
        self._warn = warn
        self._lock = threading.Lock()
        self._problems: tuple[DurabilityProblem, ...] = ()

    @property
    def problems(self) -> tuple[DurabilityProblem, ...]:
        """As of the newest session."""
        return self._problems

    def report(self, problems: Sequence[DurabilityProblem]) -> None:
        """Take the result of a check.

        :raises UnsafeSession: when there are problems and durability is required.
        """
        with self._lock:
            before, self._problems = self._problems, tuple(problems)
            if not self._required:
                for problem in problems:
                    if problem not in before:
                        self._warn(problem)
            if before and not problems:
                log.info("database durability problems resolved")
        if self._required and problems:
            reasons = "; ".join(str(problem) for problem in problems)
            raise UnsafeSession(f"durability = require, and {reasons}")
