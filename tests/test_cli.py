"""The commands, as an operator types them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from servers import run_cmd

cmd = run_cmd


def test_dbsync_makes_the_tables_and_can_be_repeated(tmp_path: Path) -> None:
    """With the default settings, in an empty directory."""
    assert cmd("dbchk").returncode == 1
    first = cmd("dbsync")
    assert first.returncode == 0
    assert "create the counters" in first.stdout
    assert (tmp_path / "db.sqlite3").exists()
    again = cmd("dbsync")
    assert (again.returncode, again.stdout) == (0, "the schema has version 1.1\n")
    assert cmd("dbchk").returncode == 0
    assert cmd("dbchk", "--equal").returncode == 0


def test_dbchk_says_what_mends_an_absent_database() -> None:
    """And does not make one."""
    result = cmd("dbchk")
    assert result.returncode == 1
    assert "run 'pacifica-uniqueid-cmd dbsync'" in result.stderr
    assert not Path("db.sqlite3").exists()


def test_a_file_that_lost_its_url_starts_no_counters(tmp_path: Path) -> None:
    """The default would be an empty file next to it: dbchk, show and the server name that file."""
    Path("config.cfg").write_text("[database]\nconnect_attempts = 1\n")
    for command in (["dbchk"], ["show"], ["advance", "--mode", "file", "--to", "5"]):
        result = cmd(*command)
        assert result.returncode == 1
        assert f"there is no file {tmp_path}/db.sqlite3 yet" in result.stderr
        assert "otherwise correct [database] url" in result.stderr
    served = subprocess.run(
        [sys.executable, "-c", "import uniqueid.wsgi"], capture_output=True, text=True, check=False
    )
    assert served.returncode != 0
    assert f"there is no file {tmp_path}/db.sqlite3 yet" in served.stderr
    assert "Traceback" not in served.stderr
    assert not list(tmp_path.glob("db.sqlite3*"))


@pytest.mark.parametrize("option", [["--no-create"], ["--create-until", "2026-01-31T12:00:00Z"]])
def test_dbsync_refuses_to_create(option: list[str], tmp_path: Path) -> None:
    """Neither a file nor tables in an empty one; existing tables are brought up to date."""
    for empty in (False, True):
        if empty:
            with closing(sqlite3.connect("db.sqlite3")) as connection:
                connection.execute("VACUUM")
        refused = cmd("dbsync", *option)
        assert refused.returncode == 1
        assert "database.initialize=true" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert Path("db.sqlite3").exists() == empty
    Path("db.sqlite3").unlink()
    created = cmd("dbsync", "--create-until", "2999-01-31T12:00:00Z")
    assert created.returncode == 0
    assert "new counters created, every mode starts at 1" in created.stderr
    assert cmd("dbsync", *option).returncode == 0


@pytest.mark.parametrize("time", ["soon", "2026-01-31", "2026-01-31T12:00:00"])
def test_a_time_that_cannot_be_used_is_named(time: str) -> None:
    """With what is allowed."""
    result = cmd("dbsync", "--create-until", time)
    assert result.returncode == 2
    assert f"{time!r} must be a time with its offset, as 2026-01-31T12:00:00Z" in result.stderr


def test_config_prints_what_counts_and_where_it_came_from() -> None:
    """Passwords hidden."""
    url = "mysql://u:secret@h/db"
    result = cmd("config", UNIQUEID_DATABASE_URL=url, UNIQUEID_MAX_RANGES="1")
    assert result.returncode == 0
    assert "[database] url = mysql://u:***@h/db  (UNIQUEID_DATABASE_URL)" in result.stdout
    assert "[uniqueid] max_range = 1000000000  (default)" in result.stdout
    assert "UNIQUEID_MAX_RANGES is no setting" in result.stderr
    assert "secret" not in result.stdout + result.stderr


def test_a_bad_setting_is_one_line_and_exit_2() -> None:
    """For every command."""
    for command in ("config", "dbsync", "dbchk"):
        result = cmd("-c", "missing.cfg", command)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1
        assert "missing.cfg" in result.stderr
    assert cmd("nonsense").returncode == 2
    assert cmd().returncode == 2


def test_a_database_that_cannot_be_reached_is_tried_as_often_as_was_said() -> None:
    """One log line for each attempt, one for the end, and no traceback."""
    result = cmd(
        "dbchk",
        UNIQUEID_DATABASE_URL="mysql://u:secret@127.0.0.1:1/db",
        DATABASE_CONNECT_ATTEMPTS="3",
        DATABASE_CONNECT_WAIT="0.01",
    )
    assert result.returncode == 1
    assert [f"attempt {number} of 3" in result.stderr for number in (1, 2, 3)] == [True] * 3
    assert "Traceback" not in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("command", ["dbsync", "dbchk", "show"])
def test_an_sqlite_path_of_no_use_is_refused_at_once(command: str, tmp_path: Path) -> None:
    """One line that names path and reason: waiting makes no directory and no database of a file."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "text").write_text("no database, and longer than the header of one is" * 9)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "db.sqlite3")
    reasons = {
        "directory": "it is a directory",
        "text": "file is not a database",
        "text/db.sqlite3": f"there is no directory {tmp_path}/text",
        "absent/db.sqlite3": f"there is no directory {tmp_path}/absent",
        "link": "this user may not read and write it, or it leads nowhere",
    }
    for name, reason in reasons.items():
        result = cmd(
            command,
            UNIQUEID_DATABASE_URL=f"sqlite:///{tmp_path}/{name}",
            DATABASE_CONNECT_ATTEMPTS="1000",
            DATABASE_CONNECT_WAIT="1000",
        )
        assert result.returncode == 1, name
        assert result.stderr.count("\n") == 1, result.stderr
        assert f"{tmp_path}/{name}" in result.stderr
        if command == "dbsync" or not name.endswith(".sqlite3"):
            assert f"{tmp_path}/{name} cannot be opened: {reason}" in result.stderr
        else:
            assert "dbsync" in result.stderr
    assert not (tmp_path / "nowhere").exists()


# Root may do everything, and no other user need be able to read what these tests run in.
AS_NOBODY = """
import os, sys
from uniqueid.commands import cli
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
sys.exit(cli.main(["dbsync"]))
"""


def test_an_sqlite_file_that_is_not_ours_to_open_is_refused_at_once() -> None:
    """The line says that it is a matter of rights."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "db.sqlite3").touch(0)
        for path, reason in (
            ("db.sqlite3", "this user may not read and write it"),
            ("new.sqlite3", f"this user may not write in the directory {directory}"),
        ):
            directory.chmod(0o555)
            result = subprocess.run(
                [sys.executable, "-c", AS_NOBODY],
                capture_output=True, text=True, timeout=60, check=False, cwd="/",
                env={"HOME": "/", "UNIQUEID_DATABASE_URL": f"sqlite:///{directory}/{path}"},
            )  # fmt: skip
            directory.chmod(0o755)
            assert result.returncode == 1
            assert result.stderr.count("\n") == 1, result.stderr
            assert f"{directory}/{path} cannot be opened: {reason}" in result.stderr


def test_an_sqlite_file_that_is_locked_is_tried_again(tmp_path: Path) -> None:
    """The transaction of another process ends some time."""
    with closing(sqlite3.connect(tmp_path / "db.sqlite3", isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        result = cmd("dbsync", DATABASE_CONNECT_ATTEMPTS="2", DATABASE_CONNECT_WAIT="0.01")
        assert result.returncode == 1
        assert "attempt 2 of 2" in result.stderr
        assert "Traceback" not in result.stderr
        other.execute("COMMIT")
    assert cmd("dbsync").returncode == 0
