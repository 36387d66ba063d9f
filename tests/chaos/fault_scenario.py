"""One scenario of the table fault x database: services, a load on them, and the verdict."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg2
import pymysql
import servers
from checker import Verdict, check
from load import MODES, Load

from uniqueid.database_url import parse


@dataclass(frozen=True)
class Result:
    """What the report prints of a scenario."""

    fault: str
    database: str
    verdict: Verdict


RESULTS: list[Result] = []
"""Of every scenario that the running test has run."""

NOTES: list[str] = []
"""What else the running test has measured, a line each."""


class FaultScenario:
    """Services under load while something goes wrong; at the end of the block all is checked.

    :param fault: what goes wrong, in the report's words.
    :param kind: the database.
    :param url: where the counters are, by the way which the services take.
    :param ambiguous: whether a COMMIT may be lost (`checker.check`).
    :param processes: how many independent services use the database.
    :param clients: of all of them together; None for the usual number.
    :param settings: of the services.
    :param initial: the counters that there are before.
    :param prepare: done with the first service before the load starts.
    :param uncontended: whether most requests of a single client are executed in their own threads.
    """

    def __init__(
        self,
        fault: str,
        kind: str,
        url: str,
        *,
        ambiguous: bool,
        processes: int = 1,
        clients: int | None = None,
        modes: Sequence[str] = MODES,
        settings: dict[str, str] | None = None,
        initial: dict[str, int] | None = None,
        prepare: Callable[[servers.Service], object] = lambda service: None,
        uncontended: bool = True,
    ) -> None:
        self.fault = fault
        self.kind = kind
        self.ambiguous = ambiguous
        self.initial = initial or {}
        self.prepare = prepare
        # Short, so that faults pass quickly.
        chosen = {"request_timeout": "2", **(settings or {})}
        self.services = [servers.Service(url, **chosen) for _number in range(processes)]
        self.load = Load([service.port for service in self.services], clients=clients, modes=modes)
        self.uncontended = uncontended and self.load.clients == 1
        """Whether there is one client, whose requests are met in the threads that have them."""
        self.verdict = Verdict()
        self.final: dict[str, int] = {}
        """The counters after the last call."""
        self._finished = False

    @property
    def service(self) -> servers.Service:
        """The first service."""
        return self.services[0]

    def __enter__(self) -> FaultScenario:
        try:
            for service in self.services:
                service.start()
            self.prepare(self.service)
            self.load.start()
            if self.uncontended:
                self._check_uncontended()
            self.load.more_answers(100)
        except BaseException:
            self._remove()
            raise
        return self

    def _check_uncontended(self) -> None:
        """See that no one thread has a hand in all requests, as the committer has otherwise."""
        # The first make the counters.
        self.load.more_answers(20)
        before, answers = waits(worker(self.service)), self.load.history.answers()
        self.load.more_answers(100)
        after = waits(worker(self.service))
        answers = self.load.history.answers() - answers
        most = max(count - before.get(thread, 0) for thread, count in after.items())
        assert most < answers / 2, f"one thread waited {most} times for {answers} answers"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
            else:
                error.add_note(f"the service's log ends:\n{self._logs()[-3000:]}")
        finally:
            self._remove()

    def finish(self) -> None:
        """End the load and judge it: before the block ends where the database is gone by then."""
        if self._finished:
            return
        self._finished = True
        history = self.load.stop()
        fault = self.fault
        if self.load.clients == len(self.services):
            fault += ", one client" if len(self.services) == 1 else ", one client each"
        self.final = self.counters()
        self.verdict = check(
            history.calls,
            self.final,
            initial=self.initial,
            ambiguous=self.ambiguous,
        )
        RESULTS.append(Result(fault, self.kind, self.verdict))
        assert self.verdict.violations == [], "\n".join(self.verdict.violations[:10])
        logs = self._logs()
        assert "Traceback" not in logs, logs[logs.index("Traceback") :][:3000]

    def _logs(self) -> str:
        """What the services wrote, without uWSGI's lines about single requests."""
        return "\n".join(
            line
            for service in self.services
            for line in service.log.read_text(errors="replace").splitlines()
            if not line.startswith("[pid: ")
        )

    def _remove(self) -> None:
        self.load.stop()
        for service in self.services:
            service.remove()

    def counters(self) -> dict[str, int]:
        """What the operator's command shows."""
        shown = json.loads(self.service.cmd("show", "--json"))
        return {item["mode"]: item["next_id"] for item in shown["counters"]}


def connect(url: str) -> Any:
    """A plain connection of the driver's, past everything of the service."""
    place = parse(url, "url", "test")
    if place.kind == "sqlite":
        return sqlite3.connect(place.database, isolation_level=None, check_same_thread=False)
    if place.kind == "mysql":
        return pymysql.connect(
            host=place.host, port=place.port, user=place.user, password=place.password,
            database=place.database,
        )  # fmt: skip
    return psycopg2.connect(
        host=place.host, port=place.port, user=place.user, dbname=place.database
    )


def children(pid: int) -> list[int]:
    """The processes which a process has started and which run."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(child) for child in text.split()]


def worker(service: servers.Service) -> int:
    """The process of uWSGI's which serves; the master started it."""
    assert service.process is not None
    (pid,) = children(service.process.pid)
    return pid


def waits(pid: int) -> dict[str, int]:
    """How often each thread of a process has waited for something, for a lock or for input."""
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        found[thread] = int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def runs(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes(server: servers.Process) -> list[int]:
    """A database server's process and those it has started."""
    assert server.process is not None
    return [server.process.pid, *children(server.process.pid)]


def kill_9(server: servers.Process) -> None:
    """End a database server and its processes at one blow, as a power cut does."""
    pids = processes(server)
    server.kill()
    for pid in pids[1:]:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)
    servers.wait_until(lambda: not any(map(runs, pids)), "the database's end")
