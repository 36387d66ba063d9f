"""Database URLs, as the legacy service's ``peewee_url`` spelled them.

The grammar is that of peewee's ``playhouse.db_url``:
``SCHEME://[USER[:PASSWORD]@][HOST[:PORT]]/DATABASE[?OPTION=VALUE&...]``, with SQLite's path
behind three slashes (relative to the working directory) or four (absolute).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from uniqueid.errors import ConfigError

Kind = Literal["sqlite", "mysql", "postgresql"]

SCHEMES: dict[str, Kind] = {
    "sqlite": "sqlite",
    "sqliteext": "sqlite",
    "mysql": "mysql",
    "mariadb": "mysql",
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "postgresext": "postgresql",
    "postgresqlext": "postgresql",
}
"""URL schemes and what they mean; each may end in ``+pool``, which changes nothing here."""

# What each driver is told. peewee's pool options mean nothing to a single connection and are
# accepted, so that an old URL goes on working.
_POOL_OPTIONS = frozenset({"max_connections", "stale_timeout", "timeout", "register_hstore"})
_OPTIONS: dict[Kind, frozenset[str]] = {
    "sqlite": frozenset(),
    "mysql": frozenset({"ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_cert", "unix_socket"}),
    "postgresql": frozenset(
        {
            "sslmode",
            "sslrootcert",
            "sslcert",
            "sslkey",
            "options",
            "target_session_attrs",
        }
    ),
}
_IGNORED_OPTIONS = _POOL_OPTIONS | {"charset"}
_PARTS = ("PROTO", "USER", "PASS", "ADDR", "PORT", "DATABASE")


@dataclass(frozen=True)
class DatabaseURL:
    """Where the counters are."""

    kind: Kind
    database: str
    """The name of the database; for SQLite the absolute path of its file."""
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = None
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """The URL without its password."""
        return self.render("***")

    __repr__ = __str__

    def render(self, password: str) -> str:
        """The URL with `password` written where there is one."""
        if self.kind == "sqlite":
            return f"sqlite:///{self.database}"
        host = f"[{self.host}]" if self.host and ":" in self.host else (self.host or "")
        user = quote(self.user or "", safe="")
        if self.password is not None:
            user += f":{password}"
        place = (f"{user}@" if user else "") + host + (f":{self.port}" if self.port else "")
        return f"{self.kind}://{place}/{quote(self.database)}"

    def with_password(self, password: str) -> DatabaseURL:
        """The URL with a password that was read apart from it.

        :raises ValueError: when it can have none, or has one.
        """
        if self.kind == "sqlite":
            raise ValueError(
                "SQLite has no password: set [database] url to the database's server, or remove"
                " the password"
            )
        if self.password is not None:
            raise ValueError("[database] url has a password as well; set one of them")
        return replace(self, password=password)


def hide_password(url: str) -> str:
    """A URL, even a broken one, fit for a log: what could be a password is ``***``."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    place, at, path = rest.rpartition("@")
    if not at:
        return url
    return f"{scheme}://{place.partition(':')[0]}:***@{path}"


def parse(url: str, option: str, source: str) -> DatabaseURL:
    """Read a database URL.

    :param url: the URL; a percent sign starts an escape, as in every URL.
    :param option: the setting's name, for the error.
    :param source: the file or variable the setting came from, for the error.
    :raises ConfigError: when it is not one of the schemes, or lacks a part.
    """

    def refuse(reason: str) -> ConfigError:
        return ConfigError(option, hide_password(url), source, reason)

    parts = urlsplit(url)
    kind = SCHEMES.get(parts.scheme.removesuffix("+pool"))
    if kind is None or not url[len(parts.scheme) :].startswith("://"):
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise refuse(f"must start with one of {schemes}")
    options = tuple(
        (name, value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
        if name not in _IGNORED_OPTIONS
    )
    for name, _value in options:
        if name not in _OPTIONS[kind]:
            allowed = ", ".join(sorted(_OPTIONS[kind])) or "none"
            raise refuse(f"has the option {name!r}; allowed are {allowed}")
    if kind == "sqlite":
        return DatabaseURL(kind, _sqlite_path(parts.path, parts.netloc, refuse))
    try:
        port = parts.port
    except ValueError:
        raise refuse("the port must be a number from 0 to 65535") from None
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise refuse("must name a database, as in mysql://user:password@host/uniqueid")
    return DatabaseURL(
        kind,
        database,
        host=parts.hostname,
        port=port,
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
        options=options,
    )


def _sqlite_path(path: str, netloc: str, refuse: Callable[[str], ConfigError]) -> str:
    name = unquote(path.removeprefix("/"))
    if netloc:
        raise refuse("SQLite's path stands behind three slashes, or four when it is absolute")
    if name in ("", ":memory:"):
        # peewee would open a database in memory, which starts at 1 again with each process.
        raise refuse("must name a file: counters in memory would hand out IDs twice")
    return os.path.abspath(name)


__all__ = ["SCHEMES", "DatabaseURL", "Kind", "hide_password", "parse"]


def from_parts(environ: Mapping[str, str]) -> str | None:
    """The URL that the legacy image's ``PEEWEE_PROTO``, ``_USER``, ``_PASS``, ``_ADDR``, ``_PORT``
    and ``_DATABASE`` describe, percent-encoded.

    :returns: None when there is none of them.
    :raises ConfigError: when parts are missing or cannot be used.
    """
    given = {part: environ.get(f"PEEWEE_{part}", "") for part in _PARTS}
    if not any(given.values()):
        return None

    def refuse(part: str, reason: str) -> ConfigError:
        shown = None if part == "PASS" else given[part]
        return ConfigError("[database] url", shown, f"PEEWEE_{part}", reason)

    protocol = given["PROTO"]
    if protocol.removesuffix("+pool") not in SCHEMES:
        raise refuse("PROTO", f"must be one of {', '.join(SCHEMES)}")
    if not given["DATABASE"]:
        raise refuse("DATABASE", "must name the database")
    if SCHEMES[protocol.removesuffix("+pool")] == "sqlite":
        return f"{protocol}:///{quote(given['DATABASE'])}"
    if not given["ADDR"]:
        raise refuse("ADDR", "must name the database's host")
    if given["PORT"] and not (given["PORT"].isdecimal() and int(given["PORT"]) < 65536):
        raise refuse("PORT", "must be a number from 0 to 65535")
    if given["PASS"] and not given["USER"]:
        raise refuse("USER", "must be given with a password")
    place = f"[{given['ADDR']}]" if ":" in given["ADDR"] else quote(given["ADDR"], safe="")
    if given["PORT"]:
        place += f":{given['PORT']}"
    if given["USER"]:
        user = quote(given["USER"], safe="")
        if given["PASS"]:
            user += ":" + quote(given["PASS"], safe="")
        place = f"{user}@{place}"
    return f"{protocol}://{place}/{quote(given['DATABASE'], safe='')}"
