"""Which tests `make test` runs side by side, and in which order (pytest -n, --dist loadgroup).

A group stays in one process, in the order of its tests: what its fixtures make is made once. Each
process has database servers of its own, and each test its own services; ports, directories and
databases are always a test's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

LONGEST = (
    "pythons",
    "chart/test_image.py",
    "chaos/test_recovery.py",
    "chaos/test_bad_input.py",
)
"""What takes longest, and is begun first, so that no process is left alone with it at the end."""

APART = ("chaos/", "pythons/")
"""Where each test is a group of its own: they are long, and have little in common."""


def arrange(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests and mark their groups, in each of the processes of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        return
    places = {item: item.path.relative_to(TESTS).as_posix() for item in items}
    items.sort(key=lambda item: _rank(places[item]))
    for item in items:
        if not places[item].startswith(APART):
            item.add_marker(pytest.mark.xdist_group(places[item]))


def _rank(place: str) -> int:
    ranks = [rank for rank, start in enumerate(LONGEST) if place.startswith(start)]
    return ranks[0] if ranks else len(LONGEST)
