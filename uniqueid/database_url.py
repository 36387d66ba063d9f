"""Database URLs, as the legacy service's ``peewee_url`` spelled them, and as providers do.

The grammar is that of peewee's ``playhouse.db_url``:
``SCHEME://[USER[:PASSWORD]@][HOST[:PORT]]/DATABASE[?OPTION=VALUE&...]``, with SQLite's path
behind three slashes (relative to the working directory) or four (absolute). PostgreSQL takes
several hosts between commas, as libpq's URIs do.

No message has a part of a URL that cannot be used: any part of it may be a piece of a password.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote

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
"""URL schemes and what they mean; each may end in ``+pool`` or ``+DRIVER``, which changes nothing
here."""

_DRIVERS: dict[Kind, frozenset[str]] = {
    "sqlite": frozenset({"", "pool"}),
    "mysql": frozenset({"", "pool", "pymysql", "mysqldb"}),
    "postgresql": frozenset({"", "pool", "psycopg2", "psycopg"}),
}

# What each driver is told. peewee's pool options mean nothing to a single connection and are
# accepted, so that an old URL goes on working.
_IGNORED_OPTIONS = frozenset(
    {"max_connections", "stale_timeout", "timeout", "register_hstore", "charset"}
)
_OPTIONS: dict[Kind, frozenset[str]] = {
    "sqlite": frozenset(),
    "mysql": frozenset(
        {
            "connect_timeout",
            "ssl_ca",
            "ssl_cert",
            "ssl_disabled",
            "ssl_key",
            "ssl_mode",
            "ssl_verify_cert",
            "ssl_verify_identity",
            "unix_socket",
        }
    ),
    "postgresql": frozenset(
        {
            "channel_binding",
            "connect_timeout",
            "host",
            "options",
            "port",
            "sslcert",
            "sslkey",
            "sslmode",
            "sslrootcert",
            "target_session_attrs",
        }
    ),
}
# The same options as MySQL's tools and libpq call them.
_SPELLINGS = (
    ("ssl_mode", "sslmode"),
    ("ssl_ca", "sslrootcert"),
    ("ssl_cert", "sslcert"),
    ("ssl_key", "sslkey"),
)
_TLS_MODES = (
    ("DISABLED", "disable"),
    ("PREFERRED", "prefer"),
    ("REQUIRED", "require"),
    ("VERIFY_CA", "verify-ca"),
    ("VERIFY_IDENTITY", "verify-full"),
)
_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), "true"),
    **dict.fromkeys(("0", "false", "no", "off"), "false"),
}
_MAX_CONNECT_TIMEOUT = 60
"""Seconds."""
_ESCAPE = (
    "characters of a user, password or name that mean something in a URL have to be escaped:"
    " @ is %40, : is %3A, / is %2F, ? is %3F, # is %23, [ is %5B, ] is %5D, % is %25"
)
_PARTS = ("PROTO", "USER", "PASS", "ADDR", "PORT", "DATABASE")

Address = tuple[str | None, int | None]
"""Host, or directory of a socket, and port; each the driver's own default when None."""


