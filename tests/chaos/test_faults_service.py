"""The service is killed, stopped, reloaded and run several times over."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import scenarios
import servers
from fault_scenario import FaultScenario, children, runs, worker
from load import MODES, hang_up

NewURL = Callable[[str], str]


def test_kill_9_of_the_worker(kind: str, new_url: NewURL) -> None:
    """uWSGI's master starts another worker, which goes on above everything."""
    scenarios.kill_9_of_the_worker(kind, new_url)


def test_kill_9_of_the_master(kind: str, new_url: NewURL) -> None:
    """The worker ends with its master, so that a new service can have the port."""
    with FaultScenario("kill -9 of the master", kind, new_url(kind), ambiguous=False) as scenario:
        orphan = worker(scenario.service)
        scenario.service.kill()
        servers.wait_until(lambda: not runs(orphan), "the end of the worker without a master")
        scenario.service.start()
        scenario.load.more_answers(100)


def test_graceful_reload(kind: str, new_url: NewURL) -> None:
    """SIGHUP answers every call: none fails, and none leaves a gap."""
    with FaultScenario("reload (SIGHUP)", kind, new_url(kind), ambiguous=False) as scenario:
        for _time in range(2):
            before = worker(scenario.service)
            scenario.service.signal(signal.SIGHUP)
            servers.wait_until(lambda: not runs(before), "the old worker's end")  # noqa: B023
            scenario.load.more_answers(100)
    assert (scenario.verdict.unanswered, scenario.verdict.gaps) == (0, 0)


def test_sigterm(kind: str, new_url: NewURL) -> None:
    """SIGTERM answers what was accepted and ends with 0: what was committed was answered."""
    scenarios.end_and_start(FaultScenario("SIGTERM", kind, new_url(kind), ambiguous=False), times=2)


@pytest.mark.parametrize("processes", [2, 3])
def test_several_services_on_one_database(network: str, processes: int, new_url: NewURL) -> None:
    """Independent services share the counters, also while one of them is killed."""
    fault = f"{processes} services, one killed"
    url = new_url(network)
    scenarios.share(
        FaultScenario(fault, network, url, ambiguous=False, processes=processes, clients=24)
    )


def test_clients_hang_up(kind: str, new_url: NewURL) -> None:
    """Clients that are gone before their answer cost at most a gap, and no thread."""
    with FaultScenario("clients hang up", kind, new_url(kind), ambiguous=False) as scenario:
        serving = worker(scenario.service)

        def impatient(number: int) -> None:
            for step in range(40):
                mode = MODES[(number + step) % len(MODES)]
                call = hang_up(scenario.service.port, 1000 + number, mode, 1 + step)
                scenario.load.history.add(call)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(impatient, range(8)))
        scenario.load.more_answers(100)
        assert children(scenario.service.process.pid) == [serving]
