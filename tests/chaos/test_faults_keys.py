"""The same key from many clients, through every way in which an answer can be lost.

Each key gets exactly one range, and the counters show that nothing else was taken for it: not even
where a COMMIT had no answer is there a gap. Beside it runs the load without keys.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest
import servers
from fault_proxy import Proxy, commit_answer_is_lost, commit_never_arrives
from fault_scenario import FaultScenario, kill_9, runs, worker
from history import is_503
from keyed import KeyedLoad

NewURL = Callable[[str], str]
Server = servers.MariaDB | servers.PostgreSQL


class KeyedCell(FaultScenario):
    """A scenario with a load that has keys as well."""

    def __enter__(self) -> KeyedCell:
        super().__enter__()
        try:
            self.keyed = KeyedLoad([service.port for service in self.services])
            self.keyed.start()
            self.keyed.more_answers(20)
        except BaseException:
            self._remove()
            raise
        return self

    def finish(self) -> None:
        if not self._finished:
            for call in self.keyed.stop():
                self.load.history.add(call)
            super().finish()
            self.keyed.exactly_once(self.final)
            assert self.keyed.replays > 0


def test_kill_9_of_the_worker(kind: str, new_url: NewURL) -> None:
    """What the killed process had committed without answering is answered by the next."""
    with KeyedCell("keys: kill -9 of the worker", kind, new_url(kind), ambiguous=False) as scenario:
        for _time in range(3):
            before = worker(scenario.service)
            os.kill(before, signal.SIGKILL)
            servers.wait_until(lambda: not runs(before), "the worker's end")  # noqa: B023
            scenario.keyed.more_answers(20)


def test_kill_9_of_the_database(network: str, server: Server) -> None:
    """What was committed is found again when it is back, and what was not is done."""
    url = server.url(server.new_database())
    with KeyedCell("keys: kill -9 of the database", network, url, ambiguous=True) as scenario:
        kill_9(server)
        scenario.load.more(is_503, "a 503")
        server.start()
        scenario.keyed.more_answers(20)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server."""
    with Proxy(server.port) as proxy:
        yield proxy


def test_connections_cut_around_commit(network: str, server: Server, proxy: Proxy) -> None:
    """COMMIT arrived and its answer was lost, COMMIT never arrived, cuts at any moment; two
    services at once."""
    url = server.url(server.new_database(), proxy.port)
    with KeyedCell(
        "keys: cut around COMMIT, 2 services", network, url, ambiguous=True, processes=2
    ) as scenario:
        for plan in (commit_answer_is_lost, commit_never_arrives, commit_answer_is_lost):
            fired = proxy.fired + 3
            proxy.arm(plan, 3)
            servers.wait_until(lambda: proxy.fired >= fired, "the cuts")  # noqa: B023
            scenario.keyed.more_answers(10)
        for _time in range(10):
            proxy.cut()
            scenario.keyed.more_answers(5)
        assert scenario.service.metric("uniqueid_replays_total") > 0