class _Wrong(Exception):
    """What is wrong with a URL, without any part of it."""


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
    """Checked, and each as the database's own client calls it."""
    more_addresses: tuple[Address, ...] = ()
    """Where the database may be as well, in the order in which they are tried."""

    def __str__(self) -> str:
        """The URL without its password."""
        return self.render("***")

    __repr__ = __str__

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All places where the database may be, in the order in which they are tried."""
        return ((self.host, self.port), *self.more_addresses)

    def render(self, password: str) -> str:
        """The URL with `password` written where there is one."""
        if self.kind == "sqlite":
            return f"sqlite:///{self.database}"
        user = quote(self.user or "", safe="")
        if self.password is not None:
            user += f":{password}"
        place = (f"{user}@" if user else "") + ",".join(map(_render_address, self.addresses))
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
        try:
            return replace(self, password=_plain(password))
        except _Wrong as wrong:
            raise ValueError(str(wrong)) from None


def hide_password(url: str) -> str:
    """What an error shows of a URL, which may be broken: the scheme, if it is one."""
    scheme, separator, _rest = url.partition("://")
    return f"{scheme}://***" if separator and _kind(scheme) else "***"


def parse(url: str, option: str, source: str) -> DatabaseURL:
    """Read a database URL.

    :param url: the URL; a percent sign starts an escape, as in every URL.
    :param option: the setting's name, for the error.
    :param source: the file or variable the setting came from, for the error.
    :raises ConfigError: when it is not one of the schemes, or lacks a part.
    """
    text = url.removeprefix("\ufeff").strip()
    try:
        return _parse(text)
    except UnicodeError:
        reason = "its text and its escapes must be UTF-8"
    except _Wrong as wrong:
        reason = str(wrong)
    raise ConfigError(option, hide_password(text), source, reason)


def _kind(scheme: str) -> Kind | None:
    name, _plus, driver = scheme.lower().partition("+")
    kind = SCHEMES.get(name)
    return kind if kind is not None and driver in _DRIVERS[kind] else None


def _parse(url: str) -> DatabaseURL:
    scheme, separator, rest = url.partition("://")
    kind = _kind(scheme)
    if kind is None or not separator:
        schemes = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise _Wrong(f"must start with one of {schemes}")
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        raise _Wrong("must have no control characters, not even the end of a line")
    if "#" in rest:
        raise _Wrong(_ESCAPE)
    before, _mark, query = rest.partition("?")
    place, _slash, path = before.partition("/")
    options = _options(kind, query)
    if kind == "sqlite":
        return DatabaseURL(kind, _sqlite_path(path, place))
    userinfo, at, hosts = place.rpartition("@")
    database = _text(path)
    if set("[]") & set(userinfo) or ("@" in path and (not at or "/" in database)):
        raise _Wrong(_ESCAPE)
    addresses: list[Address] = _addresses(hosts) if hosts else [(None, None)]
    if not database or "/" in database:
        raise _Wrong("must name a database, as in mysql://user:password@host/uniqueid")
    if kind == "postgresql":
        addresses = _query_addresses(addresses, options)
    elif len(addresses) > 1:
        raise _Wrong(
            "names several hosts, which only PostgreSQL's driver can try one after the other:"
            " name the address of a proxy in front of them (MySQL Router, ProxySQL, HAProxy) or"
            " one that moves with the primary"
        )
    elif (addresses[0][0] or "").startswith("/"):
        options.setdefault("unix_socket", str(addresses[0][0]))
        addresses = [(None, None)]
    user, colon, password = userinfo.partition(":")
    (host, port), *more = addresses
    return DatabaseURL(
        kind,
        database,
        host=host,
        port=port,
        user=_text(user) if at else None,
        password=_text(password) if colon else None,
        options=tuple(options.items()),
        more_addresses=tuple(more),
    )


def _text(escaped: str) -> str:
    """A part of a URL without its escapes."""
    return _plain(unquote(escaped, errors="strict"))


def _plain(text: str) -> str:
    try:
        text.encode()
    except UnicodeError:
        raise _Wrong("its text and its escapes must be UTF-8") from None
    if "\0" in text:
        raise _Wrong("must have no NUL character")
    return text


def _sqlite_path(path: str, place: str) -> str:
    name = unquote(path)
    if place:
        raise _Wrong("SQLite's path stands behind three slashes, or four when it is absolute")
    if name in ("", ":memory:"):
        # peewee would open a database in memory, which starts at 1 again with each process.
        raise _Wrong("must name a file: counters in memory would hand out IDs twice")
    return os.path.abspath(_plain(name))


def _addresses(text: str) -> list[Address]:
    return [_address(one) for one in text.split(",")]


def _address(text: str) -> Address:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, behind = text[1:].partition("]")
        port = behind.removeprefix(":")
        if not bracket or behind[:1] not in ("", ":") or not _is_ipv6(host):
            raise _Wrong("an IPv6 address stands in brackets, as in [2001:db8::1]:5432")
    elif not text.startswith("/"):
        host, _colon, port = text.partition(":")
    if port and not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65536):
        raise _Wrong("the port must be a number from 0 to 65535")
    name = _text(host)
    if not name.startswith(("/", "@")):
        if re.search(r"[\s\[\]/?@]", name):
            raise _Wrong(f"the host must be a name, an address or the path of a socket; {_ESCAPE}")
        # An empty one is the driver's default.
        name = name.lower()
    return name or None, int(port) if port else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _render_address(address: Address) -> str:
    host, port = address
    shown = host or ""
    if ":" in shown:
        shown = f"[{shown}]"
    elif shown.startswith(("/", "@")):
        shown = quote(shown, safe="")
    return shown + (f":{port}" if port else "")


def _options(kind: Kind, query: str) -> dict[str, str]:
    """The options, under the names that the database's own client has for them."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeError:
        raise
    except ValueError:
        raise _Wrong("has too many options") from None
    places = {"mysql": 0, "postgresql": 1}
    names = {}
    if kind in places:
        names = {pair[1 - places[kind]]: pair[places[kind]] for pair in _SPELLINGS}
    options: dict[str, str] = {}
    for spelled, value in pairs:
        name = spelled.lower().replace("-", "_")
        name = names.get(name, name)
        if name in _IGNORED_OPTIONS:
            continue
        if name not in _OPTIONS[kind]:
            # What could be the rest of a password is not shown.
            plain = "@" not in query and re.fullmatch(r"[a-z_-]{1,30}", spelled)
            shown = f"the option {spelled!r}" if plain else "an option that is unknown"
            allowed = ", ".join(sorted(_OPTIONS[kind])) or "none"
            raise _Wrong(f"has {shown}; allowed are {allowed}")
        text = _option(kind, name, _plain(value))
        if options.setdefault(name, text) != text:
            raise _Wrong(f"has the option {name!r} twice, with two values")
    verifies = options.get("ssl_mode", "").startswith("VERIFY")
    verifies |= options.get("ssl_verify_identity") == "true"
    if verifies and "ssl_ca" not in options:
        raise _Wrong(
            "ssl_mode=VERIFY_CA, VERIFY_IDENTITY and ssl_verify_identity need ssl_ca, a file with"
            " the authority that has signed the server's certificate (the system's on Debian:"
            " /etc/ssl/certs/ca-certificates.crt)"
        )
    return options


