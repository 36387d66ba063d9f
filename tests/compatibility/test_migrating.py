"""docs/migrating.md, followed to the letter by an operator of the legacy service."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import network
import pytest
import servers

from compatibility import upstream

PAGE = (servers.CHECKOUT / "docs/migrating.md").read_text(encoding="utf-8")
OLD_START = "pacifica-uniqueid"


def page_commands() -> list[str]:
    """Every command line of the page, in its order."""
    found = []
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL):
        found += [line.strip() for line in block.splitlines()]
    return found


class Operator:
    """A machine with the legacy service, installed as its documentation says."""

    def __init__(self, home: Path, programs: Path, net: network.Network) -> None:
        self.programs = programs
        self.net = net
        self.directory = home / "service"
        self.directory.mkdir()
        settings = home / ".pacifica-uniqueid"
        settings.mkdir()
        (settings / "config.ini").write_text(
            f"[database]\npeewee_url = sqliteext:///{home}/counters.sqlite3\n"
        )
        (settings / "cpconfig.ini").write_text(upstream.CHERRYPY_FILE)
        self.path = f"{programs}:{os.environ['PATH']}"
        self.expected = 1

    def pip(self, command: str) -> None:
        """Install what the page says; this package comes from the wheel that was built."""
        assert command.startswith("pip install ")
        environment = {
            **upstream.for_pip(),
            "PATH": self.path,
            "PIP_FIND_LINKS": str(Path(sys.prefix) / "dist"),
        }
        subprocess.run(f"{command} -q", shell=True, check=True, env=environment)

    def run(self, command: str) -> str:
        return subprocess.run(
            [*self.net.prefix, "sh", "-c", command],
            check=True,
            capture_output=True,
            text=True,
            cwd=self.directory,
            env={**os.environ, "PATH": self.path},
            timeout=servers.START_TIMEOUT,
        ).stdout

    def serve(self, command: str) -> None:
        """Start a server, take ranges which continue where the last one ended, end it."""
        with (self.directory / "log").open("ab") as log:
            server = subprocess.Popen(
                [*self.net.prefix, "sh", "-c", f"exec {command}"],
                cwd=self.directory,
                env={**os.environ, "PATH": self.path},
                stdout=log,
                stderr=log,
            )
        try:

            def up() -> bool:
                assert server.poll() is None, (self.directory / "log").read_text()[-4000:]
                try:
                    self.run("curl -fsS http://localhost:8051/")
                except subprocess.CalledProcessError:
                    return False
                return True

            servers.wait_until(up, command)
            for size in (1, 5, 2):
                url = f"http://localhost:8051/getid?range={size}&mode=file"
                answer = json.loads(self.run(f"curl -fsS '{url}'"))
                assert answer == {
                    "startIndex": self.expected,
                    "endIndex": self.expected + size - 1,
                }
                self.expected += size
        finally:
            network.end(server, command)

    def is_new(self) -> bool:
        """Whether this package is the one installed."""
        return "Version: 0.5.1" not in self.run("pip show pacifica-uniqueid")


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """An installation that no other test run uses at the same time."""
    programs = upstream.environment("migrating", "pacifica-uniqueid==0.5.1", *upstream.OLD)
    with (upstream.CACHE / "migrating.test.lock").open("w") as lock, network.Network() as net:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Operator(tmp_path, programs, net)


def test_the_five_steps_and_the_way_back(operator: Operator) -> None:
    """The commands of the page move a site to this service and back; no ID comes twice."""
    *forth, serve, step_back, back = page_commands()
    assert serve == "uwsgi --http-socket :8051 --master -p 1 --module pacifica.uniqueid.wsgi"
    # What an interrupted run has left is undone by the page's own words.
    operator.pip(back)
    assert not operator.is_new()
    operator.run("pacifica-uniqueid-cmd dbsync")
    operator.serve(OLD_START)

    for command in forth:
        if command.startswith("pip "):
            operator.pip(command)
            assert operator.is_new()
        else:
            said = operator.run(command)
    assert f"{operator.directory.parent}/counters.sqlite3" in said
    assert ".pacifica-uniqueid/config.ini" in said
    operator.serve(serve)
    operator.serve(OLD_START)

    operator.run(step_back)
    operator.pip(back)
    assert not operator.is_new()
    operator.run("pacifica-uniqueid-cmd dbsync")
    operator.serve(OLD_START)
    operator.serve(serve)
    assert operator.expected == 1 + 5 * 8
