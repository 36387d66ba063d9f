"""The commands for counters, as an operator types them in front of an SQLite database."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from functools import partial

import pytest
from servers import run_cmd

from uniqueid.errors import MAX_ID

cmd = partial(run_cmd, LC_ALL="C.UTF-8")


@pytest.fixture(autouse=True)
def counters() -> None:
    """Two counters, in the default file of the working directory."""
    assert cmd("dbsync").returncode == 0
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        database.executemany(
            "INSERT INTO uniqueindex VALUES (?, ?)", [("file", 101), ("upload_job", 7)]
        )


def shown() -> dict[str, int]:
    """What `show --json` says."""
    result = cmd("show", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return {item["mode"]: item["next_id"] for item in json.loads(result.stdout)["counters"]}


def test_show_lists_the_counters_in_a_table() -> None:
    """Sorted by mode, with the next ID of each."""
    result = cmd("show")
    assert result.returncode == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["MODE", "NEXT", "ID"],
        ["file", "101"],
        ["upload_job", "7"],
    ]


def test_show_keeps_control_characters_from_the_terminal() -> None:
    """An old database may hold such modes."""
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        database.execute("INSERT INTO uniqueindex VALUES (?, 1)", ("\x1b[2J",))
    result = cmd("show")
    assert "\x1b" not in result.stdout
    assert "'\\x1b[2J'" in result.stdout
    assert shown() == {"\x1b[2J": 1, "file": 101, "upload_job": 7}


def test_advance_to_raises_a_counter_and_says_old_and_new() -> None:
    """The others stay."""
    result = cmd("advance", "--mode", "file", "--to", "5000")
    assert (result.returncode, result.stdout, result.stderr) == (0, "file: 101 -> 5000\n", "")
    assert shown() == {"file": 5000, "upload_job": 7}


@pytest.mark.parametrize("to", ["100", "1", "101"])
def test_advance_to_never_lowers(to: str) -> None:
    """A counter that is there or above stays, which is no error: the command can be repeated."""
    result = cmd("advance", "--mode", "file", "--to", to)
    assert result.returncode == 0
    assert result.stdout == "file: 101 -> 101  (not changed: it is there already)\n"
    assert shown() == {"file": 101, "upload_job": 7}


def test_advance_to_makes_a_counter() -> None:
    """So that a restored database can be told of a mode that it never knew."""
    result = cmd("advance", "--mode", "päth ☃", "--to", "12")
    assert (result.returncode, result.stdout) == (0, "päth ☃: 1 -> 12\n")
    assert shown()["päth ☃"] == 12


def test_advance_to_1_makes_none() -> None:
    """A mode without a counter starts at 1 automatically."""
    result = cmd("advance", "--mode", "new", "--to", "1")
    assert result.returncode == 0
    assert result.stdout == "new: there is no counter yet, and its first ID will be 1\n"
    assert "new" not in shown()


def test_advance_by_skips_ids() -> None:
    """Of one counter, or of all of them."""
    result = cmd("advance", "--mode", "upload_job", "--by", "1000")
    assert (result.returncode, result.stdout) == (0, "upload_job: 7 -> 1007\n")
    result = cmd("advance", "--all", "--by", "5")
    assert (result.returncode, result.stdout) == (0, "file: 101 -> 106\nupload_job: 1007 -> 1012\n")
    assert shown() == {"file": 106, "upload_job": 1012}


def test_advance_by_needs_a_counter() -> None:
    """A mistyped mode is told and makes nothing."""
    result = cmd("advance", "--mode", "fiel", "--by", "10")
    assert result.returncode == 1
    assert "--mode 'fiel': there is no such counter" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "fiel" not in shown()


def test_a_counter_can_be_advanced_to_its_end_and_no_further() -> None:
    """The last next ID there can be means that none is left."""
    end = MAX_ID + 1
    assert cmd("advance", "--mode", "file", "--to", str(end)).stdout == f"file: 101 -> {end}\n"
    result = cmd("advance", "--all", "--by", "1")
    assert result.returncode == 1
    assert "not changed: mode 'file' has 0 IDs left" in result.stderr
    assert result.stdout == "upload_job: 7 -> 8\n"
    assert shown() == {"file": end, "upload_job": 8}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--mode", "file", "--to", "0"], "--to: '0'"),
        (["--mode", "file", "--to=-5"], "--to: '-5'"),
        (["--mode", "file", "--to", "1e3"], "--to: '1e3'"),
        (["--mode", "file", "--to", "١٢"], "--to: '١٢'"),
        (["--mode", "file", "--to", ""], "--to: ''"),
        (["--mode", "file", "--to", str(MAX_ID + 2)], f"from 1 to {MAX_ID + 1}"),
        (["--mode", "file", "--to", "9" * 5000], f"from 1 to {MAX_ID + 1}"),
        (["--mode", "file", "--by", "0"], "--by: '0'"),
        (["--mode", "file", "--by", str(MAX_ID + 1)], f"from 1 to {MAX_ID}"),
        (["--mode", "", "--by", "1"], "--mode: ''"),
        (["--mode", "m" * 256, "--by", "1"], "1 to 255 characters"),
        (["--mode", "a\tb", "--by", "1"], "--mode: 'a\\tb'"),
        (["--mode", "file"], "--to --by"),
        (["--to", "5"], "--mode --all"),
        (["--mode", "file", "--to", "5", "--by", "5"], "not allowed with"),
        (["--mode", "file", "--all", "--by", "5"], "not allowed with"),
    ],
)
def test_nonsense_is_refused_by_name_and_changes_nothing(arguments: list[str], named: str) -> None:
    """With the option, the value and what is allowed; no traceback."""
    result = cmd("advance", *arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    assert shown() == {"file": 101, "upload_job": 7}


def test_all_does_not_go_with_to() -> None:
    """No one ID is right for every counter."""
    result = cmd("advance", "--all", "--to", "5")
    assert result.returncode == 2
    assert "--all goes with --by" in result.stderr
    assert shown() == {"file": 101, "upload_job": 7}


def test_a_database_in_use_is_waited_for_and_then_told() -> None:
    """Another program holds SQLite's lock for longer than the time-out; reading needs no lock."""
    with closing(sqlite3.connect("db.sqlite3", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        assert cmd("dbchk").returncode == 0
        assert shown() == {"file": 101, "upload_job": 7}
        result = run_cmd("advance", "--mode", "file", "--to", "500", UNIQUEID_REQUEST_TIMEOUT="0.5")
        database.execute("ROLLBACK")
    assert result.returncode == 1
    assert "locked" in result.stderr
    assert result.stderr.count("\n") == 1
    assert shown()["file"] == 101
