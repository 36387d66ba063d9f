"""From an empty directory to the first ID, and the habits of a command line."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import servers
from servers import BIN, run_cmd

CMD = str(BIN / "pacifica-uniqueid-cmd")


class Started(servers.Process):
    """A server that is started as a user does, at the address of UNIQUEID_LISTEN."""

    def __init__(self, directory: Path, *arguments: str, listen: str = "127.0.0.1:{}") -> None:
        super().__init__()
        self.place, self.arguments, self.listen = directory, arguments, listen.format(self.port)

    def command(self) -> list[str]:
        return ["sh", "-c", f"cd {self.place} && exec {BIN}/{' '.join(self.arguments)}"]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "UNIQUEID_LISTEN": self.listen}


SERVERS = [("uwsgi", "--ini", "uwsgi.ini"), ("pacifica-uniqueid",)]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server[0])
@pytest.mark.parametrize("listen", ["127.0.0.1:{}", ":{}"])
def test_init_and_one_command_lead_to_an_id(server: tuple[str, ...], listen: str) -> None:
    """The files are the samples, the tables are there, and the next command is printed."""
    done = run_cmd("init", "my ids/1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: cd 'my ids/1' && uwsgi --ini uwsgi.ini"
    for name in ("config.cfg", "uwsgi.ini"):
        assert Path("my ids/1", name).read_bytes() == (servers.CHECKOUT / name).read_bytes()
    os.rename("my ids", "ids")
    with Started(Path("ids/1").resolve(), *server, listen=listen) as started:
        answer = subprocess.run(
            ["curl", "-fsS", f"http://127.0.0.1:{started.port}/getid?range=2&mode=file"],
            capture_output=True,
            check=True,
        )
    assert json.loads(answer.stdout) == {"startIndex": 1, "endIndex": 2}


def test_init_changes_no_file_and_starts_no_counter_anew() -> None:
    """Next to an existing file, an absent database is more likely a lost one."""
    assert run_cmd("init").returncode == 0
    Path("config.cfg").write_text("[uniqueid]\nmax_range = 7\n")
    again = run_cmd("init")
    assert again.returncode == 0
    assert "config.cfg exists and is not changed" in again.stdout
    assert Path("config.cfg").read_text() == "[uniqueid]\nmax_range = 7\n"
    Path("db.sqlite3").unlink()
    assert run_cmd("init").returncode == 1
    assert not Path("db.sqlite3").exists()
    Path("file").touch()
    failed = run_cmd("init", "file/directory")
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("value", ["8051", "host:", "host:65536", "a:b:1", "[::1]", ":١"])
def test_an_address_that_cannot_be_used_is_one_line(value: str) -> None:
    """With the variable, its value and what is allowed."""
    done = subprocess.run(
        [str(BIN / "pacifica-uniqueid")],
        capture_output=True,
        text=True,
        env={**os.environ, "UNIQUEID_LISTEN": value},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"UNIQUEID_LISTEN = {value!r} (environment): must be HOST:PORT or :PORT" in done.stderr


def test_a_busy_port_of_the_variable_is_one_line() -> None:
    """It names the port and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [str(BIN / "pacifica-uniqueid")],
            capture_output=True,
            text=True,
            env={**os.environ, "UNIQUEID_LISTEN": f"127.0.0.1:{port}"},
            check=False,
        )
    (line,) = done.stderr.splitlines()
    assert str(port) in line
    assert "in use" in line


def test_the_module_is_the_command() -> None:
    """`python -m uniqueid`."""
    command = [str(BIN / "python"), "-m", "uniqueid", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == run_cmd("--version").stdout


def test_the_file_is_named_before_or_after_the_command() -> None:
    """By -c or --config; the later one counts."""
    Path("a.cfg").write_text("[uniqueid]\nmax_range = 7\n")
    for line in ("-c a.cfg config", "config -c a.cfg", "-c b.cfg config --config a.cfg"):
        assert "max_range = 7" in run_cmd(*line.split(" ")).stdout


def test_json_is_printed_by_every_command_that_prints() -> None:
    """And nothing else on standard output."""

    def document(*arguments: str) -> dict[str, object]:
        done = run_cmd(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        read: dict[str, object] = json.loads(done.stdout)
        return read

    assert document("dbsync")["version"] == "1.1"
    assert document("dbsync") == {"steps": [], "version": "1.1"}
    checked = document("dbchk")
    assert (checked["version"], checked["warnings"]) == ("1.1", [])
    assert document("advance", "--mode", "é", "--to", "5") == {
        "counters": [{"mode": "é", "from": 1, "to": 5}]
    }
    settings = document("config")["settings"]
    assert isinstance(settings, list)
    assert {
        "option": "[uniqueid] max_range",
        "value": "1000000000",
        "source": "default",
    } in settings
    made = document("token", "ingest")
    digest = hashlib.sha256(str(made["token"]).encode()).hexdigest()
    assert made["line"] == f"ingest {digest}"


def test_dbchk_reports_what_it_found() -> None:
    """One line."""
    run_cmd("dbsync")
    (line,) = run_cmd("dbchk").stdout.splitlines()
    assert line.startswith("the tables in sqlite://")
    assert line.endswith("have version 1.1 and can be used")


def test_a_token_and_its_line_are_printed_once() -> None:
    """A new one each time; a name that the file could not hold is refused."""
    first, second = (run_cmd("token", "ingest").stdout for _time in range(2))
    assert first != second
    for name in ("", "a b", "#a", "ä"):
        assert run_cmd("token", name).returncode == 2


@pytest.mark.parametrize(
    "arguments", [("sho",), (), ("dbsync", "--no-cr"), ("show", "--js"), ("show", "--timeout", "x")]
)
def test_a_usage_error_is_one_line(arguments: tuple[str, ...]) -> None:
    """Without a page of usage; abbreviations are usage errors."""
    done = run_cmd(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_and_a_plain_terminal_are_no_traceback() -> None:
    """`show | head -1`, and a mode that the terminal cannot print."""
    run_cmd("dbsync")
    for number in range(3):
        run_cmd("advance", "--mode", f"é{number}", "--to", "5")
    plain = run_cmd("show", PYTHONIOENCODING="ascii")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert "\\xe90" in plain.stdout
    for command in ("show", "config", "dbchk", "show --json"):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [CMD, *command.split(" ")], stdout=writer, stderr=subprocess.PIPE, check=False
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr.decode().count("Traceback")) == (1, 0), command


def test_a_database_that_is_down_is_reported_soon() -> None:
    """One attempt where the settings would have ten; more with --timeout."""
    url = f"mysql://u:p@127.0.0.1:{servers.free_port()}/d"
    for arguments, attempts in (((), 1), (("--timeout", "0.5"), 1)):
        done = run_cmd("show", *arguments, UNIQUEID_DATABASE_URL=url)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"{attempts} attempt" in done.stderr or "refused" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_printed(shell: str) -> None:
    """With the names of the commands."""
    done = run_cmd("--print-completion", shell)
    assert done.returncode == 0
    assert "dbsync" in done.stdout
