"""What the service is compared with, each as a server that a benchmark starts and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import servers as servers  # noqa: E402
from compatibility import upstream  # noqa: E402


class Ours(servers.Service):
    """The service as it is shipped, on the CPU that all contestants are kept on."""

    def __init__(self, database_url: str, cpu: int | None, **settings: str) -> None:
        super().__init__(database_url, cpu="off" if cpu is None else str(cpu), **settings)


class SameFront(servers.Service):
    """Another application behind the service's own uWSGI settings, on the same CPU.

    :param module: its name in `contestants/`.
    """

    def __init__(self, module: str, database_url: str, cpu: int | None, **variables: str) -> None:
        super().__init__(database_url)
        self.module = module
        self.cpu = cpu
        self.variables = variables

    def command(self) -> list[str]:
        place = [] if self.cpu is None else ["taskset", "-c", str(self.cpu)]
        path = ["--pythonpath", str(HERE / "contestants")]
        return [*place, *super().command(), *path, "--module", self.module]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.variables}

    def ready(self) -> bool:
        return servers.listens(self.port)


class Upstream(upstream.Site):
    """pacifica-uniqueid 0.5.1, started as its documentation says: its own server."""

    def __init__(self, peewee_url: str) -> None:
        super().__init__(peewee_url, upstream.old("0.5.1"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        result = self.run("pacifica-uniqueid-cmd dbsync")
        assert result.returncode == 0, result.stderr
        super().start()


class Redis(servers.Process):
    """A Redis server whose answers are on disk."""

    def command(self) -> list[str]:
        return [
            servers.sbin("redis-server"),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]


def place() -> tuple[int | None, set[int]]:
    """The CPU for the contestants and those for the load, or none and all where there is one."""
    cpus = sorted(os.sched_getaffinity(0))
    return (None, set(cpus)) if len(cpus) < 2 else (cpus[-1], set(cpus[:-1]))


@contextmanager
def pinned(cpus: Set[int]) -> Iterator[None]:
    """Pin every process that is started within the block to these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
