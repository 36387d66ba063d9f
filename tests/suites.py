"""Which tests each command runs: `make check` the unit tests, `make test` the core, and
`make test-all` everything that is not in the core.

    pytest --suite=unit     seconds: no server
    pytest --suite=core     minutes: the unit tests, the databases and the core faults
    pytest --suite=rest     all others
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SUITES = ("unit", "core", "rest")

SLOW_UNIT_TESTS = (
    "tests/test_exactly_once.py",
    "tests/test_never_cached.py",
    "tests/test_distribution.py",
    "tests/test_docs.py",
    "tests/test_cli.py",
    "tests/test_public_interface.py",
)
"""They start servers and programs: in the core, and not among the unit tests."""

NOT_CORE = (
    "tests/test_server.py",
    "tests/test_cli_counters.py",
    "tests/test_journal_commands.py",
    "tests/databases/test_addresses.py",
    "tests/databases/test_benchmark.py",
    "tests/databases/test_mysql.py",
    "tests/databases/test_readiness.py",
    "tests/databases/test_collations.py",
    "tests/databases/test_counters_commands.py",
    "tests/databases/test_tls_modes.py",
)
"""The built-in server, commands in processes of their own, benchmarks, each collation, MySQL,
servers that become read-only, and servers with addresses or certificates of their own."""

IN_CORE = "tests/databases/test_collations.py::test_the_service_repeats_no_id_when_a_row_is_lost"

CORE_FAULTS = (
    "tests/chaos/test_faults_service.py::test_kill_9_of_the_worker[sqlite]",
    "tests/chaos/test_faults_service.py::test_graceful_reload[postgresql]",
    "tests/chaos/test_faults_database.py::test_kill_9_of_the_database[mariadb]",
    "tests/chaos/test_faults_database.py::test_connection_cut[postgresql",
    "tests/chaos/test_faults_going_back.py::test_failover_to_a_lagging_replica",
    "tests/chaos/test_faults_going_back.py::test_sqlite_file_replaced_by_an_older_copy[advance]",
)
"""Each core fault once: kill -9 of worker and database, cuts around COMMIT, restart, counter
regression and failover."""


ON_MYSQL = re.compile(r"[\[-]mysql[\]-]", re.IGNORECASE)
"""The parameter of a test that needs MySQL, which only `make test-all` installs."""


def suite(nodeid: str) -> str:
    """The smallest suite that a test is in."""
    if ON_MYSQL.search(nodeid) and not nodeid.startswith("tests/test_"):
        return "rest"
    if nodeid.startswith((*CORE_FAULTS, IN_CORE)):
        return "core"
    # The same on a second file system.
    if nodeid.startswith(NOT_CORE) or ("test_sqlite_file.py" in nodeid and "[tmpfs" in nodeid):
        return "rest"
    if nodeid.startswith(("tests/databases/", "client/tests/")):
        return "core"
    if nodeid.startswith("tests/test_"):
        return "core" if nodeid.startswith(SLOW_UNIT_TESTS) else "unit"
    return "rest"


REST_DIRECTORIES = frozenset(
    {
        "browser",
        "caches",
        "chart",
        "compatibility",
        "deploy",
        "documentation",
        "e2e",
        "model",
        "observability",
        "pythons",
    }
)
"""No core test is in them, and they import what only `make test-all` installs."""


def is_ignored(path: Path, config: pytest.Config) -> bool:
    """Whether a directory has no test of the suite that was asked for."""
    wanted = config.getoption("--suite") in ("unit", "core")
    return wanted and path.parent == Path(__file__).parent and path.name in REST_DIRECTORIES


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the suite that was asked for, all without one."""
    wanted = config.getoption("--suite")
    if wanted is None:
        return
    chosen = {"core": {"unit", "core"}}.get(wanted, {wanted})
    kept = [item for item in items if suite(item.nodeid) in chosen]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
