"""Secrets that are read from files, as container images have them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from servers import BIN

from uniqueid.config import Row, load, rows
from uniqueid.errors import ConfigError
from uniqueid.web.auth import Tokens

URL = "mysql://u:sw0rdfish@h:3306/db"
SECRETS = [
    (variable, row.name)
    for row in rows()
    if row.secret
    for variable in (row.variable, *row.legacy_variables)
]
PARTS = {"PEEWEE_PROTO": "mysql", "PEEWEE_ADDR": "h", "PEEWEE_DATABASE": "db", "PEEWEE_USER": "u"}


def environment(variable: str, value: str) -> dict[str, str]:
    """A variable or its `_FILE`, and what else the setting needs."""
    environ = {variable: value}
    if "URL" not in variable:
        environ |= PARTS
    return environ


def refused(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    message = str(caught.value)
    assert "\n" not in message
    assert "sw0rdfish" not in message
    return message


def test_the_secrets_are_url_and_password() -> None:
    """Tokens are files already, with hashes."""
    assert [variable for variable, _name in SECRETS] == [
        "UNIQUEID_DATABASE_URL", "PEEWEE_DATABASE_URL", "PEEWEE_URL", "UNIQUEID_DATABASE_PASSWORD",
    ]  # fmt: skip


ALL = [*(variable for variable, _name in SECRETS), "PEEWEE_PASS"]


@pytest.mark.parametrize("variable", ALL)
@pytest.mark.parametrize("form", ["{}", "{}\n", "{}\r\n", "\ufeff{}", "\ufeff{}\r\n", "{}\n\n"])
def test_a_secret_is_read_from_the_file_that_its_variable_names(
    variable: str, form: str, tmp_path: Path
) -> None:
    """With what an editor adds to a text, which is no part of it."""
    secret = URL if "URL" in variable else "sw0rdfish"
    file = tmp_path / "secret"
    file.write_bytes(form.format(secret).encode())
    loaded = load(environ=environment(f"{variable}_FILE", str(file)))
    assert loaded.database.password == "sw0rdfish"
    assert loaded.warnings == ()
    described = "\n".join(map(str, loaded.describe()))
    assert "sw0rdfish" not in described + repr(loaded.database)
    if variable != "PEEWEE_PASS":
        assert f"{variable}_FILE" in described


def test_a_password_in_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """Blanks and percent signs too: it is no part of a URL. Only the end of the line is not."""
    file = tmp_path / "secret"
    file.write_text(" a%20@b \t\n")
    environ = environment("UNIQUEID_DATABASE_PASSWORD_FILE", str(file))
    assert load(environ=environ).database.password == " a%20@b \t"


@pytest.mark.parametrize("variable", ALL)
def test_a_variable_and_its_file_together_are_an_error_that_names_both(
    variable: str, tmp_path: Path
) -> None:
    """Neither is ignored. An empty one counts as not set."""
    file = tmp_path / "secret"
    secret = URL if "URL" in variable else "sw0rdfish"
    file.write_text(secret)
    environ = environment(f"{variable}_FILE", str(file))
    message = refused({**environ, variable: secret})
    assert f"({variable} and {variable}_FILE): mean the same; set one of them" in message
    assert load(environ={**environ, variable: ""}).database.password == "sw0rdfish"
    ended = environment(f"{variable}_FILE", f"{file}\n")
    assert load(environ=ended).database.password == "sw0rdfish"
    both = {**environment(variable, secret), f"{variable}_FILE": ""}
    assert load(environ=both).database.password == "sw0rdfish"


@pytest.mark.parametrize("variable", ALL)
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "it is empty"),
        (b"\xef\xbb\xbf\r\n", "it is empty"),
        (b"sw0rdfish\nsw0rdfish\n", "it has several lines"),
        (b"sw0rdfish\xff", "it is not UTF-8"),
        (b"sw0rdfish" * 10_000, "it is longer than 65536 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_file_that_cannot_be_used_is_one_line(
    variable: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    """Variable, path and what is allowed; nothing of what the file has."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    message = refused(environment(f"{variable}_FILE", str(file)))
    assert f"= {str(file)!r} ({variable}_FILE): must name a readable file" in message
    assert "in one line of UTF-8 text" in message
    assert message.endswith(reason)