def _option(kind: Kind, name: str, value: str) -> str:
    """The value of an option, checked, as its driver takes it."""
    if name in ("ssl_mode", "sslmode"):
        own = 0 if kind == "mysql" else 1
        word = value.replace("_", "-").lower()
        for mode in _TLS_MODES:
            if word in (mode[0].replace("_", "-").lower(), mode[1]):
                return mode[own]
        raise _Wrong(f"{name} must be one of {', '.join(mode[own] for mode in _TLS_MODES)}")
    if name in ("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity"):
        if value.lower() not in _SWITCHES:
            raise _Wrong(f"{name} must be true or false")
        return _SWITCHES[value.lower()]
    seconds = int(value) if re.fullmatch("[0-9]{1,3}", value, re.ASCII) else 0
    if name == "connect_timeout" and not 1 <= seconds <= _MAX_CONNECT_TIMEOUT:
        raise _Wrong(f"{name} must be a whole number of seconds from 1 to {_MAX_CONNECT_TIMEOUT}")
    allowed = {
        "channel_binding": ("disable", "prefer", "require"),
        # The service writes: another session is of no use to it.
        "target_session_attrs": ("any", "primary", "read-write"),
    }.get(name)
    if allowed is not None and value not in allowed:
        raise _Wrong(f"{name} must be one of {', '.join(allowed)}")
    return value


def _query_addresses(addresses: list[Address], options: dict[str, str]) -> list[Address]:
    """The addresses where the options ``host`` and ``port`` may name others, as in libpq's URIs."""
    hosts, ports = options.pop("host", ""), options.pop("port", "")
    if hosts:
        port = addresses[0][1]
        addresses = [(host, own or port) for host, own in _addresses(hosts)]
    if ports:
        numbers = [_address(f":{number}")[1] for number in ports.split(",")]
        if len(numbers) == 1:
            numbers *= len(addresses)
        if len(numbers) != len(addresses):
            raise _Wrong("the option 'port' must have one number, or as many as there are hosts")
        addresses = [
            (host, number) for (host, _old), number in zip(addresses, numbers, strict=True)
        ]
    if len(addresses) > 1:
        # One of them may be a standby, which takes no writes.
        options.setdefault("target_session_attrs", "read-write")
    return addresses


__all__ = ["SCHEMES", "Address", "DatabaseURL", "Kind", "from_parts", "hide_password", "parse"]


def from_parts(environ: Mapping[str, str]) -> str | None:
    """The URL that the legacy image's ``PEEWEE_PROTO``, ``_USER``, ``_PASS``, ``_ADDR``, ``_PORT``
    and ``_DATABASE`` describe, percent-encoded.

    :returns: None when there is none of them.
    :raises ConfigError: when parts are missing or cannot be used.
    """
    given = {
        part: environ.get(f"PEEWEE_{part}", "").removeprefix("\ufeff").rstrip("\r\n")
        for part in _PARTS
    }
    if not any(given.values()):
        return None

    def refuse(part: str, reason: str) -> ConfigError:
        # A whole URL is a likely mistake for a part of it.
        is_plain = part != "PASS" and not set("@:/") & set(given[part])
        shown = given[part] if is_plain else None
        return ConfigError("[database] url", shown, f"PEEWEE_{part}", reason)

    protocol = given["PROTO"]
    if protocol.removesuffix("+pool") not in SCHEMES:
        raise refuse("PROTO", f"must be one of {', '.join(SCHEMES)}")
    if not given["DATABASE"]:
        raise refuse("DATABASE", "must name the database")
    try:
        for part in _PARTS:
            given[part].encode()
    except UnicodeError:
        raise ConfigError("[database] url", None, f"PEEWEE_{part}", "must be UTF-8") from None
    if SCHEMES[protocol.removesuffix("+pool")] == "sqlite":
        return f"{protocol}:///{quote(given['DATABASE'])}"
    if not given["ADDR"]:
        raise refuse("ADDR", "must name the database's host")
    if given["PORT"] and not (given["PORT"].isdecimal() and int(given["PORT"]) < 65536):
        raise refuse("PORT", "must be a number from 0 to 65535")
    if given["PASS"] and not given["USER"]:
        raise refuse("USER", "must be given with a password")
    hosts = [
        f"[{host}]" if ":" in host else quote(host, safe="") for host in given["ADDR"].split(",")
    ]
    port = f":{given['PORT']}" if given["PORT"] else ""
    place = ",".join(host + port for host in hosts)
    if given["USER"]:
        user = quote(given["USER"], safe="")
        if given["PASS"]:
            user += ":" + quote(given["PASS"], safe="")
        place = f"{user}@{place}"
    return f"{protocol}://{place}/{quote(given['DATABASE'], safe='')}"
