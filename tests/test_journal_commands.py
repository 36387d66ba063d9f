"""whois and journal, as an operator types them in front of an SQLite database."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import sqlite3
import subprocess
import termios
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from servers import BIN, run_cmd

from uniqueid import errors, service
from uniqueid.commands import journal as journal_commands
from uniqueid.config import load
from uniqueid.database import schema
from uniqueid.database.journal import Record

START = 1_767_225_600
"""2026-01-01 in UTC, in seconds since 1970."""
ENVIRONMENT = {"HOME": ".", "PATH": str(BIN), "LC_ALL": "C.UTF-8"}


cmd = partial(run_cmd, LC_ALL="C.UTF-8")


@pytest.fixture(autouse=True)
def journal() -> None:
    """An hour's worth of two modes in the default file of the working directory."""
    assert cmd("dbsync").returncode == 0
    rows = [
        (
            "a key of a client" if number == 3 else None,
            "ingest",
            mode,
            1 + number * 10,
            10 + number * 10,
            (START + number * 600) * 1_000_000 + 5,
            2**62,
            'ingest/1.0, "beta"',
            f"r-{number}",
            number == 3,
        )
        for number in range(6)
        for mode in ("file", "päth ☃")
        if mode == "file" or number != 3
    ]
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        database.executemany(
            "INSERT INTO uniqueidjournal (idempotency_key, caller, mode, first, last, time,"
            " expires, client, request_id, replays) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


def test_whois_tells_who_got_an_id_and_when() -> None:
    """Everything that was recorded of its allocation, for people and for programs."""
    result = cmd("whois", "--mode", "file", "35")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "mode: file",
        "first: 31",
        "last: 40",
        "time: 2026-01-01T00:30:00.000005Z",
        "token: ingest",
        'client: ingest/1.0, "beta"',
        "request_id: r-3",
        "key: a key of a client",
        "replays: 1",
    ]
    found = json.loads(cmd("whois", "--mode", "päth ☃", "--json", "60").stdout)
    assert (found["mode"], found["first"], found["key"]) == ("päth ☃", 51, None)


