"""Real servers for the tests: each in a directory of its own, on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import glob
import itertools
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
BIN = Path(sys.executable).parent
START_TIMEOUT = 60
"""Seconds, generous: the machine is shared."""


PORTS = range(10_000, 32_768)
"""Below those which Linux gives to a process that asks for any port, a client's included."""
_ports: deque[int] = deque()
_ports_lock = threading.Lock()


def free_port() -> int:
    """A port of 127.0.0.1 which is not used, and which no other process of tests is given.

    Between this call and the moment when a server listens, or while it is down, the system would
    give the port away. What this process was given is kept by a lock on one byte of a common file.
    """
    with _ports_lock:
        while True:
            port = PORTS[secrets.randbelow(len(PORTS))]
            # Of its own locks a process is not told.
            if port in _ports or not reserve(port):
                continue
            _ports.append(port)
            if len(_ports) > 1000:
                release(_ports.popleft())
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port


@functools.cache
def _ports_file() -> int:
    # Never closed: a process loses its locks when it closes any descriptor of the file.
    path = Path(tempfile.gettempdir()) / f"uniqueid-test-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def reserve(port: int) -> bool:
    """Keep a port from other processes; whether none of them has it."""
    with contextlib.suppress(OSError):
        fcntl.lockf(_ports_file(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        return True
    return False


def release(port: int) -> None:
    """Let other processes have it."""
    fcntl.lockf(_ports_file(), fcntl.LOCK_UN, 1, port)


def wait_until(true: Callable[[], object], what: str, timeout: float = START_TIMEOUT) -> None:
    """Return when a condition holds; it is asked again and again."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"{what} did not happen in {timeout:g} seconds"
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether something accepts connections at a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def sbin(name: str) -> str:
    """A command, also where the path of a plain user does not lead."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None, f"{name} is missing: run .ci/setup test"
    return found


def run_cmd(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed pacifica-uniqueid-cmd in the test's directory."""
    return subprocess.run(
        [str(BIN / "pacifica-uniqueid-cmd"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"HOME": ".", "PATH": str(BIN), **environment},
        check=False,
    )


def nginx_lines(directory: Path) -> tuple[str, str]:
    """What a private nginx needs: in its main context, and in `http`."""
    user = "user root;" if os.getuid() == 0 else ""
    temporary = "".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = f"{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr;"
    return main, f"access_log off; {temporary}"


def connections(server: Process, process: int | None = None) -> int:
    """How many connections of clients a server, or a process of it, has accepted and not closed."""
    assert server.process is not None
    place = Path(f"/proc/{process or server.process.pid}")
    rows = [row.split() for row in (place / "net/tcp").read_text().splitlines()[1:]]
    here = f"0100007F:{server.port:04X}"
    # Columns of proc(5): local address, state (01 is established), inode.
    inodes = {row[9] for row in rows if row[1] == here and row[3] == "01"}
    held = set()
    for descriptor in (place / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(os.readlink(descriptor))
    return sum(f"socket:[{inode}]" in held for inode in inodes)


def sql_of(kind: str) -> str:
    """The kind of database whose SQL a kind understands: MySQL's is MariaDB's."""
    return "mariadb" if kind == "mysql" else kind


ISOLATION = {
    "mariadb": "@@session.tx_isolation",
    "mysql": "@@session.transaction_isolation",
    "postgresql": "current_setting('transaction_isolation')",
}
"""The SQL for a session's isolation level."""


class Process:
    """A server that a test starts, can hurt, and ends by its process id."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="uniqueid-test-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.directory / "log"

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def user(self) -> str | None:
        """As whom to run, when root may not."""
        return None

    def ready(self) -> bool:
        return listens(self.port)

    def launch(self) -> None:
        """Start without waiting until it serves."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=self.environment(),
                user=self.user(),
                start_new_session=True,
            )

    def start(self) -> None:
        """Start, and return when it serves."""
        self.launch()

        def up() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
            return self.ready()

        wait_until(up, f"{self.command()[0]} serving")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = START_TIMEOUT) -> int:
        """Wait for it to end; its exit status."""
        assert self.process is not None
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it without a chance to do anything."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(START_TIMEOUT)

    def stop(self) -> None:
        """End it in an orderly way."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()

    def abort(self) -> None:
        """End it at once; its data are of no use any more."""
        self.kill()

    def remove(self) -> None:
        """End it and remove its directory."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_args: object) -> None:
        self.remove()


class MariaDB(Process):
    """A MariaDB server with its default durability."""

    USER, PASSWORD = "uniqueid", "p@ss%20w/rd"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options
        self.socket = str(self.directory / "sock")
        self.data = self.directory / "data"
        self.names = itertools.count(1)
        # Each server that starts removes what looks like a temporary table from its directory for
        # these, also that of another server.
        self.temporary = f"--tmpdir={self.directory}"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--skip-test-db"]
            + [self.temporary]
            + (["--user=root"] if os.getuid() == 0 else [])
            + ["--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
            cwd=self.directory,
        )

    def command(self) -> list[str]:
        return [
            sbin("mariadbd"),
            "--no-defaults",
            f"--datadir={self.data}",
            self.temporary,
            f"--socket={self.socket}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={self.directory / 'pid'}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=16M",
            *(["--user=root"] if os.getuid() == 0 else []),
            *self.options,
        ]

    def start(self) -> None:
        super().start()
        self.sql(
            f"CREATE USER IF NOT EXISTS {self.USER} IDENTIFIED BY '{self.PASSWORD}';"
            f"GRANT ALL ON `test_%`.* TO {self.USER}"
        )

    def ready(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.sql("SELECT 1")
            return True
        return False

    def sql(self, text: str, database: str = "") -> str:
        """Run statements as root; what they print, tab-separated."""
        return subprocess.run(
            ["mariadb", "--no-defaults", f"--socket={self.socket}", "-uroot", "-BN", database],
            input=text.encode(),
            check=True,
            capture_output=True,
        ).stdout.decode()

    def new_database(self, options: str = "") -> str:
        """Make an empty database; its name."""
        name = f"test_{next(self.names)}"
        self.sql(f"CREATE DATABASE {name} {options}")
        return name

    def url(self, database: str, port: int | None = None) -> str:
        """The service's URL of a database, through another port if it is given."""
        user, password = quote(self.USER), quote(self.PASSWORD, safe="")
        return f"mysql://{user}:{password}@127.0.0.1:{port or self.port}/{database}"


class MySQL(MariaDB):
    """A MySQL server with its defaults: among them the binary log, TLS, and accounts with
    caching_sha2_password. `.ci/mysql` downloads it."""

    def __init__(self, *options: str) -> None:
        Process.__init__(self)
        self.options = options
        self.socket = str(self.directory / "sock")
        self.data = self.directory / "data"
        self.names = itertools.count(1)
        root = subprocess.run(
            [str(CHECKOUT / ".ci/mysql")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        ).stdout.strip()
        self.mysqld = f"{root}/bin/mysqld"
        subprocess.run(["cp", "-r", "--sparse=always", f"{root}/data", self.data], check=True)

    def command(self) -> list[str]:
        return [
            self.mysqld,
            f"--datadir={self.data}",
            f"--tmpdir={self.directory}",
            f"--socket={self.socket}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--pid-file={self.directory / 'pid'}",
            "--innodb-buffer-pool-size=64M",
            *(["--user=root"] if os.getuid() == 0 else []),
            *self.options,
        ]

    def url(self, database: str, port: int | None = None) -> str:
        # A proxy of the tests reads what goes through it.
        return super().url(database, port) + ("" if port is None else "?ssl_disabled=true")


class PostgreSQL(Process):
    """A PostgreSQL server with its default durability."""

    USER = "uniqueid"

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options
        self.bin = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        self.data = self.directory / "data"
        self.names = itertools.count(1)
        user = self.user()
        if user is not None:
            self.directory.chmod(0o755)
            entry = pwd.getpwnam(user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        subprocess.run(
            [str(self.bin / "initdb"), "-D", str(self.data), "-U", self.USER, "-A", "trust"]
            + ["-E", "UTF8", "--locale=C.UTF-8"],
            check=True,
            capture_output=True,
            cwd=self.directory,
            user=user,
        )

    def user(self) -> str | None:
        return "postgres" if os.getuid() == 0 else None

    def command(self) -> list[str]:
        return [
            str(self.bin / "postgres"),
            f"-D{self.data}",
            f"-p{self.port}",
            f"-k{self.directory}",
            "-clisten_addresses=127.0.0.1",
            *(f"-c{option}" for option in self.options),
        ]

    def ready(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.sql("SELECT 1")
            return True
        return False

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run statements as the owner; what they print, tab-separated."""
        return subprocess.run(
            [str(self.bin / "psql"), "-X", "-q", "-A", "-t", "-F\t", "-v", "ON_ERROR_STOP=1"]
            + ["-h", str(self.directory), "-p", str(self.port), "-U", self.USER, database],
            input=text.encode(),
            check=True,
            capture_output=True,
        ).stdout.decode()

    def dump(self, database: str) -> str:
        """A database as statements that make it again in an empty one."""
        return subprocess.run(
            [str(self.bin / "pg_dump"), "-h", str(self.directory), "-p", str(self.port)]
            + ["-U", self.USER, database],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def new_database(self, options: str = "") -> str:
        """Make an empty database; its name."""
        name = f"test_{next(self.names)}"
        self.sql(f"CREATE DATABASE {name} {options}")
        return name

    def url(self, database: str, port: int | None = None) -> str:
        """The service's URL of a database, through another port if it is given."""
        return f"postgresql://{self.USER}@127.0.0.1:{port or self.port}/{database}"

    def crash(self) -> None:
        """End all its processes at once, as a crash of the machine would."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for process in (self.process.pid, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait(START_TIMEOUT)

    def stop(self) -> None:
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for the clients.
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(START_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.kill()

    def abort(self) -> None:
        # Immediate shutdown: after a SIGKILL its processes would leave their shared memory behind.
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(START_TIMEOUT)


class Service(Process):
    """The service under uWSGI, from the shipped uwsgi.ini, with the database synced."""

    ini = CHECKOUT / "uwsgi.ini"
    commands = BIN
    """The directory of pacifica-uniqueid-cmd."""

    def __init__(self, database_url: str, *options: str, **settings: str) -> None:
        super().__init__()
        self.database_url = database_url
        self.options = options
        self.settings = settings
        self.config = self.directory / "config.cfg"
        shutil.copy(CHECKOUT / "uwsgi.ini", self.directory)
        self.write_config()

    def write_config(self) -> None:
        settings = dict(self.settings)
        lines = ["[database]", f"url = {self.database_url}", "connect_wait = 0.2"]
        if durability := settings.pop("durability", ""):
            lines += [f"durability = {durability}"]
        lines += ["[uniqueid]"]
        fence = {name: value for name, value in settings.items() if "fence_" in name}
        lines += [f"{name} = {settings[name]}" for name in settings if name not in fence]
        lines += ["[fence]"]
        lines += [f"{name.removeprefix('fence_')} = {value}" for name, value in fence.items()]
        self.config.write_text("\n".join(lines) + "\n")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if "UNIQUEID" not in name}
        return {**keep, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def command(self) -> list[str]:
        # Every option of the shipped file but the port.
        return [
            str(BIN / "uwsgi"),
            "--ini",
            "uwsgi.ini",
            "--http-socket",
            f"127.0.0.1:{self.port}",
            *self.options,
        ]

    def launch(self) -> None:
        ini = self.directory / "uwsgi.ini"
        lines = self.ini.read_text().splitlines()
        assert lines.count("http-socket = :8051") == 1
        ini.write_text("\n".join(line for line in lines if line != "http-socket = :8051"))
        super().launch()

    def start(self) -> None:
        self.cmd("dbsync")
        super().start()

    def ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/livez")[0] == 200
        return False

    def cmd(self, *arguments: str) -> str:
        """Run pacifica-uniqueid-cmd with this service's settings; what it prints."""
        return subprocess.run(
            [str(self.commands / "pacifica-uniqueid-cmd"), "-c", str(self.config), *arguments],
            check=True,
            capture_output=True,
            env=self.environment(),
            cwd=self.directory,
            text=True,
        ).stdout

    def get(
        self, path: str, data: bytes | None = None, timeout: float = 30
    ) -> tuple[int, dict[str, Any]]:
        """GET, or POST when there is a body; status and JSON."""
        request = urllib.request.Request(self.url + path, data)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def metrics(self) -> str:
        """What Prometheus reads."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=30) as response:
            return str(response.read().decode())

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.metrics().splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        )

    def allocate(self, mode: str, count: int) -> tuple[int, int]:
        """One range, first and last, which must not fail."""
        status, answer = self.get(f"/getid?range={count}&mode={quote(mode)}")
        assert status == 200, answer
        return answer["startIndex"], answer["endIndex"]


class BuiltIn(Service):
    """The service under its built-in server, from a CherryPy file when there is one."""

    def __init__(self, database_url: str, *options: str, cherrypy: str = "", **settings: str):
        super().__init__(database_url, *options, **settings)
        self.cherrypy_file = self.directory / "server.conf"
        if cherrypy:
            self.cherrypy_file.write_text(cherrypy)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "UNIQUEID_CONFIG": str(self.config)}

    def command(self) -> list[str]:
        files = ["-c", str(self.cherrypy_file)] if self.cherrypy_file.exists() else []
        address = [] if "-a" in self.options else ["-a", "127.0.0.1"]
        command = [str(BIN / "pacifica-uniqueid"), *files, *address, "-p", str(self.port)]
        return [*command, *self.options]

    def launch(self) -> None:
        Process.launch(self)


@contextlib.contextmanager
def running(server: Process) -> Iterator[Process]:
    """A server for the length of a block."""
    try:
        server.start()
        yield server
    finally:
        server.remove()
