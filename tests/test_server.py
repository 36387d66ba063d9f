"""The built-in server and its CherryPy file, through the installed command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sqlite3
import ssl
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import network
import pytest
import servers

HEADERS = """
[/]
request.dispatch: cherrypy.dispatch.MethodDispatcher()
tools.response_headers.on: True
tools.response_headers.headers: [('Content-Type', 'application/json'), ('X-Site', 'north')]

[/getid]
tools.response_headers.on: True
tools.response_headers.headers: [('X-Site', 'south'), ('Cache-Control', 'public')]
"""
ON = "tools.response_headers.on: True"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pacifica-uniqueid in the working directory, which must end it soon."""
    return subprocess.run(
        [str(servers.BIN / "pacifica-uniqueid"), *arguments],
        capture_output=True,
        text=True,
        timeout=servers.START_TIMEOUT,
        env={**os.environ, **environment},
        check=False,
    )


def refused(*arguments: str, **environment: str) -> str:
    """The one line with which pacifica-uniqueid refuses to start."""
    ended = run(*arguments, **environment)
    assert ended.returncode not in (0, None), ended
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("pacifica-uniqueid: ")
    return lines[0]


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def built_in(tmp_path: Path, *options: str, cherrypy: str = "") -> servers.BuiltIn:
    return servers.BuiltIn(f"sqlite:///{tmp_path}/db.sqlite3", *options, cherrypy=cherrypy)


# -- the start ----------------------------------------------------------------------------------


def test_it_says_what_it_does_and_serves_every_route(tmp_path: Path) -> None:
    """Its events are logged, IDs are allocated, and a doubled slash is accepted."""
    with servers.running(built_in(tmp_path)) as server:
        assert server.allocate("file", 3) == (1, 3)
        assert server.get("//getid?range=2&mode=file") == (200, {"startIndex": 4, "endIndex": 5})
        assert server.get("/getid/?range=1&mode=p%C3%A4th+%E2%98%83")[1]["startIndex"] == 1
        assert server.get("/getid", b"range=1&mode=file")[1]["startIndex"] == 6
        assert server.get("/getid?range=0&mode=file") == (200, {"startIndex": -1, "endIndex": -3})
        assert server.get("/") == (200, {"message": "Pacifica UniqueID Up and Running"})
        status, answer = server.get("/getid?mode=file")
        assert (status, answer["status"]) == (400, 400)
        assert server.get("/nothing")[0] == 404
        with urllib.request.urlopen(f"{server.url}/getid?range=1&mode=file") as response:
            assert "no-store" in response.headers["Cache-Control"]
            assert response.headers["X-Accel-Buffering"] == "no"
        # The screen keeps a line of each request, as it did for the legacy service.
        wait_for(server.log, '"GET /getid?range=3&mode=file HTTP/1.1" 200 32')
        server.stop()
        assert server.wait() == 0
        log = server.log.read_text()
    address = f"address=http://127.0.0.1:{server.port}"
    for event in (f"serving {address} threads=64", f"stopping {address}", f"stopped {address}"):
        assert f"message={event}\n" in log
    assert "Traceback" not in log
    assert log.count("pacifica-uniqueid starts") == 1


def wait_for(log: Path, text: str) -> None:
    servers.wait_until(lambda: text in log.read_text(), f"{text!r} in {log.name}")


def test_the_sample_file_works_as_it_is(tmp_path: Path) -> None:
    """docs/server.conf is read by -c; its logs are written, and explicit -p and -a win."""
    sample = (servers.CHECKOUT / "docs/server.conf").read_text()
    server = built_in(tmp_path, "-a", "127.0.0.1", cherrypy=sample)
    with servers.running(server):
        assert server.allocate("file", 1) == (1, 1)
        wait_for(server.directory / "access.log", '"GET /getid?range=1&mode=file HTTP/1.1" 200')
        wait_for(server.directory / "error.log", f"serving address=http://127.0.0.1:{server.port}")
        # The service's own lines are in the same log.
        assert "pacifica-uniqueid starts" in (server.directory / "error.log").read_text()


def test_the_headers_of_the_file_are_added(tmp_path: Path) -> None:
    """By path, and none replaces a header of the service; its port counts without -p."""
    port = servers.free_port()
    server = built_in(tmp_path)
    server.cherrypy_file.write_text(
        f"[global]\nserver.socket_port: {port}\nserver.socket_host: '127.0.0.1'\n{HEADERS}"
    )
    server.port = port
    command = [str(servers.BIN / "pacifica-uniqueid"), "-c", str(server.cherrypy_file)]
    server.command = lambda: command  # type: ignore[method-assign]
    server.environment = lambda: {**os.environ, "UNIQUEID_CONFIG": str(server.config)}  # type: ignore[method-assign]
    with servers.running(server):
        assert server.allocate("file", 1) == (1, 1)
        with urllib.request.urlopen(f"{server.url}/metrics") as response:
            assert response.headers["X-Site"] == "north"
            # The service knows better what its answers are.
            assert response.headers["Content-Type"].startswith("text/plain")
        with urllib.request.urlopen(f"{server.url}/getid?range=1&mode=file") as response:
            assert response.headers["X-Site"] == "south"
            assert "no-store" in response.headers["Cache-Control"]
            assert "public" not in response.headers["Cache-Control"]


