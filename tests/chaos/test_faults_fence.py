"""Counters regress while the service is down, and faults of the fence file."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import scenarios
import servers
from checker import check
from fault_scenario import NOTES, FaultScenario, runs, worker
from history import is_fence_damaged, is_fence_unavailable
from load import Load

from uniqueid.fence.file import CounterBound, read

NewURL = Callable[[str], str]


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("sqlite", "stop"), ("mariadb", "advance"), ("postgresql", "advance")],
)
def test_a_backup_is_restored_while_the_service_is_down(
    kind: str, policy: str, fence: Path, new_url: NewURL, request: pytest.FixtureRequest
) -> None:
    """After a clean stop and after kill -9: the fence knows what the database has lost."""
    scenarios.a_backup_is_restored_while_the_service_is_down(kind, policy, fence, new_url, request)


def test_without_a_fence_the_same_restore_repeats_ids(
    new_url: NewURL, request: pytest.FixtureRequest
) -> None:
    """What the fence is for, and that the checker sees it."""
    url = new_url("sqlite")
    service = servers.Service(url)
    with servers.running(service):
        load = Load([service.port])
        load.start()
        load.more_answers(100)
        restore = scenarios.backup("sqlite", url, request)
        load.more_answers(200)
        scenarios.end(service, cleanly=True)
        restore()
        service.start()
        load.more_answers(100)
        verdict = check(load.stop().calls, {}, ambiguous=True)
    assert verdict.duplicates > 0
    NOTES.append(f"restored while down, without a fence: {verdict.duplicates} IDs came twice")


def test_a_clean_stop_and_a_reload_leave_no_gap(fence: Path, new_url: NewURL) -> None:
    """The lock goes from one process to the next, and the bound is brought back each time."""
    url = new_url("sqlite")
    with FaultScenario(
        "SIGTERM and SIGHUP, fence",
        "sqlite",
        url,
        ambiguous=False,
        settings=scenarios.fence_settings(fence),
    ) as scenario:
        before = worker(scenario.service)
        scenario.service.signal(signal.SIGHUP)
        servers.wait_until(lambda: not runs(before), "the old worker's end")
        scenario.load.more_answers(100)
        scenarios.end(scenario.service, cleanly=True)
        scenario.service.start()
        scenario.load.more_answers(100)
    assert scenario.verdict.gaps == 0


def test_the_built_in_server_stops_cleanly_too(fence: Path, new_url: NewURL) -> None:
    """It brings the bound back to the exact value as well."""
    service = servers.BuiltIn(new_url("sqlite"), **scenarios.fence_settings(fence))
    with servers.running(service):
        service.allocate("file", 5)
        assert [bound.limit > bound.committed for bound in read(str(fence)).values()] == [True]
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    assert read(str(fence)) == {"file": CounterBound(6, 6)}


def test_the_fence_is_lost_or_truncated(fence: Path, new_url: NewURL) -> None:
    """Under the service it is written again; at a start it is refused until it was adopted."""
    url = new_url("sqlite")
    spoil: dict[str, Callable[[], None]] = {
        "there is no file": fence.unlink,
        "is empty": lambda: os.truncate(fence, 0),
        "is damaged": lambda: os.truncate(fence, fence.stat().st_size // 2),
    }
    with FaultScenario(
        "fence lost, truncated",
        "sqlite",
        url,
        ambiguous=True,
        settings=scenarios.fence_settings(fence),
    ) as scenario:
        service = scenario.service
        for number, (why, do) in enumerate(spoil.items()):
            do()
            scenario.load.more_answers(50)
            assert service.get("/readyz")[0] == 200
            assert service.log.read_text().count("removed or changed") == number + 1
            scenarios.end(service, cleanly=number == 1)
            do()
            service.start()
            scenario.load.more(is_fence_damaged, "a refusal since the fence is gone")
            status, document = service.get("/readyz")
            assert status == 503
            assert why in document["checks"]["fence"]
            assert "fence --adopt" in document["checks"]["fence"]
            service.cmd("fence", "--adopt")
            scenario.load.more_answers(50)
            servers.wait_until(lambda: service.get("/readyz")[0] == 200, "the service being ready")
        assert service.metric("uniqueid_counter_regressions_total") == 0


def test_each_of_several_services_knows_only_its_own_ids(
    tmp_path: Path, new_url: NewURL, request: pytest.FixtureRequest
) -> None:
    """A new one waits until its fence is adopted, while the first serves. After a restore the one
    that starts first repeats IDs of the other; with both running no ID is repeated."""
    url = new_url("postgresql")
    services = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        services.append(
            servers.Service(url, **scenarios.fence_settings(tmp_path / name / "fence.json"))
        )
    one, other = services
    with servers.running(one), contextlib.ExitStack() as stack:
        assert one.allocate("file", 10) == (1, 10)
        stack.enter_context(servers.running(other))

        def waits() -> bool:
            status, document = other.get("/readyz")
            assert status == 503
            return "fence --adopt" in document["checks"]["fence"]

        servers.wait_until(waits, "the other missing its fence")
        assert one.get("/readyz")[0] == 200
        other.cmd("fence", "--adopt")
        servers.wait_until(lambda: other.get("/readyz")[0] == 200, "the other being ready")
        restore = scenarios.backup("postgresql", url, request)
        assert other.allocate("file", 10) == (11, 20)
        for service in services:
            scenarios.end(service, cleanly=True)
        restore()
        one.start()
        assert one.allocate("file", 5) == (11, 15), "it cannot know"
        other.start()
        servers.wait_until(lambda: other.get("/readyz")[0] == 200, "the other being ready")
        assert other.allocate("file", 5) == (21, 25)
        assert one.allocate("file", 5) == (26, 30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    small = tmp_path / "small"
    small.mkdir()
    as_root = [] if os.getuid() == 0 else ["sudo", "-n"]
    mount = ["mount", "-t", "tmpfs", "-o", f"size=1m,uid={os.getuid()}", "tmpfs", str(small)]
    subprocess.run([*as_root, *mount], check=True)
    yield small
    subprocess.run([*as_root, "umount", str(small)], check=True)


def fill(file: Path) -> None:
    """Leave not a page of its file system."""
    with pytest.raises(OSError, match="No space"):
        file.write_bytes(bytes(2**20))


def test_the_fence_is_on_a_full_disk(small_disk: Path, new_url: NewURL) -> None:
    """An allocation that cannot be fenced is a 503; the service recovers when there is space."""
    url = new_url("sqlite")
    # So small that the committer has to write the fence again and again.
    chosen = scenarios.fence_settings(small_disk / "fence.json", fence_window="1000")
    with FaultScenario(
        "fence on a full disk", "sqlite", url, ambiguous=True, settings=chosen, uncontended=False
    ) as scenario:
        filler = small_disk / "filler"
        fill(filler)
        scenario.load.more(is_fence_unavailable, "a 503")
        status, document = scenario.service.get("/readyz")
        assert status == 503
        assert "No space left" in document["checks"]["fence"]
        assert scenario.service.metric("uniqueid_fence_write_errors_total") >= 1
        # A worker that is killed meanwhile starts on the file as it was last written.
        os.kill(worker(scenario.service), signal.SIGKILL)
        scenario.load.more(is_fence_unavailable, "a 503")
        filler.unlink()
        scenario.load.more_answers(200)
        servers.wait_until(lambda: scenario.service.get("/readyz")[0] == 200, "being ready")
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
