"""The commands, as an operator types them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from servers import BIN


def cmd(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the installed pacifica-uniqueid-cmd in the test's directory."""
    return subprocess.run(
        [str(BIN / "pacifica-uniqueid-cmd"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"HOME": ".", "PATH": str(BIN), **environ},
        check=False,
    )


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
