"""Which CPU is chosen, and when the service moves to another."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import wait_until

from uniqueid import placement
from uniqueid.errors import ConfigError
from uniqueid.placement import Placement, better, least_busy, read_times, shares


def test_the_share_of_each_cpu_is_that_of_the_time_between(tmp_path: Path) -> None:
    """Waiting for a disk is not work, and the line for all CPUs together is not a CPU."""
    file = tmp_path / "stat"
    file.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n"
    )
    before = read_times(file)
    file.write_text("cpu0 20 5 15 40 20 0 0 0 7 0\ncpu2 0 0 0 100 0 0 0 0 0 0\nintr 5\n")
    assert shares(before, read_times(file)) == {0: pytest.approx(0.4), 2: 0.0}


def test_the_least_busy_cpu_is_chosen() -> None:
    """A CPU of which nothing is known counts as idle."""
    assert least_busy({0, 1, 2}, {0: 0.9, 1: 0.2, 2: 0.6}) == 1
    assert least_busy({0, 1, 2}, {0: 0.9, 1: 0.2}) == 2


def test_like_cpus_are_chosen_by_chance() -> None:
    """So that services which start together on one machine spread."""
    assert {least_busy(range(4), {0: 0.02, 3: 0.9}) for _ in range(200)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("busy", "own", "to"),
    [
        ({0: 0.9, 1: 0.0}, 0.9, None),  # alone there
        ({0: 1.0, 1: 0.1}, 0.5, 1),
        ({0: 1.0, 1: 0.4}, 0.5, None),  # not much better there
        ({0: 0.3, 1: 0.0}, 0.1, None),  # others take little
        ({0: 1.0, 1: 1.0}, 0.2, None),
        ({0: 1.0, 1: 0.9, 2: 0.3}, 0.2, 2),
    ],
)
def test_it_moves_only_for_something_much_better(
    busy: dict[int, float], own: float, to: int | None
) -> None:
    """What it uses itself is not held against its CPU."""
    assert better(0, sorted(busy), busy, own) == to


def test_a_process_with_one_cpu_stays_there() -> None:
    """There is nowhere to go."""
    assert better(0, [0], {0: 1.0}, 0.0) is None


@pytest.mark.parametrize("setting", ["auto", "off", "9999"])
def test_without_a_choice_nothing_is_chosen(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On other systems than Linux; a number is refused there."""
    monkeypatch.setattr(placement.sys, "platform", "win32")
    if setting == "9999":
        with pytest.raises(ConfigError, match=r"cpu = '9999' .*none on this system"):
            Placement(setting)
    else:
        settled = Placement(setting)
        settled.settle()
        assert settled.cpu is None


PROGRAM = """
import sys
from uniqueid.placement import Placement
placed = Placement(sys.argv[1], look_again=0.2)
placed.settle()
while True:
    print(placed.cpu, flush=True)
    sys.stdin.readline()
"""


class Placed:
    """A process that keeps to a CPU."""

    def __init__(self, setting: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, setting],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.read()

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()


@pytest.fixture
def placed() -> Iterator[Placed]:
    placed = Placed("auto")
    yield placed
    placed.process.kill()
    placed.process.communicate()


def test_it_leaves_a_cpu_that_somebody_else_needs(placed: Placed) -> None:
    """A program that is bound to the same CPU and never rests drives it away, if it can move."""
    mine = os.sched_getaffinity(0)
    assert int(placed.first) in mine
    hog = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os\nos.sched_setaffinity(0, {{{placed.first}}})\nwhile 1: 0",
        ]
    )
    try:
        if len(mine) > 1:
            wait_until(lambda: placed.ask() != placed.first, "the move")
            assert os.sched_getaffinity(placed.process.pid) == {int(placed.ask())}
        else:
            assert placed.ask() == placed.first
    finally:
        hog.kill()
        hog.wait()
