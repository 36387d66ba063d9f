"""The shipped uwsgi.ini: one process, bad starts, signals, requests that are none."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


def failed_start(service: Service) -> str:
    """Start what cannot serve; what it printed before it ended."""
    try:
        service.launch()
        assert service.wait() != 0
        return service.log.read_text()
    finally:
        service.remove()


@pytest.mark.parametrize("options", [("-p", "2"), ("--processes=4",), ("-p", "2", "--lazy-apps")])
def test_more_than_one_process_is_refused(url: str, options: tuple[str, ...]) -> None:
    """With a line that says what to set."""
    service = Service(url, *options)
    service.cmd("dbsync")
    log = failed_start(service)
    assert "set processes = 1 (-p 1)" in log
    assert "Traceback" not in log


def test_an_absent_schema_ends_the_start(url: str) -> None:
    """No service starts at 1 again because of a mistyped path."""
    log = failed_start(Service(url))
    assert "run 'pacifica-uniqueid-cmd dbsync'" in log
    assert "Traceback" not in log
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_an_old_schema_ends_the_start(url: str) -> None:
    """The line names the version and the command."""
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.execute(
            'CREATE TABLE uniqueindex ("id" VARCHAR(255) PRIMARY KEY, "index" INTEGER NOT NULL)'
        )
    database.close()
    log = failed_start(Service(url))
    assert "version 0.0; run 'pacifica-uniqueid-cmd dbsync'" in log


def test_a_bad_setting_ends_the_start(url: str) -> None:
    """The line names option, value, file and what is allowed."""
    service = Service(url, max_range="many")
    log = failed_start(service)
    assert f"[uniqueid] max_range = 'many' ({service.config}): must be a whole number" in log
    assert "Traceback" not in log


def hold_up(
    service: Service, pool: ThreadPoolExecutor, number: int
) -> tuple[sqlite3.Connection, list[Future[tuple[int, dict[str, int]]]]]:
    """Lock the database and let this many requests wait for it."""
    path = service.database_url.removeprefix("sqlite:///")
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")

    def ask() -> Future[tuple[int, dict[str, int]]]:
        return pool.submit(service.get, "/getid?range=1&mode=file")

    # The first is alone with the database, so it is known how many wait when all have arrived.
    futures = [ask()]
    wait_until(lambda: service.metric("uniqueid_transaction_retries_total") > 0, "the wait")
    futures += [ask() for _ in range(number - 1)]
    wait_until(
        lambda: service.metric("uniqueid_queue_requests") == number - 1, "all requests waiting"
    )
    return lock, futures


@pytest.mark.parametrize("to_group", [False, True], ids=["master", "terminal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_end_answers_what_was_accepted(
    service: Service, number: signal.Signals, to_group: bool
) -> None:
    """Every request that waits for the database gets its IDs, then the process ends with 0.

    A terminal sends its signals to the worker as well, in whichever of its threads.
    """
    assert service.process is not None
    with ThreadPoolExecutor(32) as pool:
        lock, futures = hold_up(service, pool, 32)
        if to_group:
            os.killpg(service.process.pid, number)
        else:
            service.signal(number)
        wait_until(lambda: "Gracefully killing worker" in service.log.read_text(), "the shutdown")
        lock.execute("ROLLBACK")
        lock.close()
        answers = [future.result(60) for future in futures]
    assert [body for status, body in answers if status != 200] == []
    assert sorted(body["startIndex"] for _, body in answers) == list(range(1, 33))
    assert service.wait() == 0


def test_no_signal_is_delivered_to_a_thread_of_the_service(service: Service) -> None:
    """uWSGI ends a worker in whichever thread its signal arrives, and the committer would wait for
    its own end."""
    assert service.process is not None
    service.get("/readyz")
    (worker,) = children(service.process.pid)
    wanted = [1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)]

    def open_to_signals() -> set[int]:
        found = set()
        for task in Path(f"/proc/{worker}/task").iterdir():
            status = dict(
                line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if line
            )
            mask = int(status["SigBlk"], 16)
            if not all(mask & bit for bit in wanted):
                found.add(int(task.name))
        return found

    # The main thread takes them; uWSGI's other threads block them as the first thing they do.
    wait_until(lambda: open_to_signals() == {worker}, "every other thread blocking signals")


def children(process: int) -> list[int]:
    text = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in text.split()]


def cpus(process: int) -> set[str]:
    """Which CPUs its threads may use, as the system writes it."""
    found = set()
    for task in Path(f"/proc/{process}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        found |= {line.split()[1] for line in lines if line.startswith("Cpus_allowed_list")}
    return found


def test_all_threads_keep_to_one_cpu(service: Service) -> None:
    """Those of uWSGI, the committer, and what else there is; the master is left alone."""
    assert service.process is not None
    service.allocate("file", 1)
    service.get("/readyz")
    (worker,) = children(service.process.pid)
    (where,) = cpus(worker)
    assert int(where) in os.sched_getaffinity(0)
    assert f'message="runs on one CPU" cpu={where}' in service.log.read_text() or (
        len(os.sched_getaffinity(0)) == 1
    )


@pytest.mark.parametrize("setting", ["off", "the last"])
def test_the_cpu_can_be_set(url: str, setting: str) -> None:
    """To one by its number, or not at all."""
    mine = os.sched_getaffinity(0)
    cpu = "off" if setting == "off" else str(max(mine))
    with servers.running(Service(url, cpu=cpu)) as service:
        assert service.process is not None
        (worker,) = children(service.process.pid)
        (where,) = cpus(worker)
        if setting == "off":
            assert (where == str(max(mine))) is (len(mine) == 1)
        else:
            assert where == cpu


def test_a_cpu_that_there_is_not_ends_the_start(url: str) -> None:
    """The line says which ones there are."""
    service = Service(url, cpu="9999")
    service.cmd("dbsync")
    log = failed_start(service)
    assert "[uniqueid] cpu = '9999'" in log
    assert "this process may use" in log
    assert "Traceback" not in log


def test_sighup_answers_what_was_accepted_and_serves_on(service: Service) -> None:
    """A reload loses no answer, and new connections wait for it in the kernel."""
    with ThreadPoolExecutor(32) as pool:
        lock, futures = hold_up(service, pool, 32)
        service.signal(signal.SIGHUP)
        wait_until(lambda: "Gracefully killing worker" in service.log.read_text(), "the reload")
        late = pool.submit(service.get, "/getid?range=1&mode=file")
        lock.execute("ROLLBACK")
        lock.close()
        answers = [future.result(60) for future in [*futures, late]]
    assert [body for status, body in answers if status != 200] == []
    assert sorted(body["startIndex"] for _, body in answers) == list(range(1, 34))
    assert service.process is not None
    assert service.process.poll() is None


@pytest.mark.parametrize("log_format", ["keyvalue", "json"])
@pytest.mark.parametrize("log_level", ["debug", "error"])
def test_a_log_that_nobody_reads_stops_nothing(url: str, log_level: str, log_format: str) -> None:
    """Requests, reload and end, with a pipe that is full."""
    service = Service(url, access_log="1", log_level=log_level, log_format=log_format)
    os.mkfifo(service.log)
    reader = os.open(service.log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with servers.running(service):
            # What uWSGI writes for itself fills it at each level.
            writer = os.open(service.log, os.O_WRONLY | os.O_NONBLOCK)
            try:
                while True:
                    os.write(writer, b"x" * 4096)
            except BlockingIOError:
                os.close(writer)
            with ThreadPoolExecutor(16) as pool:
                answers = list(pool.map(lambda _: service.allocate("file", 1), range(400)))
            assert len(set(answers)) == 400
            assert service.get("/livez")[0] == 200
            dropped = service.metric("uniqueid_log_lines_dropped_total")
            assert (dropped > 400) is (log_level == "debug")
            started = service.get("/status.json")[1]["started"]
            service.signal(signal.SIGHUP)
            wait_until(lambda: service.get("/status.json")[1]["started"] > started, "the reload")
            assert service.allocate("file", 1) == (401, 401)
            service.signal(signal.SIGTERM)
            assert service.wait() == 0
    finally:
        os.close(reader)


def raw(service: Service, request: bytes) -> bytes:
    """Bytes to the socket, and what comes back until it is closed."""
    answer = b""
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            # uWSGI closes with bytes unread where the request is longer than its buffer.
            pass
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /getid?range=1&mode=" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"GET /getid?range=1&mode=\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"\x00\x01\r\n\r\n", b"400"),
        (b"HEAD /getid?range=1&mode=file HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /getid HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n", b"413"),
    ],
)
def test_what_is_refused_is_a_problem_document_from_uwsgi_too(
    service: Service, request_: bytes, status: bytes
) -> None:
    """Not an empty 500, nor a connection that hangs; and nothing is allocated."""
    answer = raw(service, request_)
    assert answer.split(b" ", 2)[1] == status
    assert b"application/problem+json" in answer
    assert b"Cache-Control: no-store" in answer
    assert "can be used" in service.cmd("dbchk", "--equal")
    assert service.allocate("file", 1) == (1, 1)


@pytest.mark.parametrize("host", [b"http://x", b"HTTP://x:8051", b"https://user@[::1]:8051"])
def test_a_target_in_absolute_form_is_served(service: Service, host: bytes) -> None:
    """RFC 9112, 3.2.2; also one without a path."""
    target = host + b"/getid?range=3&mode=file"
    answer = raw(service, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'{"startIndex": 1, "endIndex": 3}')
    answer = raw(service, b"GET " + host + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Up and Running" in answer


@pytest.mark.parametrize(
    "line",
    [
        b"GET /getid?range=1&mode=two words HTTP/1.1",
        b"GET /getid?range=1&mode=file HTTP/1.1 HTTP/1.1",
        b"GET /getid?range=1&mode=file ",
        b"GET /getid?range=1&mode=file&x=",
        b"POST /getid?mode=file&range=1 x HTTP/1.1",
    ],
)
def test_a_blank_in_the_target_allocates_nothing(service: Service, line: bytes) -> None:
    """And is an error for the client: it reads no status line with 200."""
    answer = raw(service, line + b"\r\nHost: x\r\n\r\n")
    assert answer == b"" or b" 400 Bad Request\r\n" in answer.partition(b"\r\n")[0] + b"\r\n"
    assert b"startIndex" not in answer
    assert service.get("/status.json")[1]["counters_total"] == 0


def test_a_client_that_expects_100_continue_gets_it(service: Service) -> None:
    """Before it sends the body; and a rejection at once where the body is not wanted."""
    head = b"POST /getid HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    form = b"\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), 30) as connection:
        connection.sendall(head + b"17" + form)
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"range=2&mode=file")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b'{"startIndex": 1, "endIndex": 2}')
    assert raw(service, head + b"99999" + form).startswith(b"HTTP/1.1 413 ")


def test_beyond_the_buffer_the_connection_is_closed_and_the_service_goes_on(
    service: Service,
) -> None:
    """64 KiB of headers is as much as uWSGI can take."""
    assert raw(service, b"GET /?" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert service.allocate("file", 1) == (1, 1)


def test_the_longest_mode_fits(service: Service) -> None:
    """255 characters of four bytes, percent-encoded."""
    assert service.allocate("😀" * 255, 3) == (1, 3)
    assert service.allocate("😀" * 255, 3) == (4, 6)


def test_a_service_that_is_told_to_serve_few_modes_serves_them_alone(url: str) -> None:
    """allowed_modes and max_range from the file reach the requests."""
    service = Service(url, allowed_modes="file, upload_job", max_range="100")
    with servers.running(service):
        assert service.allocate("upload_job", 100) == (1, 100)
        for query in ("range=1&mode=other", "range=101&mode=file"):
            assert service.get(f"/getid?{query}")[0] == 400


def test_the_answers_close_their_connections_and_say_so(service: Service) -> None:
    """A connection that stays open would hold one of the threads."""
    answer = raw(service, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answer