@pytest.mark.parametrize(("mode", "one"), [("file", "61"), ("päth ☃", "35"), ("other", "1")])
def test_whois_knows_nothing_of_what_was_not_recorded(mode: str, one: str) -> None:
    """One line, which names the ID, and exit status 1."""
    result = cmd("whois", "--mode", mode, one)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"nothing is recorded of ID {one} of mode {mode!r}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_journal_lists_a_table() -> None:
    """In the order in which it was recorded; a mode's in that of its IDs."""
    lines = cmd("journal").stdout.splitlines()
    assert lines[0].split() == ["FIRST", "LAST", "TIME", "TOKEN", "CLIENT", "REQUEST", "ID", "MODE"]
    assert len(lines) == 1 + 11
    assert lines[2].startswith("1 ")
    assert lines[2].endswith("r-0                               päth ☃")
    assert [line.split()[0] for line in cmd("journal", "--mode", "file").stdout.splitlines()] == [
        "FIRST", "1", "11", "21", "31", "41", "51",
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_of_csv_is_no_formula(start: str) -> None:
    """A spreadsheet would run what a client calls itself."""
    record = Record(1, None, "token", f"{start}mode", 1, 2, 0, 0, f"{start}HYPERLINK(1)", "r", 0)
    out = io.StringIO(newline="")
    journal_commands._write_csv([record], out)
    (row,) = csv.DictReader(io.StringIO(out.getvalue(), newline=""))
    assert row["client"] == f"'{start}HYPERLINK(1)"
    assert row["mode"] == f"'{start}mode"
    assert (row["first"], row["token"]) == ("1", "token")


@pytest.mark.parametrize(
    ("bounds", "firsts"),
    [
        (["--from", "2026-01-01T00:20:00Z"], [21, 31, 41, 51]),
        (["--from", "2026-01-01 02:20:00+02:00", "--to", "2026-01-01T00:40"], [21, 31]),
        (["--to", "2026-01-01"], []),
        (["--from", "20260101T003000.000005Z"], [31, 41, 51]),
        (["--from", "20260101T003000.000006Z"], [41, 51]),
        (["--first", "40", "--last", "51"], [31, 41, 51]),
        (["--first", "41", "--last", "50"], [41]),
    ],
)
def test_journal_between_bounds(bounds: list[str], firsts: list[int]) -> None:
    """Times are in UTC where they do not say; the end of a time is not in it, that of IDs is."""
    result = cmd("journal", "--mode", "file", "--format", "jsonl", *bounds)
    assert (result.returncode, result.stderr) == (0, "")
    assert [json.loads(line)["first"] for line in result.stdout.splitlines()] == firsts


def test_journal_exports_csv_that_others_read(tmp_path: Path) -> None:
    """With a head, quotes where they are needed, and CRLF as RFC 4180 has it."""
    result = cmd("journal", "--format", "csv", "--output", "out.csv")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    content = (tmp_path / "out.csv").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n") == 1 + 11
    with open("out.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[6] == {
        "mode": "file",
        "first": "31",
        "last": "40",
        "time": "2026-01-01T00:30:00.000005Z",
        "token": "ingest",
        "client": 'ingest/1.0, "beta"',
        "request_id": "r-3",
        "key": "a key of a client",
        "replays": "1",
    }
    jsonl = [json.loads(line) for line in cmd("journal", "--format", "jsonl").stdout.splitlines()]
    assert [str(row["first"]) for row in jsonl] == [row["first"] for row in rows]


def test_an_export_on_a_terminal_has_a_progress_bar() -> None:
    """Which is complete in the end, and is not in the file."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 80))
    try:
        with open("out.jsonl", "w", encoding="utf-8") as out:
            done = subprocess.run(
                [str(BIN / "pacifica-uniqueid-cmd"), "journal", "--format", "jsonl"],
                stdout=out,
                stderr=follower,
                timeout=60,
                env=ENVIRONMENT,
                check=False,
            )
        os.close(follower)
        seen = b""
        # Linux says EIO when the other end is closed (pty(7)).
        with contextlib.suppress(OSError):
            while chunk := os.read(leader, 65536):
                seen += chunk
    finally:
        os.close(leader)
    assert done.returncode == 0
    assert b"100%" in seen
    assert b"11.0/11.0" in seen
    lines = Path("out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len([json.loads(line) for line in lines]) == 11


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """`journal | head` says nothing of a broken pipe."""
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        copy = "INSERT INTO uniqueidjournal (caller, mode, first, last, time, expires, client,"
        copy += " request_id) SELECT caller, mode, first + {0}, last + {0}, time, expires, client,"
        copy += " request_id FROM uniqueidjournal"
        for step in range(10):
            database.execute(copy.format(60 * 2**step))
    done = subprocess.run(
        f"{BIN}/pacifica-uniqueid-cmd journal | head -n 2",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**ENVIRONMENT, "PATH": os.environ["PATH"]},
        check=False,
    )
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["whois", "--mode", "file", "0"], "'0' must be a whole number from 1"),
        (["whois", "--mode", "file", "1e3"], "'1e3' must be"),
        (["whois", "--mode", "", "1"], "--mode: ''"),
        (["whois", "1"], "--mode"),
        (["journal", "--from", "yesterday"], "--from: 'yesterday' must be a time in ISO 8601"),
        (["journal", "--to", "2026-13-01"], "--to: '2026-13-01'"),
        (["journal", "--first", "1"], "go with --mode"),
        (["journal", "--mode", "file", "--last", "-1"], "--last"),
        (["journal", "--format", "xml"], "--format: invalid choice: 'xml'"),
        (["journal", "--output", "/nowhere/at/all"], "--output = '/nowhere/at/all'"),
        (["dbsync", "--to", "0.9"], "--to: invalid choice: '0.9'"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: list[str], named: str) -> None:
    """With exit status 2 and no traceback."""
    result = cmd(*arguments)
    assert result.returncode == 2
    assert named in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_table_the_commands_say_what_makes_it() -> None:
    """And so does a service that is to keep a journal; others start."""
    with closing(sqlite3.connect("db.sqlite3")) as database, database:
        database.execute("DROP TABLE uniqueidjournal")
    assert cmd("dbsync", "--to", "1.0").stdout == "the schema has version 1.0\n"
    for arguments in (["whois", "--mode", "file", "1"], ["journal"]):
        result = cmd(*arguments)
        assert result.returncode == 1
        assert "run 'pacifica-uniqueid-cmd dbsync'" in result.stderr
        assert result.stderr.count("\n") == 1
    with pytest.raises(errors.JournalMissing, match="dbsync"):
        service.build(load(environ={"UNIQUEID_JOURNAL": "on"}))
    made = service.build(load(environ={}))
    assert schema.inspect(made.store).version == (1, 0)
    made.store.disconnect()
    assert cmd("dbsync").returncode == 0
    assert cmd("journal").returncode == 0


def test_dbsync_steps_back_only_from_what_there_is(tmp_path: Path) -> None:
    """An empty database, or none, has no version to go back from."""
    (tmp_path / "db.sqlite3").unlink()
    result = cmd("dbsync", "--to", "1.0")
    assert result.returncode == 1
    assert "run 'pacifica-uniqueid-cmd dbsync'" in result.stderr
    assert not (tmp_path / "db.sqlite3").exists()
