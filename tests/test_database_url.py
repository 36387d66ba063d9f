"""Database URLs, new and old."""

from __future__ import annotations

from pathlib import Path

import pytest

from uniqueid.database_url import SCHEMES, DatabaseURL, hide_password, parse
from uniqueid.errors import ConfigError


def read(url: str) -> DatabaseURL:
    return parse(url, "[database] url", "here")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_of_the_old_service_is_read(scheme: str) -> None:
    """Also with +pool, which the old ORM had."""
    place = "/db" if SCHEMES[scheme] == "sqlite" else "u:p@h:1/db"
    for suffix in ("", "+pool"):
        assert read(f"{scheme}{suffix}://{place}").kind == SCHEMES[scheme]


def test_the_parts_of_a_server_url_are_unescaped() -> None:
    """Any character can be part of a password."""
    url = read("mysql://us%40er:p%25%2F%40:ss@db.example:3307/unique%20id")
    assert (url.user, url.password) == ("us@er", "p%/@:ss")
    assert (url.host, url.port, url.database) == ("db.example", 3307, "unique id")
    assert read("postgresql://[::1]/db").host == "::1"
    assert read("postgresql:///db") == DatabaseURL("postgresql", "db")


def test_options_of_the_driver_are_kept_and_those_of_the_old_pool_ignored() -> None:
    """An old URL goes on working."""
    url = read("mysql+pool://h/db?max_connections=20&stale_timeout=300&ssl_ca=/ca.pem")
    assert url.options == (("ssl_ca", "/ca.pem"),)


def test_sqlite_paths_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    """Three slashes for a relative path, four for an absolute one."""
    assert read("sqliteext:///db.sqlite3").database == str(tmp_path / "db.sqlite3")
    assert read("sqlite:////var/lib/x.db").database == "/var/lib/x.db"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("oracle://u:secret@h/db", "must start with one of sqlite://"),
        ("db.sqlite3", "must start with one of"),
        ("mysql:u:secret@h/db", "must start with one of"),
        ("", "must start with one of"),
        ("mysql://u:secret@h", "must name a database"),
        ("mysql://u:secret@h/a/b", "must name a database"),
        ("mysql://u:secret@h:port/db", "the port must be a number"),
        ("mysql://u:secret@h/db?x=1", "has the option 'x'; allowed are connect_timeout, ssl_ca"),
        ("sqlite://db.sqlite3", "three slashes"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "hand out IDs twice"),
        ("sqlite:///db?x=1", "has the option 'x'"),
    ],
)
def test_a_bad_url_is_refused_with_its_reason_and_without_its_password(
    url: str, reason: str
) -> None:
    """The error names option, source and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        read(url)
    text = str(caught.value)
    assert reason in text
    assert text.startswith("[database] url = ")
    assert "(here)" in text
    assert "secret" not in text


def test_a_url_is_shown_without_its_password() -> None:
    """In logs, errors and the config command."""
    assert str(read("mysql://u:s%40cret@h:1/db")) == "mysql://u:***@h:1/db"
    assert repr(read("mysql://u@h/db")) == "mysql://u@h/db"
    assert hide_password("mysql://u:se@cret@h/db") == "mysql://***"
    assert hide_password("u:secret@h") == "***"
