"""Which CPU is chosen, and when the service moves to another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import wait_until

from uniqueid.errors import ConfigError
from uniqueid.runtime import cpu_affinity
from uniqueid.runtime.cpu_affinity import (
    CpuAffinity,
    cpu_utilization,
    find_better_cpu,
    least_busy,
    read_times,
)


def test_the_share_of_each_cpu_is_that_of_the_time_between(tmp_path: Path) -> None:
    """Waiting for a disk is not work, and the line for all CPUs together is not a CPU."""
    file = tmp_path / "stat"
    file.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu2 0 0 0 0 0 0 0 0 0 0\n"
    )
    before = read_times(file)
    file.write_text("cpu0 20 5 15 40 20 0 0 0 7 0\ncpu2 0 0 0 100 0 0 0 0 0 0\nintr 5\n")
    assert cpu_utilization(before, read_times(file)) == {0: pytest.approx(0.4), 2: 0.0}


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
    assert find_better_cpu(0, sorted(busy), busy, own) == to


def test_a_process_with_one_cpu_stays_there() -> None:
    """There is nowhere to go."""
    assert find_better_cpu(0, [0], {0: 1.0}, 0.0) is None


@pytest.mark.parametrize("setting", ["auto", "off", "9999"])
def test_without_a_choice_nothing_is_chosen(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On other systems than Linux; a number is refused there."""
    monkeypatch.setattr(cpu_affinity.sys, "platform", "win32")
    if setting == "9999":
        with pytest.raises(ConfigError, match=r"cpu = '9999' .*none on this system"):
            CpuAffinity(setting)
    else:
        settled = CpuAffinity(setting)
        settled.apply()
        assert settled.cpu is None


PROGRAM = """
import json
import sys
import time
from pathlib import Path
from uniqueid.runtime import cpu_affinity

def read_times():
    # As busy as the file says, for as long as there has been time.
    busy = json.loads(Path(sys.argv[1]).read_text())
    now = time.monotonic()
    return {int(cpu): (now * share, now) for cpu, share in busy.items()}

cpu_affinity.read_times = read_times
placed = cpu_affinity.CpuAffinity("auto", check_interval=0.1)
placed.apply()
while True:
    print(placed.cpu, flush=True)
    sys.stdin.readline()
"""


class Placed:
    """A process that keeps to a CPU, on a machine that is as busy as the test says."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.cpus = sorted(os.sched_getaffinity(0))
        self.busy(None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.read()

    def busy(self, cpu: int | None) -> None:
        """Let one CPU be used by others all the time, and no other at all."""
        text = json.dumps({each: 1.0 if each == cpu else 0.0 for each in self.cpus})
        # At once, since it may be read at any time.
        self.file.with_suffix(".new").write_text(text)
        self.file.with_suffix(".new").replace(self.file)

    def read(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def ask(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[Placed]:
    placed = Placed(tmp_path / "busy.json")
    yield placed
    placed.process.kill()
    placed.process.communicate()


def test_it_leaves_a_cpu_that_others_need(placed: Placed) -> None:
    """With all its threads, and back when the other one is needed; where there is another one."""
    assert placed.first in placed.cpus
    before = placed.first
    for _ in range(2):
        placed.busy(before)
        if len(placed.cpus) > 1:
            wait_until(lambda before=before: placed.ask() != before, "the move")
        now = placed.ask()
        tasks = os.listdir(f"/proc/{placed.process.pid}/task")
        assert len(tasks) == min(2, len(placed.cpus))
        assert all(os.sched_getaffinity(int(task)) == {now} for task in tasks)
        before = now


def test_without_the_times_of_the_cpus_any_may_be_chosen(tmp_path: Path) -> None:
    """As with ``ProcSubset=pid``; nothing moves later, and nothing fails."""
    nothing = read_times(tmp_path / "absent")
    busy = cpu_utilization(nothing, nothing)
    assert busy == {}
    assert least_busy({3, 5}, busy) in {3, 5}
    assert find_better_cpu(3, {3, 5}, busy, own=1.0) is None
