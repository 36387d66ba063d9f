"""Which tests run side by side, and in which order, where pytest has several processes (-n).

A group stays in one process, in the order of its tests: what its fixtures make is made once. Each
process has database servers of its own, and each test its own services; ports, directories and
databases are always a test's own.
"""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

LONGEST = (
    "tests/pythons/",
    "tests/chart/test_image.py",
    "tests/chaos/test_recovery.py",
    "tests/databases/test_benchmark.py",
    "tests/compatibility/test_commands.py",
    "tests/chart/test_release.py",
    "tests/chaos/test_bad_input.py",
)
"""What takes longest, and is begun first, so that no process is left alone with it at the end."""

APART = ("tests/pythons/", "tests/chaos/", "tests/databases/test_sqlite_file.py")
"""Where each test is a group of its own: they are long, and have little in common."""


def group(nodeid: str) -> str:
    """What else than this test has to run in the same process: its file, or nothing."""
    return nodeid if nodeid.startswith(APART) else nodeid.partition("::")[0]


class Groups(LoadScopeScheduling):
    """Assigns groups, in the order in which the tests were collected."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def order(item: pytest.Item) -> int:
    """A key to sort tests by."""
    ranks = (rank for rank, start in enumerate(LONGEST) if item.nodeid.startswith(start))
    return next(ranks, len(LONGEST))
