"""Which CPU the threads of the service run on.

Python runs one thread at a time. Where its threads are spread over several CPUs, its lock travels
between them with each switch, and a process that cannot use a second CPU anyway answers a third
fewer requests. So the process keeps to one CPU, of those that it may use: the one that is least
busy when it starts, and another one when neighbours turn out to need that one as well. Threads of
C that run without Python's lock (a commit's fsync) wait more than they compute.

Linux only (sched(7), cpuset(7), proc(5)); elsewhere the threads run where they like.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from uniqueid.errors import ConfigError
from uniqueid.logs import Event
from uniqueid.runtime import threads

log = logging.getLogger(__name__)

OFF = "off"
AUTO = "auto"

# Seconds over which the load of the CPUs is measured before the first choice.
_FIRST_INTERVAL = 0.1
# Seconds between two later measurements, plus or minus a half, so that two services that contend
# for a CPU do not leave it together.
_CHECK_INTERVAL = 10.0
# Utilization by other processes from which a move is considered, and how much lower it has to be on
# the other CPU: a move loses the contents of caches.
_CONTENDED = 0.3
_BETTER = 0.2

Times = Mapping[int, tuple[float, float]]
"""CPU to the seconds it was busy and the seconds in all, since the machine's start."""


def allowed() -> frozenset[int]:
    """The CPUs that this process may use; empty where they cannot be chosen."""
    if sys.platform != "linux":
        return frozenset()
    return frozenset(os.sched_getaffinity(0))


def read_times(file: Path = Path("/proc/stat")) -> Times:
    """What each CPU has done so far, for the whole machine: in a container as well.

    Nothing where the file is hidden, as by systemd's ``ProcSubset=pid``: all CPUs count as idle.
    """
    times: dict[int, tuple[float, float]] = {}
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return times
    for line in lines:
        name, *columns = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user, nice, system, idle, iowait, irq, softirq, steal; guest is in user already.
            values = [int(column) / ticks for column in columns[:8]]
            times[int(name[3:])] = (sum(values) - values[3] - values[4], sum(values))
    return times


def cpu_utilization(before: Times, after: Times) -> dict[int, float]:
    """By CPU, how much of the time between two measurements it was busy, from 0 to 1."""
    found = {}
    for cpu, (busy, total) in after.items():
        busy_before, total_before = before.get(cpu, (0.0, 0.0))
        if total > total_before:
            found[cpu] = min(1.0, max(0.0, (busy - busy_before) / (total - total_before)))
    return found


def least_busy(cpus: Collection[int], busy: Mapping[int, float]) -> int:
    """One of the CPUs with the lowest utilization, at random among similar ones."""
    least = min(busy.get(cpu, 0.0) for cpu in cpus)
    return random.choice([cpu for cpu in cpus if busy.get(cpu, 0.0) <= least + 0.05])


def find_better_cpu(
    cpu: int, cpus: Collection[int], busy: Mapping[int, float], own: float
) -> int | None:
    """The CPU to move to; None to stay.

    :param own: the share of its CPU that this process used itself.
    """
    others = busy.get(cpu, 0.0) - own
    rest = [other for other in cpus if other != cpu]
    if others < _CONTENDED or not rest:
        return None
    found = least_busy(rest, busy)
    return found if busy.get(found, 0.0) + _BETTER <= others else None


class CpuAffinity:
    """Keeps the process on one CPU.

    :param setting: 'auto' to choose, 'off' to leave it to the system, or the CPU's number.
    :raises ConfigError: for a CPU that the process may not use.
    """

    def __init__(self, setting: str, check_interval: float = _CHECK_INTERVAL) -> None:
        self._setting = setting
        self._check_interval = check_interval
        self._cpus = allowed()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.cpu: int | None = None
        """Where all threads run; None when they may run on several CPUs."""
        if setting not in (AUTO, OFF) and int(setting) not in self._cpus:
            names = ", ".join(map(str, sorted(self._cpus))) or "none on this system"
            raise ConfigError(
                "[uniqueid] cpu", setting, "settings", f"this process may use {names}, auto or off"
            )

    def apply(self) -> None:
        """Choose a CPU, and move all threads of the process to it; later threads inherit it.

        A process that forks calls it after the fork.
        """
        if len(self._cpus) == 1:
            # A container or an operator has chosen already.
            (self.cpu,) = self._cpus
        if self._setting == OFF or len(self._cpus) < 2:
            return
        if self._setting != AUTO:
            self._move(int(self._setting))
            return
        before = read_times()
        time.sleep(_FIRST_INTERVAL)
        self._move(least_busy(self._cpus, cpu_utilization(before, read_times())))
        if self.cpu is not None:
            self._thread = threads.start(self._run, "placement")

    def close(self) -> None:
        """Stop measuring; the process stays on its CPU."""
        self._closing.set()

    def _move(self, cpu: int) -> None:
        try:
            for thread in os.listdir("/proc/self/task"):
                try:
                    os.sched_setaffinity(int(thread), {cpu})
                except ProcessLookupError:
                    continue
        except OSError as error:
            # Forbidden in some sandboxes, and no reason not to serve.
            log.warning("CPU %d cannot be chosen: %s; the threads run where they like", cpu, error)
            self.cpu = None
            return
        self.cpu = cpu
        log.info(Event("runs on one CPU", cpu=cpu, allowed=",".join(map(str, sorted(self._cpus)))))

    def _run(self) -> None:
        clock: Callable[[], float] = time.monotonic
        before, at, used = read_times(), clock(), time.process_time()
        while not self._closing.wait(self._check_interval * random.uniform(0.5, 1.5)):
            times, now, spent = read_times(), clock(), time.process_time()
            own = (spent - used) / max(now - at, 0.001)
            assert self.cpu is not None
            to = find_better_cpu(self.cpu, self._cpus, cpu_utilization(before, times), own)
            if to is not None:
                self._move(to)
                if self.cpu is None:
                    return
            before, at, used = times, now, spent
