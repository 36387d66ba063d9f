"""Settings and where they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import CHECKOUT

from uniqueid.config import load, rows
from uniqueid.errors import ConfigError


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_each_source_goes_before_the_one_below(tmp_path: Path) -> None:
    """Defaults, old variables, file, new variables, command line."""
    file = write(tmp_path / "f.cfg", "[database]\nconnect_attempts = 3\n")
    environ: dict[str, str] = {}
    flags: dict[str, str] = {}

    def attempts(file: str | None) -> tuple[int, str]:
        found = load(file, environ, flags)
        return found.settings.connect_attempts, found.sources["connect_attempts"]

    assert attempts(None) == (10, "default")
    environ["DATABASE_CONNECT_ATTEMPTS"] = "2"
    assert attempts(None) == (2, "DATABASE_CONNECT_ATTEMPTS")
    assert attempts(file) == (3, file)
    environ["UNIQUEID_CONNECT_ATTEMPTS"] = "4"
    assert attempts(file) == (4, "UNIQUEID_CONNECT_ATTEMPTS")
    flags["connect_attempts"] = "5"
    assert attempts(file) == (5, "command line")


def test_the_file_is_found_where_it_always_was(tmp_path: Path) -> None:
    """Named, by variable, config.cfg here, then the old place in the home directory."""
    (tmp_path / ".pacifica-uniqueid").mkdir()
    home = write(tmp_path / ".pacifica-uniqueid/config.ini", "[uniqueid]\nmax_range = 1\n")
    assert load(environ={}).settings.max_range == 1
    assert load(environ={}).file == home
    write(tmp_path / "config.cfg", "[uniqueid]\nmax_range = 2\n")
    assert load(environ={}).settings.max_range == 2
    variable = {"UNIQUEID_CONFIG": write(tmp_path / "v.ini", "[uniqueid]\nmax_range = 3\n")}
    assert load(environ=variable).settings.max_range == 3
    named = write(tmp_path / "n.ini", "[uniqueid]\nmax_range = 4\n")
    assert load(named, environ=variable).settings.max_range == 4


def test_the_old_names_of_the_database_work(tmp_path: Path) -> None:
    """peewee_url in the file, PEEWEE_URL in the environment, percent signs and all."""
    file = write(tmp_path / "f.ini", "[database]\npeewee_url = mysql://u:p%40%25s@h/db\n")
    assert load(file, {}).database.password == "p@%s"
    assert load(environ={"PEEWEE_URL": "postgres://h/db"}).database.kind == "postgresql"
    found = load(environ={"PEEWEE_URL": "sqlite:///a", "PEEWEE_DATABASE_URL": "mysql://h/db"})
    assert found.database.kind == "mysql"
    assert load(file, {"PEEWEE_URL": "postgres://h/db"}).database.kind == "mysql"
    both = write(tmp_path / "g.ini", "[database]\npeewee_url = sqlite:///a\nurl = sqlite:///b\n")
    with pytest.raises(ConfigError, match="url and peewee_url mean the same; give one"):
        load(both, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[uniqueid]\nmax_rang = 1\n", "did you mean max_range?"),
        ("[uniqueid]\nzzz = 1\n", "is no setting; [uniqueid] has max_range"),
        (
            "[unique]\nmax_range = 1\n",
            "there are [database], [fence], [uniqueid]",
        ),
        ("[uniqueid]\nmax_range = -1\n", "must be a whole number from 1 to"),
        ("[uniqueid]\nmax_range = 1e3\n", "must be a whole number from 1 to"),
        ("[uniqueid]\nmax_range =\n", "must be a whole number from 1 to"),
        ("[uniqueid]\nmax_range = 99999999999999999999\n", "must be a whole number from 1 to"),
        ("[uniqueid]\nrequest_timeout = soon\n", "must be a number of seconds from 0.1 to 50"),
        ("[uniqueid]\nrequest_timeout = 51\n", "must be a number of seconds from 0.1 to 50"),
        ("[uniqueid]\nrequest_timeout = nan\n", "must be a number of seconds from 0.1 to 50"),
        ("[uniqueid]\non_regression = maybe\n", "must be one of advance, stop"),
        ("[database]\nurl = nonsense\n", "must start with one of sqlite://"),
        ("max_range = 1\n", "belongs to the section [uniqueid]"),
        ("url = sqlite:///a\n[database]\nurl = sqlite:///b\n", "mean the same; give one"),
        ("[uniqueid]\nmax_range = 1\nmax_range = 2\n", "already exists"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    """Option, value, source and what is allowed."""
    file = write(tmp_path / "f.cfg", text)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert message in str(caught.value)
    assert file in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_before_the_first_section_are_the_database_s(tmp_path: Path) -> None:
    """As the legacy documentation prints them, with or without other sections behind."""
    for more in ("", "[uniqueid]\nmax_range = 7\n[database]\nconnect_wait = 3\n"):
        text = f"\ufeff; a comment\n\npeewee_url = sqliteext:///a%20b\nconnect_attempts = 4\n{more}"
        settings = load(write(tmp_path / "f.cfg", text), {}).settings
        assert (settings.url, settings.connect_attempts) == ("sqliteext:///a%20b", 4)
        assert (settings.max_range == 7) is bool(more)
        assert (settings.connect_wait == 3) is bool(more)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """Without it the default would be an empty database that starts at 1."""
    for arguments in ((str(tmp_path / "no.cfg"), {}), (None, {"UNIQUEID_CONFIG": "no.cfg"})):
        with pytest.raises(ConfigError, match=r"no\.cfg.*No such file"):
            load(*arguments)
    with pytest.raises(ConfigError, match="directory"):
        load(str(tmp_path), {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="decode"):
        load(str(tmp_path / "binary"), {})


def test_a_bad_variable_is_named() -> None:
    """The source of the error is the variable."""
    with pytest.raises(ConfigError, match=r"max_range = 'x' \(UNIQUEID_MAX_RANGE\): must be"):
        load(environ={"UNIQUEID_MAX_RANGE": "x"})


def test_variables_of_others_with_our_prefix_are_left_alone() -> None:
    """Consumers' UNIQUEID_URL, and what Kubernetes sets for a Service called uniqueid."""
    environ = {
        "UNIQUEID_URL": "http://uniqueid:8051",
        "UNIQUEID_PORT": "tcp://10.0.0.1:8051",
        "UNIQUEID_PORT_8051_TCP_ADDR": "10.0.0.1",
        "UNIQUEID_SERVICE_HOST": "10.0.0.1",
        "UNIQUEID_SERVICE_PORT_HTTP": "8051",
        "UNIQUEID_DB_SERVICE_HOST": "10.0.0.2",
    }
    found = load(environ=environ)
    assert found.warnings == ()
    assert found.database.kind == "sqlite"
    (warning,) = load(environ={"UNIQUEID_MAX_RANEG": "5"}).warnings
    assert "UNIQUEID_MAX_RANEG is no setting" in warning
    assert "did you mean UNIQUEID_MAX_RANGE?" in warning


