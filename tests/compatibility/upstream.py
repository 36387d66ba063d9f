"""The real packages from the Python Package Index, each in a virtual environment of its own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

import servers

CACHE = Path(sys.prefix) / "upstream"
# With which the old packages still run: peewee 4 has no sqliteext any more, and from 3.16 on the
# old dbsync fails on MariaDB, whose DDL ends the transaction that peewee believes to be in.
OLD = ("peewee<3.16", "cherrypy<19", "pymysql", "psycopg2-binary")
CHERRYPY_FILE = """
[global]
engine.autoreload.on: False
log.screen: True

[/]
request.dispatch: cherrypy.dispatch.MethodDispatcher()
tools.response_headers.on: True
tools.response_headers.headers: [('Content-Type', 'application/json')]
"""


def environment(name: str, *requirements: str) -> Path:
    """The directory of programs of an environment with these packages; made once and kept."""
    directory = CACHE / name
    mark = directory / "complete"
    wanted = json.dumps([sys.version, *map(_identity, requirements)])
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists() or mark.read_text() != wanted:
            shutil.rmtree(directory, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
            pip = [str(directory / "bin/python"), "-m", "pip", "-q", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", *requirements], check=True, env=for_pip())
            mark.write_text(wanted)
    return directory / "bin"


def for_pip() -> dict[str, str]:
    """The environment with the real home directory: pip's settings are there, and what it built."""
    return {**os.environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir}


def _identity(requirement: str) -> str:
    """A requirement; of a wheel that was built here, also what is in it."""
    if not os.path.exists(requirement):
        return requirement
    return requirement + hashlib.sha256(Path(requirement).read_bytes()).hexdigest()


def plain() -> Path:
    """The programs of this package, after pip has installed its wheel and nothing else."""
    (wheel,) = (Path(sys.prefix) / "dist").glob("pacifica_uniqueid-*.whl")
    return environment("plain", str(wheel))


def old(version: str) -> Path:
    """The programs of a release of the legacy service."""
    return environment(f"uniqueid-{version}", f"pacifica-uniqueid=={version}", *OLD)


class Site(servers.Process):
    """A site as the old documentation sets it up: its files, its variables, its commands.

    What `package` names is the one thing that a swap changes.
    """

    def __init__(self, peewee_url: str, package: Path) -> None:
        super().__init__()
        self.package = package
        self.config = self.directory / "config.ini"
        self.cpconfig = self.directory / "cpconfig.ini"
        self.config.write_text(f"[database]\npeewee_url = {peewee_url}\nconnect_wait = 1\n")
        self.cpconfig.write_text(CHERRYPY_FILE)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.package}:{os.environ['PATH']}",
            "UNIQUEID_CONFIG": str(self.config),
            "UNIQUEID_CPCONFIG": str(self.cpconfig),
        }

    def command(self) -> list[str]:
        return [str(self.package / "pacifica-uniqueid"), "-p", str(self.port), "-a", "127.0.0.1"]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the documentation."""
        return subprocess.run(
            command,
            shell=True,
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=servers.START_TIMEOUT,
            check=False,
        )

    def swap(self, package: Path) -> None:
        """Stop, and start with the programs of another package."""
        self.stop()
        self.package = package
        self.start()

    def allocate(self, mode: str, count: int) -> tuple[int, int]:
        """A range as Ingest asks for it."""
        url = f"http://127.0.0.1:{self.port}/getid?range={count}&mode={quote(mode)}"
        with urllib.request.urlopen(url, timeout=servers.START_TIMEOUT) as response:
            answer = json.load(response)
        return answer["startIndex"], answer["endIndex"]