def test_the_variable_names_the_cherrypy_file(tmp_path: Path) -> None:
    """UNIQUEID_CPCONFIG stands for --cpconfig, and its port counts where none is given."""
    server = built_in(tmp_path)
    server.cherrypy_file.write_text(
        f"[global]\nserver.socket_port: {server.port}\nenvironment: 'production'\n"
        "server.thread_pool: 3\nlog.error_file: 'errors'\n"
    )
    server.command = lambda: [str(servers.BIN / "pacifica-uniqueid")]  # type: ignore[method-assign]
    server.environment = lambda: {  # type: ignore[method-assign]
        **os.environ,
        "UNIQUEID_CPCONFIG": str(server.cherrypy_file),
        "UNIQUEID_CONFIG": str(server.config),
    }
    with servers.running(server):
        assert server.allocate("file", 1) == (1, 1)
        wait_for(server.directory / "errors", "message=serving")
        wait_for(server.directory / "errors", "threads=3")
        # Nothing on the screen but what is logged before the file is read.
        assert "message=serving" not in server.log.read_text()


def test_tls_keys_work(tmp_path: Path) -> None:
    """The CherryPy file's certificate and key make it an HTTPS server."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    cherrypy = (
        f"[global]\nserver.ssl_module: 'builtin'\nserver.ssl_certificate: {str(certificate)!r}\n"
        f"server.ssl_private_key: {str(key)!r}\n"
    )
    server = built_in(tmp_path, "-a", "127.0.0.1", cherrypy=cherrypy)
    server.ready = lambda: "message=serving" in server.log.read_text()  # type: ignore[method-assign]
    with servers.running(server):
        trusted = ssl.create_default_context(cafile=str(certificate))
        url = f"https://127.0.0.1:{server.port}/getid?range=2&mode=file"
        with urllib.request.urlopen(url, context=trusted, timeout=30) as response:
            assert json.load(response) == {"startIndex": 1, "endIndex": 2}


def test_an_empty_host_is_every_address(tmp_path: Path) -> None:
    """As in CherryPy."""
    server = built_in(tmp_path, cherrypy="[global]\nserver.socket_host: ''\n")
    options = ["-c", str(server.cherrypy_file), "-p", str(server.port)]
    server.command = lambda: [str(servers.BIN / "pacifica-uniqueid"), *options]  # type: ignore[method-assign]
    with servers.running(server):
        assert server.allocate("file", 1) == (1, 1)
        for family, address in ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
                continue
            with socket.socket(family) as client:
                client.connect((address, server.port))


def test_keys_without_an_effect_are_one_warning(tmp_path: Path) -> None:
    """They are for applications of CherryPy's handlers, or for its engine."""
    text = "[global]\nengine.autoreload.on: True\nchecker.on: False\n[/]\ntools.gzip.on: True\n"
    with servers.running(built_in(tmp_path, cherrypy=text)) as server:
        wait_for(server.log, "message=serving")
        (line,) = [line for line in server.log.read_text().splitlines() if "ignored" in line]
    assert "level=warning" in line
    assert (
        "[global] engine.autoreload.on, [global] checker.on, [/] tools.gzip.on is ignored" in line
    )


LEGACY_CHERRYPY = """\
log.screen: True
log.access_file: 'access.log'
log.error_file: 'error.log'
server.socket_host: '0.0.0.0'
server.socket_port: 8051
"""
LEGACY_TOOLS = """\
request.dispatch: cherrypy.dispatch.MethodDispatcher()
tools.response_headers.on: True
tools.response_headers.headers: [('Content-Type', 'application/json')]
"""
LEGACY_SERVICE = """\
; This section contains database connection configuration

; peewee_url is defined as the URL PeeWee can consume.
; http://docs.peewee-orm.com/en/latest/peewee/database.html#connecting-using-a-database-url
peewee_url = sqliteext:///db.sqlite3

; connect_attempts are the number of times the service will attempt to
; connect to the database if unavailable.
connect_attempts = 10

; connect_wait are the number of seconds the service will wait between
; connection attempts until a successful connection to the database.
connect_wait = 20
"""


