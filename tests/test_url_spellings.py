"""Spellings of a database URL that providers and other programs hand out."""

from __future__ import annotations

from typing import Any

import pytest

from uniqueid.database.dialects import DIALECTS
from uniqueid.database.dialects.base import ConnectOptions
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.database_url import DatabaseURL, from_parts, parse
from uniqueid.errors import ConfigError


def read(url: str) -> DatabaseURL:
    return parse(url, "[database] url", "here")


def options(url: str) -> dict[str, str]:
    return dict(read(url).options)


def arguments(url: str) -> dict[str, Any]:
    """What the driver is called with."""
    parsed = read(url)
    connect = ConnectOptions(False, 5, 10, DurabilityMonitor())
    return DIALECTS[parsed.kind].binding(parsed, connect)[1]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://h/d?ssl-mode=REQUIRED", {"ssl_mode": "REQUIRED"}),
        ("mysql://h/d?ssl_mode=verify_ca&ssl_ca=/c", {"ssl_mode": "VERIFY_CA", "ssl_ca": "/c"}),
        ("mysql://h/d?sslmode=require", {"ssl_mode": "REQUIRED"}),
        (
            "mysql://h/d?sslmode=verify-full&sslrootcert=/c",
            {"ssl_mode": "VERIFY_IDENTITY", "ssl_ca": "/c"},
        ),
        ("mysql+pymysql://h/d?charset=utf8mb4", {}),
        ("mysql+pymysql://h/d?ssl_verify_cert=on", {"ssl_verify_cert": "true"}),
        ("postgresql+psycopg2://h/d?sslmode=require", {"sslmode": "require"}),
        (
            "postgresql://h/d?sslmode=require&channel_binding=require",
            {"sslmode": "require", "channel_binding": "require"},
        ),
        ("postgres://h/d?ssl_mode=REQUIRED", {"sslmode": "require"}),
        (
            "postgres://h/d?ssl-mode=VERIFY_IDENTITY&ssl-ca=/c&ssl-cert=/d&ssl-key=/e",
            {"sslmode": "verify-full", "sslrootcert": "/c", "sslcert": "/d", "sslkey": "/e"},
        ),
        ("postgres://h/d?connect_timeout=3", {"connect_timeout": "3"}),
        ("mysql://h/d?connect_timeout=3", {"connect_timeout": "3"}),
    ],
)
def test_options_mean_the_same_in_both_spellings(url: str, expected: dict[str, str]) -> None:
    """MySQL's and libpq's, with hyphens or underscores, in capitals or not."""
    assert options(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://h/d?ssl_mode=ON", "must be one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA"),
        ("postgresql://h/d?sslmode=on", "must be one of disable, prefer, require, verify-ca"),
        ("mysql://h/d?ssl_mode=VERIFY_CA", "need ssl_ca"),
        ("mysql://h/d?ssl_verify_identity=true", "need ssl_ca"),
        ("mysql://h/d?ssl_verify_cert=maybe", "must be true or false"),
        ("mysql://h/d?ssl_ca=/a&sslrootcert=/b", "has the option 'ssl_ca' twice"),
        ("mysql://h/d?channel_binding=require", "has the option 'channel_binding'; allowed are"),
        ("postgresql://h/d?channel_binding=yes", "must be one of disable, prefer, require"),
        ("postgresql://h/d?connect_timeout=0", "whole number of seconds from 1 to 60"),
        ("postgresql://h/d?target_session_attrs=standby", "must be one of any, primary"),
        ("mysql+psycopg2://h/d", "must start with one of"),
        ("mysql://a,b/d", "a proxy in front of them"),
        ("postgresql://a,b/d?port=1,2,3", "as many as there are hosts"),
    ],
)
def test_a_value_that_means_nothing_is_refused(url: str, reason: str) -> None:
    """Rather than left to a driver, which may take it for another."""
    with pytest.raises(ConfigError, match=reason):
        read(url)


def test_pymysql_is_told_what_the_mode_means() -> None:
    """DISABLED is plain text only; REQUIRED never is; VERIFY_CA verifies without the name."""
    assert arguments("mysql://h/d?ssl_mode=DISABLED")["ssl_disabled"]
    assert "ssl" in arguments("mysql://h/d?ssl_mode=REQUIRED")
    assert "ssl" not in arguments("mysql://h/d?ssl_mode=PREFERRED")
    required = arguments("mysql://h/d?ssl_mode=REQUIRED&ssl_ca=/c")
    assert required["ssl_ca"] == "/c"
    assert not required.get("ssl_verify_cert")
    authority = arguments("mysql://h/d?ssl_mode=VERIFY_CA&ssl_ca=/c")
    assert (authority["ssl_verify_cert"], authority.get("ssl_verify_identity")) == (True, None)
    assert arguments("mysql://h/d?ssl_mode=VERIFY_IDENTITY&ssl_ca=/c")["ssl_verify_identity"]
    assert arguments("mysql://h/d?connect_timeout=3")["connect_timeout"] == 3


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("postgresql://a:1,b:2/d", [("a", 1), ("b", 2)]),
        ("postgresql://u:p@a,b:2/d", [("a", None), ("b", 2)]),
        ("postgresql://[::1]:1,[::2]/d", [("::1", 1), ("::2", None)]),
        ("postgresql://%2Frun%2Fpostgresql/d", [("/run/postgresql", None)]),
        ("postgresql://u@%2Frun%2Fpostgresql:5433/d", [("/run/postgresql", 5433)]),
        ("postgresql:///d?host=/run/postgresql&port=5433", [("/run/postgresql", 5433)]),
        ("postgresql://localhost:1/d?host=a,b", [("a", 1), ("b", 1)]),
        ("postgresql:///d?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///d?host=a:1,b:2", [("a", 1), ("b", 2)]),
        ("postgresql:///d", [(None, None)]),
        ("postgresql://:5433/d", [(None, 5433)]),
    ],
)
def test_addresses_are_those_of_libpq(url: str, addresses: list[object]) -> None:
    """Several hosts, and directories of sockets."""
    found = read(url)
    assert list(found.addresses) == addresses
    assert read(str(found).replace("***", "p")).addresses == found.addresses
    attributes = dict(found.options).get("target_session_attrs")
    assert attributes == ("read-write" if len(addresses) > 1 else None)


def test_a_socket_of_mysql() -> None:
    """In the host's place, as PostgreSQL has it, or as an option."""
    for url in ("mysql://u@%2Frun%2Fm.sock/d", "mysql://u@/d?unix_socket=/run/m.sock"):
        assert options(url) == {"unix_socket": "/run/m.sock"}


def test_several_addresses_of_the_parts() -> None:
    """In the legacy image's variable as well, with one port."""
    environ = {
        "PEEWEE_PROTO": "postgresql",
        "PEEWEE_ADDR": "a,b,::1",
        "PEEWEE_PORT": "5433",
        "PEEWEE_DATABASE": "d",
    }
    url = from_parts(environ)
    assert url is not None
    assert read(url).addresses == (("a", 5433), ("b", 5433), ("::1", 5433))


def test_the_status_page_names_every_address() -> None:
    """Without any other part of the URL."""
    url = read("postgresql://u:p@a:1,b/d")
    assert DIALECTS[url.kind].host(url) == "a:1,b"