def test_a_directory_and_a_url_in_place_of_a_path(tmp_path: Path) -> None:
    """The secret itself is a likely mistake for its path, and is not shown."""
    assert "Is a directory" in refused({"UNIQUEID_DATABASE_URL_FILE": str(tmp_path)})
    assert "'mysql://***'" in refused({"UNIQUEID_DATABASE_URL_FILE": URL})


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """By the command, run as a user who may not."""
    file = tmp_path / "secret"
    file.write_text(URL)
    file.chmod(0)
    command = [BIN / "pacifica-uniqueid-cmd", "config"]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command],
        env={"PATH": os.environ["PATH"], "HOME": "/", "UNIQUEID_DATABASE_URL_FILE": str(file)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{str(file)!r} (UNIQUEID_DATABASE_URL_FILE)" in line
    assert line.endswith("Permission denied")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"UNIQUEID_DATABASE_URL": URL}, "[database] url has a password as well"),
        ({**PARTS, "PEEWEE_PASS": "sw0rdfish"}, "[database] url has a password as well"),
        ({}, "SQLite has no password: set [database] url"),
    ],
    ids=["url", "parts", "no url"],
)
def test_a_password_that_means_nothing_is_refused(environ: dict[str, str], message: str) -> None:
    """Beside another one, and without a server: there the default would be an empty database."""
    found = refused({**environ, "UNIQUEID_DATABASE_PASSWORD": "sw0rdfish2"})
    assert found.startswith("[database] password (UNIQUEID_DATABASE_PASSWORD): ")
    assert message in found


def test_the_password_of_the_configuration_file(tmp_path: Path) -> None:
    """Beside its URL; a variable goes before it."""
    file = tmp_path / "config.cfg"
    file.write_bytes(b"\xef\xbb\xbf[database]\r\nurl = mysql://u@h/db\r\npassword = a%62\r\n\r\n")
    assert load(str(file), {}).database.password == "a%62"
    environ = {"UNIQUEID_DATABASE_PASSWORD": "c"}
    assert load(str(file), environ).database.password == "c"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_an_empty_variable_counts_as_not_set(row: Row) -> None:
    """Of every setting, also where only the end of a line is in it."""
    for text in ("", "\n", "\r\n", "\ufeff"):
        for variable in (row.variable, *row.legacy_variables):
            assert load(environ={variable: text}).sources[row.name] == "default"


def test_a_variable_may_end_in_a_newline() -> None:
    """As a Secret made from a file leaves it."""
    environ = {"UNIQUEID_DATABASE_URL": f"\ufeff{URL}\r\n", "UNIQUEID_MAX_RANGE": "5\n"}
    loaded = load(environ=environ)
    assert (loaded.database.database, loaded.settings.max_range) == ("db", 5)


def test_a_file_of_tokens_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """And have any line ends."""
    file = tmp_path / "tokens"
    file.write_bytes(b"\xef\xbb\xbfingest " + b"a" * 64 + b"\r\n")
    assert Tokens(str(file), "option").text.startswith("ingest")


def test_a_reload_sees_a_changed_file(tmp_path: Path) -> None:
    """The database is asked again where its password is another one."""
    file = tmp_path / "secret"
    environ = {**PARTS, "UNIQUEID_DATABASE_PASSWORD_FILE": str(file)}
    file.write_text("a")
    before = load(environ=environ)
    file.write_text("b")
    assert before.database != load(environ=environ).database


def test_other_settings_have_no_file() -> None:
    """A mistyped variable is named."""
    (warning,) = load(environ={"UNIQUEID_MAX_RANGE_FILE": "x"}).warnings
    assert "UNIQUEID_MAX_RANGE_FILE is no setting" in warning
