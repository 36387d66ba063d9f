"""The container's entry point, as far as it needs no container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import BIN

from uniqueid import config, database_url
from uniqueid.errors import ConfigError

PARTS = {
    "PEEWEE_PROTO": "mysql",
    "PEEWEE_USER": "ids",
    "PEEWEE_PASS": "secret",
    "PEEWEE_ADDR": "db.example.com",
    "PEEWEE_PORT": "3307",
    "PEEWEE_DATABASE": "pacifica_uniqueid",
}


def test_the_old_variables_become_a_url() -> None:
    """The six variables of the old image say the same as one URL."""
    assert database_url.from_parts(PARTS) == (
        "mysql://ids:secret@db.example.com:3307/pacifica_uniqueid"
    )


@pytest.mark.parametrize("text", ["p@ss", "a/b", "%20", "a:b", "#?&=+", "ü", "[x]", " "])
@pytest.mark.parametrize("part", ["USER", "PASS", "DATABASE"])
def test_any_character_arrives(part: str, text: str) -> None:
    """What means something in a URL is encoded, and read back as it was."""
    if part == "DATABASE" and "/" in text:
        text = "ids"
    url = database_url.from_parts({**PARTS, f"PEEWEE_{part}": text})
    assert url is not None
    read = database_url.parse(url, "url", "test")
    values = {"USER": read.user, "PASS": read.password, "DATABASE": read.database}
    assert values[part] == text
    assert (read.host, read.port) == ("db.example.com", 3307)


def test_an_ipv6_address_is_bracketed() -> None:
    """A colon in the address is not the port's."""
    url = database_url.from_parts({**PARTS, "PEEWEE_ADDR": "2001:db8::1"})
    assert url is not None
    read = database_url.parse(url, "url", "test")
    assert (read.host, read.port) == ("2001:db8::1", 3307)


@pytest.mark.parametrize(
    ("left_out", "expected"),
    [
        ({"PORT"}, "mysql://ids:secret@db.example.com/pacifica_uniqueid"),
        ({"PASS"}, "mysql://ids@db.example.com:3307/pacifica_uniqueid"),
        ({"USER", "PASS"}, "mysql://db.example.com:3307/pacifica_uniqueid"),
    ],
    ids=["port", "password", "user and password"],
)
def test_parts_that_a_url_may_lack(left_out: set[str], expected: str) -> None:
    """Port, password and user need not be there."""
    environ = {n: v for n, v in PARTS.items() if n.removeprefix("PEEWEE_") not in left_out}
    assert database_url.from_parts(environ) == expected


def test_sqlite_is_a_file() -> None:
    """With SQLite the database's name is a path, and an absolute one stays absolute."""
    parts = {"PEEWEE_PROTO": "sqliteext", "PEEWEE_DATABASE": "/data/a b.sqlite3"}
    url = database_url.from_parts(parts)
    assert url is not None
    assert database_url.parse(url, "url", "test").database == "/data/a b.sqlite3"


@pytest.mark.parametrize("name", ["UNIQUEID_DATABASE_URL", "PEEWEE_DATABASE_URL", "PEEWEE_URL"])
def test_a_url_goes_before_the_parts(name: str) -> None:
    """With both set, the URL is used and the parts are not."""
    environ = {**PARTS, "PEEWEE_PROTO": "oracle", name: "sqlite:///x"}
    assert config.load(environ=environ).sources["url"] == name


def test_a_file_with_a_url_goes_before_the_parts(tmp_path: Path) -> None:
    """As before every other variable of the legacy service."""
    file = tmp_path / "config.cfg"
    file.write_text("[database]\nurl = postgresql://h/d\n")
    configuration = config.load(str(file), {**PARTS, "PEEWEE_PROTO": "oracle"})
    assert str(configuration.database) == "postgresql://h/d"


def test_every_process_reads_the_parts(tmp_path: Path) -> None:
    """In the image or not: the service, and each command that an operator runs next to it."""
    assert database_url.from_parts({}) is None
    result = subprocess.run(
        [BIN / "pacifica-uniqueid-cmd", "config"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **PARTS},
        check=True,
    )
    assert (
        "[database] url = mysql://ids:***@db.example.com:3307/pacifica_uniqueid"
        "  (PEEWEE_PROTO, PEEWEE_ADDR, ...)"
    ) in result.stdout.splitlines()
    assert "secret" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"PEEWEE_PROTO": ""}, "PEEWEE_PROTO"),
        ({"PEEWEE_PROTO": "oracle"}, "PEEWEE_PROTO"),
        ({"PEEWEE_ADDR": ""}, "PEEWEE_ADDR"),
        ({"PEEWEE_DATABASE": ""}, "PEEWEE_DATABASE"),
        ({"PEEWEE_USER": ""}, "PEEWEE_USER"),
        ({"PEEWEE_PORT": "many"}, "PEEWEE_PORT"),
        ({"PEEWEE_PORT": "65536"}, "PEEWEE_PORT"),
        ({"PEEWEE_PORT": "²"}, "PEEWEE_PORT"),
    ],
    ids=str,
)
def test_a_part_that_cannot_be_used_is_named(change: dict[str, str], variable: str) -> None:
    """The error names the variable and never shows the password."""
    with pytest.raises(ConfigError) as caught:
        database_url.from_parts({**PARTS, **change})
    assert f"({variable})" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_health_check_imports_nothing_heavy() -> None:
    """The module that runs every few seconds loads the standard library alone."""
    program = "import sys, uniqueid.container; print([m for m in sys.modules if 'pony' in m])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]"