@pytest.mark.parametrize("tools", ["", LEGACY_TOOLS, "\n[/]\n" + LEGACY_TOOLS])
@pytest.mark.parametrize("option", [True, False], ids=["-c", "UNIQUEID_CPCONFIG"])
def test_the_files_of_the_legacy_documentation_work_as_printed(tools: str, option: bool) -> None:
    """Without section headers, through the commands that it names, up to an ID of each server."""
    Path("config.ini").write_text(LEGACY_SERVICE)
    Path("server.conf").write_text(LEGACY_CHERRYPY + tools)
    path = f"{servers.BIN}:{os.environ['PATH']}"
    environment = {**os.environ, "UNIQUEID_CONFIG": "config.ini", "PATH": path}
    arguments = ["-c", "server.conf"] if option else []
    if not option:
        environment["UNIQUEID_CPCONFIG"] = "server.conf"
    uwsgi = shlex.split("uwsgi --http-socket :8051 --master -p 1 --module pacifica.uniqueid.wsgi")
    with network.Network() as net:
        shell = {"env": environment, "check": True, "capture_output": True}
        subprocess.run(["pacifica-uniqueid-cmd", "dbsync"], **shell)  # type: ignore[call-overload]
        for number, command in enumerate((["pacifica-uniqueid", *arguments], uwsgi), 1):
            command[0] = str(servers.BIN / command[0])
            with Path("log").open("ab") as log:
                server = subprocess.Popen(
                    [*net.prefix, *command], env=environment, stdout=log, stderr=log
                )
            url = f"http://127.0.0.1:8051/getid?range=1&mode=file&number={number}"

            def up() -> bool:
                assert server.poll() is None, Path("log").read_text()  # noqa: B023
                ready = [*net.prefix, "curl", "-fsS", "http://127.0.0.1:8051/"]
                return subprocess.run(ready, capture_output=True, check=False).returncode == 0

            try:
                servers.wait_until(up, command[0])
                curl = [*net.prefix, "curl", "-fsS", url]
                answer = subprocess.run(curl, capture_output=True, check=True)
                assert json.loads(answer.stdout) == {"startIndex": number, "endIndex": number}
            finally:
                network.end(server, Path(command[0]).name)
    assert Path("access.log").read_text().count("GET /getid") == 1


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_accepted_requests_are_answered(
    tmp_path: Path, number: int
) -> None:
    """Requests that wait for the database at the signal all get their IDs; the exit status is 0."""
    server = built_in(tmp_path)
    with servers.running(server), ThreadPoolExecutor(8) as pool:
        server.allocate("file", 1)
        with closing(sqlite3.connect(tmp_path / "db.sqlite3", isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            answers = [pool.submit(server.allocate, "file", 10) for _number in range(8)]

            servers.wait_until(lambda: servers.connections(server) >= 8, "8 requests in the server")
            server.signal(number)
            wait_for(server.log, "message=stopping")
            lock.execute("ROLLBACK")
        ranges = sorted(answer.result(servers.START_TIMEOUT) for answer in answers)
        assert ranges == [(first, first + 9) for first in range(2, 82, 10)]
        assert server.wait() == 0
        log = server.log.read_text()
    assert "message=stopped" in log
    assert "Traceback" not in log


def test_a_signal_during_the_start_is_no_crash(tmp_path: Path) -> None:
    """A signal ends it in order from the first response on."""
    server = built_in(tmp_path)
    with servers.running(server):
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "message=stopped" in server.log.read_text()


# -- what is refused ------------------------------------------------------------------------------


def test_a_missing_file_is_refused() -> None:
    """The line names the option or the variable."""
    for option in ("-c", "--config", "--cpconfig"):
        assert "-c/--config): No such file" in refused(option, "absent.conf")
    assert "UNIQUEID_CPCONFIG" in refused(UNIQUEID_CPCONFIG="absent.conf")
    assert "No such file" in refused(UNIQUEID_CONFIG="absent.cfg")


@pytest.mark.parametrize("start", ["", "[database]\n"])
def test_the_service_s_file_as_a_cherrypy_file_is_refused(start: str) -> None:
    """With and without a section; the line says where the file belongs."""
    service = write("config.cfg", start + "url = sqlite:///db.sqlite3\n")
    for line in (refused("-c", service), refused(UNIQUEID_CPCONFIG=service)):
        assert "belongs to the service's file, which UNIQUEID_CONFIG names" in line


@pytest.mark.parametrize("start", ["", "[global]\n", "[/]\n"])
def test_a_cherrypy_file_as_the_service_s_is_refused(start: str) -> None:
    """With and without a section; by the server and by the other commands."""
    cherrypy = write("server.conf", start + "log.screen: True\n")
    expected = "belongs to a CherryPy file, which -c of pacifica-uniqueid or UNIQUEID_CPCONFIG"
    assert expected in refused(UNIQUEID_CONFIG=cherrypy)
    done = servers.run_cmd("-c", cherrypy, "config")
    assert done.returncode == 2
    assert expected in done.stderr
    mixed = write("mixed", "log.screen: True\n[database]\nurl = sqlite:///a\n")
    assert "[database]" in refused("-c", mixed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log.screen: true", "must be a Python literal"),
        ("log.screen: __import__('os').mkdir('evaluated')", "must be a Python literal"),
        ("server.socket_host: localhost", "must be a Python literal"),
        ("server.socket_host: 'a' 'b", "must be a Python literal"),
        (f"server.socket_port: {'(' * 3000}", "must be a Python literal"),
        ("server.socket_port: '8051'", "must be a whole number from 0 to 65535"),
        ("server.socket_port: 65536", "0 to 65535"),
        ("server.socket_port: True", "must be a whole number from 0 to 65535"),
        ("server.socket_host: 8051", "must be a text"),
        ("server.socket_host: 'no.such.host.invalid'", "is no address of this machine"),
        ("server.socket_prot: 8051", "did you mean server.socket_port?"),
        ("server.instance: 'os.mkdir'", "is not supported"),
        ("server.two.socket_port: 8052", "is not supported: there is one server"),
        ("server.socket_timeout: -1", "0 or more"),
        ("server.ssl_module: 'os.path'", "must be one of builtin, pyopenssl"),
        ("peewee_url: 'sqlite:///a'", "belongs to the service's file"),
        ("server.ssl_certificate: 'absent'\nserver.ssl_private_key: 'absent'", "for TLS"),
        ("server.thread_pool: 0", "from 1 to"),
        ("server.socket_file: 'absent/socket'", "is no directory"),
        ("log.error_file: 'absent/error.log'", "No such file"),
        ("log.screen: 1", "True or False"),
        ("environment: 'prod'", "must be one of"),
        ("log.error_file: '50%'", "a percent sign is written %%"),
        ("log.screen True", "errors"),
        ("log.screen: True\nlog.screen: False", "already exists"),
        (f"{ON}\ntools.response_headers.headers: [1]", "'Name', 'value'"),
        (f"{ON}\ntools.response_headers.headers: [('X A', 'a')]", "'Name', 'value'"),
        (f"{ON}\ntools.response_headers.headers: [('ETag', 'x')]", "a cache could repeat"),
        (f"{ON}\ntools.response_headers.headers: [('X-A', 'a\\r\\nX-B: b')]", "line breaks"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(text: str, expected: str) -> None:
    """One line names the key, the value and what is allowed; nothing is ever run as code."""
    line = refused("-c", write("server.conf", f"[global]\n{text}\n"))
    assert expected in line
    assert not Path("evaluated").exists()
    assert len(line) < 700


@pytest.mark.parametrize(
    "arguments",
    [("-p", "65536"), ("-p", "x"), ("-p", "-1"), ("-a", ""), ("--prot", "1"), ("extra",)],
)
def test_an_option_that_cannot_be_used_is_refused(arguments: tuple[str, ...]) -> None:
    """One line, no page of usage."""
    refused(*arguments)


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    """One line names the port and the reason; nothing is printed of Cheroot's."""
    subprocess.run([str(servers.BIN / "pacifica-uniqueid-cmd"), "dbsync"], check=True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = refused("-p", port)
        assert port in line
        assert "in use" in line


@pytest.mark.parametrize("order", [1, -1])
def test_a_name_with_an_address_that_is_not_here_is_served_at_the_others(order: int) -> None:
    """localhost may have an IPv6 address in a file and none in the kernel."""
    code = f"""
import socket
from uniqueid.server import builtin as server
here = socket.getaddrinfo("127.0.0.1", {servers.free_port()}, type=socket.SOCK_STREAM)
absent = socket.getaddrinfo("192.0.2.1", 8051, type=socket.SOCK_STREAM)
socket.getaddrinfo = lambda *_arguments, **_options: (here + absent)[::{order}]
server.check_address(("localhost", 8051))
"""
    subprocess.run([str(servers.BIN / "python"), "-c", code], check=True)


def test_an_absent_or_old_schema_is_refused() -> None:
    """The line names the command that repairs it."""
    assert "pacifica-uniqueid-cmd dbsync" in refused()
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        database.execute('CREATE TABLE uniqueindex (id VARCHAR(255) PRIMARY KEY, "index" INTEGER)')
    lines = run().stderr.splitlines()
    assert "pacifica-uniqueid-cmd dbsync" in lines[-1]
