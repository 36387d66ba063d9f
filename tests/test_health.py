"""Health checks: how often they run, and for how long a caller waits for them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fakes import Clock, FakeStore
from servers import wait_until

from uniqueid.allocation.allocator import Allocator
from uniqueid.errors import DatabaseUnavailable, SchemaError
from uniqueid.monitoring.health import HealthCheck, HealthMonitor, HealthResult, checks


class Database(FakeStore):
    """Counts the questions; the next waits at a gate."""

    def __init__(self, **counters: int) -> None:
        super().__init__(**counters)
        self.questions = 0
        self.schema: str | None = None
        self.gate_of_questions = threading.Event()
        self.gate_of_questions.set()

    def ping(self) -> None:
        self.questions += 1
        self.gate_of_questions.wait(30)
        super().ping()

    def require(self) -> None:
        if self.schema is not None:
            raise SchemaError(self.schema, "run it")


@pytest.fixture
def database() -> Database:
    return Database(file=11)


@pytest.fixture
def make(database: Database) -> Iterator[Callable[..., HealthMonitor]]:
    made: list[HealthMonitor] = []

    def make(**options: Any) -> HealthMonitor:
        options.setdefault("timeout", 30)
        marks = options.pop("high_water_marks", dict)
        made.append(HealthMonitor(HealthCheck(database, database.require, marks), **options))
        return made[-1]

    yield make
    database.gate_of_questions.set()
    for monitor in made:
        monitor.close(30)


def test_many_who_ask_at_once_are_one_question(
    database: Database, make: Callable[..., HealthMonitor]
) -> None:
    """And an answer counts for a second, however many probes there are."""
    clock = Clock(100.0)
    monitor = make(clock=clock)
    database.gate_of_questions.clear()
    with ThreadPoolExecutor(8) as pool:
        looks = [pool.submit(monitor.check) for _ in range(8)]
        database.gate_of_questions.set()
        assert {look.result(30).counters["file"] for look in looks} == {11}
    monitor.check()
    assert database.questions == 1
    clock.now += 1
    monitor.check()
    assert database.questions == 2


def test_a_database_that_hangs_holds_nobody_up(
    database: Database, make: Callable[..., HealthMonitor]
) -> None:
    """The question stays open in its own thread, no other is started, and the answer counts."""
    monitor = make(timeout=0.01)
    database.gate_of_questions.clear()
    for _ in range(5):
        assert "has not answered" in str(monitor.check().database)
    assert "has not answered" in str(monitor.last_result().database)
    # The thread that asks may get its turn later than all of these.
    wait_until(lambda: database.questions > 0, "the question")
    assert "has not answered" in str(monitor.check().database)
    assert database.questions == 1
    database.gate_of_questions.set()
    wait_until(lambda: monitor.last_result() == HealthResult(counters={"file": 11}), "the answer")


def test_a_problem_reaches_the_log_once(
    database: Database, make: Callable[..., HealthMonitor], caplog: pytest.LogCaptureFixture
) -> None:
    """When it begins and when it ends, not with every probe."""
    monitor = make(max_age=0)
    caplog.set_level(logging.INFO, "uniqueid")
    database.ping_error = DatabaseUnavailable("gone fishing")
    for _ in range(3):
        assert monitor.check() == HealthResult(database="gone fishing")
    database.ping_error = None
    database.schema = "the schema has version 0.0"
    for _ in range(3):
        assert monitor.check() == HealthResult(schema="the schema has version 0.0; run it")
    database.schema = None
    for _ in range(3):
        assert monitor.check() == HealthResult(counters={"file": 11})
    assert [record.getMessage() for record in caplog.records] == [
        'database unavailable cause="gone fishing"',
        "database available",
        'tables unusable cause="the schema has version 0.0; run it"',
        "tables usable",
    ]


def test_the_end_of_a_problem_is_found_without_a_probe(
    database: Database, make: Callable[..., HealthMonitor], caplog: pytest.LogCaptureFixture
) -> None:
    """Who has told its beginning tells its end."""
    monitor = make(max_age=0)
    database.ping_error = DatabaseUnavailable("gone fishing")
    assert monitor.check() == HealthResult(database="gone fishing")
    database.ping_error = None
    wait_until(lambda: "database available" in caplog.text, "the end being told")
    assert caplog.text.count("gone fishing") == 1


def test_an_error_that_nobody_expected_is_told_once_and_whole(
    database: Database, make: Callable[..., HealthMonitor], caplog: pytest.LogCaptureFixture
) -> None:
    """With its traceback, for the developers of this program."""
    monitor = make(max_age=0)
    database.ping_error = ZeroDivisionError("a mistake")
    for _ in range(3):
        assert monitor.check() == HealthResult(database="ZeroDivisionError")
    assert caplog.text.count("ZeroDivisionError: a mistake") == 1


@pytest.mark.parametrize("repair", [True, False])
def test_a_counter_that_went_back_is_seen_before_anybody_asks_for_it(
    database: Database, make: Callable[..., HealthMonitor], repair: bool
) -> None:
    """With stop that is a reason to send no requests; with advance the next request repairs it."""
    allocator = Allocator(database, repair=repair)
    monitor = make(high_water_marks=lambda: allocator.high_water_marks, max_age=0)
    asked = checks(allocator, monitor.check, repair=repair)
    try:
        assert allocator.allocate("file", 10).first == 11
        assert {name: check() for name, check in asked.items()} == dict.fromkeys(asked)
        database.values["file"] = 5
        wrong = asked["counters"]()
        assert (wrong is None) is repair
        if not repair:
            assert "'file'" in str(wrong)
            assert "21" in str(wrong)
    finally:
        allocator.close(30)


def test_each_check_has_its_own_words(
    database: Database, make: Callable[..., HealthMonitor]
) -> None:
    """The database's, the schema's and the committer's."""
    allocator = Allocator(database)
    asked = checks(allocator, make(max_age=0).check, repair=True)
    database.ping_error = DatabaseUnavailable("gone fishing")
    assert asked["database"]() == "gone fishing"
    database.ping_error = None
    database.schema = "the schema has version 0.0"
    assert asked["schema"]() == "the schema has version 0.0; run it"
    allocator.start()
    assert asked["committer"]() is None
    allocator.close(30)
    assert "restart" in str(asked["committer"]())
