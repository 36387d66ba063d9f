"""A reload never takes a working service down, and a start is whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import servers
from servers import Service, wait_until


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/db.sqlite3"


@pytest.fixture
def service(url: str) -> Iterator[Service]:
    with servers.running(Service(url)) as service:
        assert isinstance(service, Service)
        yield service


def starts(service: Service) -> int:
    return service.log.read_text().count("message=serving ")


def reload(service: Service, *, bad: bool) -> None:
    """SIGHUP, until the new worker serves."""
    before = starts(service)
    rejected = service.log.read_text().count("reload rejected")
    service.signal(signal.SIGHUP)
    wait_until(lambda: starts(service) > before, "the reload")
    assert service.process is not None
    assert service.process.poll() is None
    assert service.log.read_text().count("reload rejected") == rejected + bad


@contextmanager
def load(service: Service) -> Iterator[list[int]]:
    """Four clients; at the end no request has failed, and no ID came twice."""
    firsts: list[int] = []
    errors: list[object] = []
    end = threading.Event()

    def client() -> None:
        while not end.is_set():
            try:
                firsts.append(service.allocate("load", 1)[0])
            except (OSError, AssertionError) as error:
                errors.append(error)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        yield firsts
    finally:
        end.set()
        for thread in clients:
            thread.join()
    assert errors == []
    assert len(firsts) == len(set(firsts))


def test_a_reload_under_load_refuses_nobody(service: Service) -> None:
    """With a bad file, twice, and with a good one, which then counts."""
    good = service.config.read_text()
    with load(service) as firsts:
        for value in ("many", "0"):
            service.config.write_text(
                good.replace("[uniqueid]", f"[uniqueid]\nmax_range = {value}")
            )
            reload(service, bad=True)
        service.config.write_text(good.replace("[uniqueid]", "[uniqueid]\nmax_range = 7"))
        reload(service, bad=False)
        done = len(firsts)
        wait_until(lambda: len(firsts) > done + 50, "more requests")
    text = service.log.read_text()
    assert 'option="[uniqueid] max_range" value=many' in text
    assert 'reason="must be a whole number from 1 to' in text
    assert service.get("/getid?range=8&mode=file")[0] == 400
    assert service.allocate("file", 7)[0] == 1
    # No file has what was accepted.
    files = [path for path in service.directory.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {"config.cfg", "uwsgi.ini", "log"}


def missing_file(service: Service) -> None:
    service.config.unlink()


def other_database(service: Service) -> None:
    change(service, r"url = .*", f"url = sqlite:///{service.directory}/absent.sqlite3")


def no_server(service: Service) -> None:
    change(service, r"url = .*", "url = postgresql://user:secret@127.0.0.1:1/uniqueid")


def change(service: Service, pattern: str, text: str) -> None:
    service.config.write_text(re.sub(pattern, text, service.config.read_text()))


def append(line: str) -> Callable[[Service], None]:
    def add(service: Service) -> None:
        with service.config.open("a") as file:
            file.write(f"{line}\n")

    return add


@pytest.mark.parametrize(
    ("mistake", "option"),
    [
        (missing_file, "configuration file"),
        (other_database, "absent.sqlite3"),
        (no_server, "127.0.0.1:1"),
        (append("path = /nowhere/fence"), "[fence] path"),
        (append("[uniqueid"), "configuration file"),
        (append("[uniqueid]\n"), "configuration file"),
        (append("pth = x"), "[fence] pth"),
    ],
)
def test_each_kind_of_mistake_is_rejected(
    service: Service, mistake: Callable[[Service], None], option: str
) -> None:
    """The file, another database, and a directory that is missing; no password is logged."""
    good = service.config.read_text()
    assert service.allocate("file", 5) == (1, 5)
    mistake(service)
    reload(service, bad=True)
    text = service.log.read_text()
    assert option in text.partition("reload rejected")[2].partition("\n")[0]
    assert "secret" not in text
    assert service.allocate("file", 5) == (6, 10)
    service.config.write_text(good)
    reload(service, bad=False)
    assert service.allocate("file", 5) == (11, 15)


def test_a_file_of_tokens_that_is_broken_leaves_those_read_before(url: str, tmp_path: Path) -> None:
    """Over two reloads; the file counts again when it is right."""
    file = tmp_path / "tokens"

    def write(token: str) -> None:
        file.write_text(f"ingest {hashlib.sha256(token.encode()).hexdigest()}\n")

    def status(token: str) -> int:
        done = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H"]
            + [f"Authorization: Bearer {token}", f"{service.url}/getid?range=1&mode=file"],
            capture_output=True, check=True,
        )  # fmt: skip
        return int(done.stdout)

    write("one")
    with servers.running(Service(url, auth_tokens_file=str(file))) as service:
        assert isinstance(service, Service)
        file.write_text("ingest broken\n")
        for _time in range(2):
            reload(service, bad=False)
            assert (status("one"), status("two")) == (200, 401)
        assert "the tokens read before stay" in service.log.read_text()
        write("two")
        wait_until(lambda: status("two") == 200, "the new token")
        assert status("one") == 401


def test_a_reload_does_not_wait_for_the_database() -> None:
    """/livez answers, IDs are a 503, and it serves when the database is back."""
    server = servers.PostgreSQL()
    with servers.running(server):
        database = server.new_database()
        with servers.running(Service(server.url(database))) as service:
            assert isinstance(service, Service)
            assert service.allocate("file", 5) == (1, 5)
            server.stop()
            reload(service, bad=False)
            assert service.get("/livez", timeout=5)[0] == 200
            status, document = service.get("/readyz")
            assert status == 503
            assert document["checks"]["database"] != "ok"
            assert service.get("/getid?range=1&mode=file", timeout=60)[0] == 503
            server.start()
            wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")
            assert service.allocate("file", 5)[0] > 5


def test_a_reload_does_not_wait_for_a_database_that_hangs() -> None:
    """Nor for what its committer waits for, when the last request has its 503."""
    server = servers.MariaDB()
    with servers.running(server):
        database = server.url(server.new_database())
        with servers.running(Service(database, request_timeout="8")) as service:
            assert isinstance(service, Service)
            assert service.allocate("file", 5) == (1, 5)
            server.signal(signal.SIGSTOP)
            try:
                assert service.get("/getid?range=1&mode=file", timeout=60)[0] == 503
                reload(service, bad=False)
                assert service.get("/livez", timeout=5)[0] == 200
                status, document = service.get("/readyz")
                assert (status, document["checks"]["database"] != "ok") == (503, True)
            finally:
                server.signal(signal.SIGCONT)
            wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")
            assert service.allocate("file", 5)[0] > 5
            # The committer's own wait would take as long as request_timeout, and longer.
            (buried,) = re.findall(r"worker 1 buried after (\d+) seconds", service.log.read_text())
            assert int(buried) <= 5


def test_check_tells_whether_the_service_could_start(service: Service, tmp_path: Path) -> None:
    """0, 2 for a setting, 1 for the database; it changes nothing."""

    def check() -> tuple[int, str]:
        done = servers.run_cmd("-c", str(service.config), "check")
        assert done.stdout == ""
        return done.returncode, done.stderr

    good = service.config.read_text()
    assert check()[0] == 0
    for line, option in (
        ("window = x", "[fence] window"),
        ("path = /nowhere/fence", "[fence] path"),
        (f"[uniqueid]\nauth_tokens_file = {tmp_path}/absent", "configuration file"),
    ):
        service.config.write_text(f"{good}{line}\n")
        status, text = check()
        assert (status, option in text) == (2, True), text
    service.config.write_text(
        good.replace("[fence]", f"auth_tokens_file = {tmp_path}/absent\n[fence]")
    )
    assert "auth_tokens_file" in check()[1]
    service.config.write_text(good)
    other_database(service)
    status, text = check()
    assert (status, "dbsync" in text) == (1, True), text
    assert not (service.directory / "absent.sqlite3").exists()
    service.config.write_text(good)
    with sqlite3.connect(service.database_url.removeprefix("sqlite:///")) as database:
        database.execute("DROP TABLE uniqueindexsystem")
    database.close()
    assert check()[0] == 1


def lines_of_uwsgi(service: Service) -> list[str]:
    return [line for line in service.log.read_text().splitlines() if not line.startswith("time=")]


@pytest.mark.parametrize("how", ["not lazy", "lazy-apps", "UWSGI_LAZY_APPS"])
def test_a_start_is_whole(url: str, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """With CPU, time limit for requests and history, and a line with the address."""
    if how == "UWSGI_LAZY_APPS":
        monkeypatch.setenv(how, "1")
    service = Service(url, *(["--lazy-apps"] if how == "lazy-apps" else []))
    with servers.running(service):
        wait_until(lambda: starts(service), "the line of the start")
        text = service.log.read_text()
        assert f"message=serving url={service.url}/" in text
        assert ("runs on one CPU" in text) is (len(os.sched_getaffinity(0)) > 1)
        assert len(lines_of_uwsgi(service)) <= 20
        service.signal(signal.SIGHUP)
        wait_until(lambda: starts(service) == 2, "the reload")
        assert service.allocate("file", 1) == (1, 1)


def failed_start(service: Service) -> str:
    try:
        service.cmd("dbsync")
        service.launch()
        assert service.wait() != 0
        return service.log.read_text()
    finally:
        service.remove()


@pytest.mark.parametrize("options", [[], ["--lazy-apps"]])
def test_what_fails_after_the_fork_ends_the_start(
    url: str, tmp_path: Path, options: list[str]
) -> None:
    """uWSGI itself would serve on, half started."""
    (tmp_path / "broken.py").write_text(
        "from uniqueid.runtime.request_timeout import RequestReadTimeout\n"
        'def start(self): raise RuntimeError("can\'t start new thread")\n'
        "RequestReadTimeout.start = start\n"
    )
    service = Service(url, "--pythonpath", str(tmp_path), "--shared-import", "broken", *options)
    text = failed_start(service)
    (line,) = [line for line in text.splitlines() if "the start failed" in line]
    assert "can't start new thread" in line
    assert "serving" not in text


class Limited(Service):
    """Started by another program."""

    prefix: tuple[str, ...] = ("prlimit", "--nofile=100:100")

    def command(self) -> list[str]:
        return [*self.prefix, *super().command()]


@pytest.mark.parametrize("options", [[], ["--lazy-apps"]])
def test_too_few_file_descriptors_are_refused(url: str, options: list[str]) -> None:
    """With the number that it takes, and with that it starts."""
    text = failed_start(Limited(url, *options))
    (needed,) = re.findall(r"the process may open 100 files: allow (\d+) or more", text)
    assert len(text) < 10_000
    service = Limited(url, *options)
    service.prefix = ("prlimit", f"--nofile={needed}:{needed}")
    with servers.running(service):
        with load(service) as firsts:
            wait_until(lambda: len(firsts) > 100, "requests")
        assert "accept()" not in service.log.read_text()


READ_ONLY = """
mount --bind / "$1/root"
mount --bind "$1" "$1/root$1"
mount -o remount,ro,bind "$1/root"
mount --bind /dev "$1/root/dev"
mount -t proc -o subset=pid proc "$1/root/proc"
shift
exec chroot "$ROOT" env -i PATH="$PATH" sh -c 'cd "$0" && exec "$@"' "$WORK" "$@"
"""


class ReadOnly(Service):
    """On a read-only root with processes alone in /proc, and without HOME."""

    def command(self) -> list[str]:
        (self.directory / "root").mkdir(exist_ok=True)
        script = f'ROOT="$1/root" WORK="$1"\n{READ_ONLY}'
        return ["unshare", "-m", "sh", "-ec", script, "sh", str(self.directory), *super().command()]


def test_a_start_takes_no_more_than_it_needs() -> None:
    """Neither a writable root, nor HOME, nor /proc/stat."""
    service = ReadOnly("sqlite:///db.sqlite3")
    service.database_url = f"sqlite:///{service.directory}/db.sqlite3"
    service.write_config()
    with servers.running(service):
        wait_until(lambda: starts(service), "the line of the start")
        assert service.allocate("file", 1) == (1, 1)
        text = service.log.read_text()
        assert "level=error" not in text
        assert "level=critical" not in text
