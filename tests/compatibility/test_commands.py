"""The commands of the old documentation, word for word, after a plain installation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import network
import pytest
import servers

from compatibility import upstream

# Starts a command, has several clients allocate, ends it. Prints what the clients got.
DRIVER = """
import json, signal, subprocess, sys, time, urllib.request
from concurrent.futures import ThreadPoolExecutor

command, ending, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

def get(path):
    with urllib.request.urlopen("http://localhost:8051" + path, timeout=timeout) as response:
        assert response.status == 200
        return json.load(response)

server = subprocess.Popen("exec " + command, shell=True, stdout=sys.stderr)
end = time.monotonic() + timeout
while True:
    assert server.poll() is None, "it ended"
    assert time.monotonic() < end, "it does not answer"
    try:
        message = get("/")["message"]
        break
    except OSError:
        time.sleep(0.05)

def client(number):
    answers = [get("/getid?range=%d&mode=file" % (1 + number)) for _step in range(10)]
    return [(answer["startIndex"], answer["endIndex"]) for answer in answers]

with ThreadPoolExecutor(8) as pool:
    ranges = [item for taken in pool.map(client, range(8)) for item in taken]
nothing = get("/getid?range=0&mode=file")
server.send_signal(ending)
print(json.dumps({"message": message, "ranges": ranges, "nothing": nothing,
                  "status": server.wait(timeout)}))
"""


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The programs come from the installed wheel, the working directory is empty."""
    programs = upstream.plain()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return programs


def run(command: str) -> subprocess.CompletedProcess[str]:
    """Run a command line as a shell does."""
    return subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        timeout=servers.START_TIMEOUT,
        check=True,
    )


def serve(command: str, ending: int) -> tuple[dict[str, object], str]:
    """What the driver has seen of a server, and the server's own words."""
    with network.Network() as net:
        done = subprocess.run(
            [*net.prefix, sys.executable, "-c", DRIVER, command]
            + [str(ending), str(servers.START_TIMEOUT)],
            capture_output=True,
            text=True,
            timeout=4 * servers.START_TIMEOUT,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout), done.stderr


def test_the_documented_commands_work_word_for_word(path: Path) -> None:
    """From an empty directory: help, tables, the built-in server, then uWSGI on the same IDs."""
    printed = run("pacifica-uniqueid --help").stdout
    for words in ("-h", "-c CONFIG", "--config", "--cpconfig", "-p PORT", "-a ADDRESS", "8051"):
        assert words in printed
    run("pacifica-uniqueid-cmd dbsync")
    run("pacifica-uniqueid-cmd dbsync")
    first, said = serve("pacifica-uniqueid", 15)
    for event in ("serving address=http://", "stopping address=", "stopped address="):
        assert f"message={event}" in said
    # Without die-on-term, SIGTERM means a reload to uWSGI; SIGQUIT ends it.
    second, _said = serve(
        "uwsgi --http-socket :8051 --master -p 1 --module pacifica.uniqueid.wsgi", 3
    )
    expected = 1
    for seen in (first, second):
        assert seen["message"] == "Pacifica UniqueID Up and Running"
        assert seen["nothing"] == {"startIndex": -1, "endIndex": -3}
        assert seen["status"] == 0
        ranges = seen["ranges"]
        assert isinstance(ranges, list)
        assert len(ranges) == 80
        for start, last in sorted(ranges):
            assert start == expected
            expected = last + 1
    assert expected == 1 + 2 * 10 * sum(range(1, 9))


def test_both_options_of_the_old_command_take_a_file(path: Path) -> None:
    """`pacifica-uniqueid-cmd -c CONFIG dbsync` and `dbchk` read the legacy service's file."""
    Path("config.ini").write_text(
        "[database]\npeewee_url = sqliteext:///mine.sqlite3\n"
        "connect_attempts = 10\nconnect_wait = 20\n"
    )
    run("pacifica-uniqueid-cmd -c config.ini dbsync")
    run("pacifica-uniqueid-cmd -c config.ini dbchk")
    run("UNIQUEID_CONFIG=config.ini pacifica-uniqueid-cmd dbchk --equal")
    assert Path("mine.sqlite3").exists()
    assert not Path("db.sqlite3").exists()


def test_nothing_is_missing_after_a_plain_installation(path: Path) -> None:
    """pip finds every requirement met, and the old import path is there."""
    run(f"{path}/python -m pip check")
    run(f"{path}/python -c 'import uniqueid.server.builtin, pacifica.uniqueid'")


def test_make_run_serves_from_a_fresh_checkout(tmp_path: Path) -> None:
    """The first command of README.md installs what it needs, makes a database and serves."""
    checkout = tmp_path / "checkout"
    copied = ("*.py", "*.toml", "*.md", "*.ini", "*.cfg", "Makefile", "LICENSE", ".ci/*")
    for pattern in (*copied, "uniqueid/**/*", "pacifica/**/*"):
        for file in servers.CHECKOUT.glob(pattern):
            if file.is_file() and "__pycache__" not in file.parts:
                target = checkout / file.relative_to(servers.CHECKOUT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)
    # pip needs the network, and the server a port 8051 of its own.
    build = ["make", ".venv/run"]
    subprocess.run(build, cwd=checkout, check=True, capture_output=True, env=upstream.for_pip())
    with network.Network() as net:
        server = subprocess.Popen([*net.prefix, "make", "run"], cwd=checkout)
        try:

            def up() -> bool:
                assert server.poll() is None
                return run_in(net, "curl -fsS http://localhost:8051/") is not None

            servers.wait_until(up, "make run")
            printed = run_in(net, "curl -fsS 'http://localhost:8051/getid?range=10&mode=file'")
            assert printed == '{"startIndex": 1, "endIndex": 10}'
        finally:
            network.end(server, "make run")
            servers.wait_until(
                lambda: run_in(net, "curl -sS http://localhost:8051/") is None, "the end"
            )


def run_in(net: network.Network, command: str) -> str | None:
    """What a command prints in a network; None when it fails."""
    done = subprocess.run(
        [*net.prefix, "sh", "-c", command], capture_output=True, text=True, check=False
    )
    return done.stdout if done.returncode == 0 else None