def test_modes_are_listed_with_commas_or_lines(tmp_path: Path) -> None:
    """An empty list allows every mode."""
    file = write(tmp_path / "f.cfg", "[uniqueid]\nallowed_modes = file, upload_job\n  a b\n")
    assert load(file, {}).settings.allowed_modes == ("file", "upload_job", "a b")
    assert load(environ={"UNIQUEID_ALLOWED_MODES": ""}).settings.allowed_modes == ()


@pytest.mark.parametrize("mode", ["a" * 256, "a\x00b", "a\x7fb", "a\x9fb", "\ud800"])
def test_a_mode_that_no_request_can_name_is_no_allowed_mode(mode: str) -> None:
    """The list would allow no request."""
    with pytest.raises(ConfigError, match=r"allowed_modes.*without control characters"):
        load(environ={"UNIQUEID_ALLOWED_MODES": f"file,{mode}"})


def test_the_description_hides_the_password_and_tells_the_sources() -> None:
    """What the config command prints."""
    environ = {"UNIQUEID_DATABASE_URL": "mysql://u:secret@h/db"}
    described = load(environ=environ).describe()
    assert ("[database] url", "mysql://u:***@h/db", "UNIQUEID_DATABASE_URL") in described
    assert len(described) == len(rows())


def test_the_shipped_file_is_valid_and_says_nothing_but_the_default(tmp_path: Path) -> None:
    """config.cfg is what a newcomer starts from."""
    shipped = load(str(CHECKOUT / "config.cfg"), {}).settings
    assert shipped == load(environ={}).settings
    text = (CHECKOUT / "config.cfg").read_text()
    for row in rows():
        assert row.keys[0] in text


def test_a_setting_that_was_removed_has_a_hint(tmp_path: Path) -> None:
    """`reserve` is unknown: the client's prefetch serves single IDs from memory."""
    file = write(tmp_path / "f.cfg", "[uniqueid]\nreserve = 100\n")
    with pytest.raises(ConfigError, match=r"\[uniqueid\] reserve .*no setting.*Client\.ids\(\)"):
        load(file, {})
    (warning,) = load(None, {"UNIQUEID_RESERVE": "100"}).warnings
    assert "UNIQUEID_RESERVE is no setting and is ignored" in warning
    assert "Client.ids()" in warning
