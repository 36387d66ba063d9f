"""The settings: one row each, with its default, type, help and names.

Sources, each above the one before: the default, the legacy service's environment variables, the
file, the ``UNIQUEID_*`` variables, the command line. For ``NAME``, the variable of a secret,
``NAME_FILE`` names a file that holds it.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from uniqueid import database_url
from uniqueid.errors import ConfigError
from uniqueid.model import MAX_MODE_LENGTH, is_mode

FILE_VARIABLE: Final = "UNIQUEID_CONFIG"
LOCAL_FILE: Final = "config.cfg"
HOME_FILE: Final = "~/.pacifica-uniqueid/config.ini"

UNNAMED: Final = "before the first section"
UNNAMED_IS: Final = "database"
"""The section of keys before the first header."""
_MAX_SECRET: Final = 65_536
"""Bytes of a file with a secret."""
_CHERRYPY_KEYS = ("server.", "log.", "engine.", "tools.", "request.", "checker.")

# Variables with our prefix that are no settings: which files to read, the consumers' name for
# the service's own URL, and what Kubernetes adds for a Service that is called uniqueid.
_NOT_SETTINGS = re.compile(
    r"UNIQUEID_(CONFIG|CPCONFIG|LISTEN|URL|TOKEN_FILE|DBSYNC"
    r"|(.*_)?SERVICE_(HOST|PORT(_.*)?)"
    r"|(.*_)?PORT(_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)?)"
)

# What to use instead of a setting that does not exist.
_INSTEAD: Final = {
    "reserve": "to serve single IDs from memory, use Client.ids() of the Python client, which"
    " fetches ranges ahead",
}

Reader = Callable[[str], Any]


def _whole(low: int, high: int) -> Reader:
    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return read


def _seconds(low: float, high: float) -> Reader:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) or not (
            low <= float(text) <= high
        ):
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return float(text)

    return read


def _one_of(*words: str) -> Reader:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return read


def _switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError("must be one of on, off")
    return text.lower() == "on"


def _cpu(text: str) -> str:
    if text.lower() in ("auto", "off"):
        return text.lower()
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII):
        raise ValueError("must be auto, off or the number of a CPU")
    return str(int(text))


def _modes(text: str) -> tuple[str, ...]:
    """One mode a line or between commas; empty allows all."""
    modes = [mode.strip() for line in text.splitlines() for mode in line.split(",")]
    named = dict.fromkeys(mode for mode in modes if mode)
    if not all(map(is_mode, named)):
        # No request could name it.
        raise ValueError(
            f"must be modes of 1 to {MAX_MODE_LENGTH} characters without control characters,"
            " separated by commas or lines"
        )
    return tuple(named)


@dataclass(frozen=True)
class Row:
    """What the documentation, the file and the environment need to know of one setting."""

    name: str
    section: str
    keys: tuple[str, ...]
    """Names in the file; the first is the one in use, the others are the legacy service's."""
    variable: str
    legacy_variables: tuple[str, ...]
    default: str
    read: Reader
    help: str
    secret: bool = False
    """Whether each of its variables may also end in ``_FILE`` and name a file with the value."""

    @property
    def option(self) -> str:
        """The setting as an error names it."""
        return f"[{self.section}] {self.keys[0]}"


def _setting(
    default: str,
    read: Reader,
    help: str,
    *,
    section: str = "uniqueid",
    keys: tuple[str, ...] = (),
    variable: str = "",
    legacy: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    metadata = {
        "default": default,
        "read": read,
        "help": help,
        "section": section,
        "keys": keys,
        "variable": variable,
        "legacy": legacy,
        "secret": secret,
    }
    return field(metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting, checked. The rows below are the only list of them there is."""

    url: str = _setting(
        "sqlite:///db.sqlite3",
        str,
        "Where the counters are: sqlite:///FILE (relative to the working directory; four slashes"
        " for an absolute path), mysql://USER:PASSWORD@HOST:PORT/DATABASE (MySQL or MariaDB) or"
        " postgresql://USER:PASSWORD@HOST:PORT/DATABASE. The legacy service's schemes"
        " (sqliteext, mysql+pool, postgres, postgresqlext) mean the same. Escape characters as in"
        " every URL: @ in a password is %40.",
        section="database",
        keys=("url", "peewee_url"),
        variable="UNIQUEID_DATABASE_URL",
        legacy=("PEEWEE_DATABASE_URL", "PEEWEE_URL"),
        secret=True,
    )
    password: str = _setting(
        "",
        str,
        "The password of the database's user, for a URL that has none.",
        section="database",
        variable="UNIQUEID_DATABASE_PASSWORD",
        secret=True,
    )
    connect_attempts: int = _setting(
        "10",
        _whole(1, 1_000_000),
        "How often the start tries to reach the database before it gives up.",
        section="database",
        legacy=("DATABASE_CONNECT_ATTEMPTS",),
    )
    connect_wait: float = _setting(
        "20",
        _seconds(0, 86_400),
        "Seconds between two of these attempts.",
        section="database",
        legacy=("DATABASE_CONNECT_WAIT",),
    )
    durability: str = _setting(
        "warn",
        _one_of("warn", "require"),
        "What to do where the database server can lose a committed transaction, as MySQL and"
        " MariaDB with sync_binlog = 0 or PostgreSQL with fsync = off: warn serves, and says so in"
        " the log, a metric, the status page and dbchk; require refuses the server until the"
        " variable is corrected.",
        section="database",
    )
    max_range: int = _setting(
        "1000000000",
        _whole(1, 2**62),
        "The most IDs that one request may ask for, so that no client can burn the 63-bit space.",
    )
    allowed_modes: tuple[str, ...] = _setting(
        "",
        _modes,
        "The modes that are answered, separated by commas or lines; all others get a 400. Empty"
        " allows every mode, and then anyone who reaches the service can create counters, up to"
        " max_modes.",
    )
    max_modes: int = _setting(
        "10000",
        _whole(1, 10_000_000),
        "How many counters requests may create; counters that exist are always served.",
    )
    request_timeout: float = _setting(
        "10",
        _seconds(0.1, 50),
        "Seconds after which a request that the database has not answered gets a 503. uWSGI's"
        " harakiri must be longer.",
    )
    queue_size: int = _setting(
        "1000",
        _whole(1, 1_000_000),
        "How many requests may wait for the database; one more is a 503 at once.",
    )
    batch_size: int = _setting(
        "500",
        _whole(1, 100_000),
        "How many waiting requests share one transaction at most.",
    )
    on_regression: str = _setting(
        "advance",
        _one_of("advance", "stop"),
        "What to do when the database holds less than this process has allocated, after a"
        " failover or a restored backup: advance goes on above the highest ID allocated, stop"
        " refuses every request until an operator has advanced the counters.",
    )
    fence_path: str = _setting(
        "",
        str,
        "The write-ahead fence: a file on another volume than the database and outside its"
        " backups, which says up to where IDs have gone out, so that a database restored while the"
        " service was down repeats none. Relative to the working directory; its directory must"
        " exist. Empty: no fence.",
        section="fence",
        keys=("path",),
    )
    fence_window: int = _setting(
        "100000",
        _whole(1, 2**40),
        "IDs by which the file is ahead of a counter: it is written once for this many IDs, and a"
        " crash leaves a gap of at most this many.",
        section="fence",
        keys=("window", "fence_window"),
    )
    cpu: str = _setting(
        "auto",
        _cpu,
        "The CPU that the service keeps to: Python uses one at a time, and is faster when its"
        " threads do not move between several. auto takes the least busy one of those that the"
        " process may use, and moves when others crowd it; a number takes that one; off leaves"
        " it to the system. Linux only.",
    )
    idempotency_ttl: float = _setting(
        "604800",
        _seconds(1, 315_360_000),
        "Seconds for which an Idempotency-Key counts at least, from its first use: 7 days.",
    )
    journal: bool = _setting(
        "off",
        _switch,
        "Whether every allocation is recorded, with time and client, for whois and journal; off"
        " records those with an Idempotency-Key alone.",
    )
    journal_ttl: float = _setting(
        "7776000",
        _seconds(1, 315_360_000),
        "Seconds for which the journal keeps what it records: 90 days.",
    )
    auth_tokens_file: str = _setting(
        "",
        str,
        "A file with a name and the SHA-256 of a token on each line: only requests that carry one"
        " of the tokens get IDs. Empty: everybody does.",
    )
    status_tokens_file: str = _setting(
        "",
        str,
        "The same for /metrics, the status page's data and the reasons in /readyz.",
    )
    status_page: bool = _setting(
        "on",
        _switch,
        "Whether browsers get a status page at /, with its data at /status.json.",
    )
    log_level: str = _setting(
        "info",
        _one_of("debug", "info", "warning", "error"),
        "The least severe log lines that are written.",
    )
    log_format: str = _setting(
        "keyvalue",
        _one_of("keyvalue", "json"),
        "How a log line is written: key=value pairs, or a JSON object.",
    )
    access_log: int = _setting(
        "0",
        _whole(0, 1_000_000),
        "A log line for one request in N: 1 for each, 100 for one in a hundred, 0 for none."
        " At full speed a line costs about as much as the request.",
    )


def rows() -> list[Row]:
    """The settings, in the order of the documentation."""
    return [
        Row(
            name=item.name,
            section=item.metadata["section"],
            keys=item.metadata["keys"] or (item.name,),
            variable=item.metadata["variable"] or f"UNIQUEID_{item.name.upper()}",
            legacy_variables=item.metadata["legacy"],
            default=item.metadata["default"],
            read=item.metadata["read"],
            help=item.metadata["help"],
            secret=item.metadata["secret"],
        )
        for item in fields(Settings)
    ]


@dataclass(frozen=True)
class Configuration:
    """Settings, the database they name, and where each came from."""

    settings: Settings
    database: database_url.DatabaseURL
    sources: Mapping[str, str]
    """Setting to file, variable or 'default'."""
    warnings: tuple[str, ...] = ()
    file: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Setting to what was read, passwords included."""

    def describe(self) -> list[tuple[str, str, str]]:
        """Option, value and source of each setting, passwords hidden."""
        described = []
        for row in rows():
            value = getattr(self.settings, row.name)
            if row.name == "url":
                text = str(self.database)
            elif row.secret:
                text = "***" if value else ""
            elif isinstance(value, bool):
                text = "on" if value else "off"
            elif isinstance(value, tuple):
                text = ", ".join(value)
            else:
                text = f"{value:.12g}" if isinstance(value, float) else str(value)
            described.append((row.option, text, self.sources[row.name]))
        return described


def load(
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Configuration:
    """Read the settings from wherever they stand.

    :param file: the file the command line names; it goes before the one of UNIQUEID_CONFIG,
        ``config.cfg`` in the working directory and the legacy service's file in the home directory,
        of which the first that there is is read.
    :param environ: the environment; the process's own when None.
    :param flags: settings by name from the command line.
    :raises ConfigError: for the first setting that cannot be used. A file that was named and
        is missing is an error: the default would be an empty database that starts at 1.
    """
    environ = os.environ if environ is None else environ
    path = _find_file(file, environ)
    from_file = {} if path is None else _read_file(path)
    chosen = {row.name: _choose(row, environ, from_file, path, flags or {}) for row in rows()}
    return configure(chosen, _unknown_variables(environ), path)


def configure(
    chosen: Mapping[str, tuple[str, str]],
    warnings: tuple[str, ...] = (),
    file: str | None = None,
) -> Configuration:
    """The configuration of settings that were read before.

    :param chosen: setting to its text and source; a default where there is none.
    :raises ConfigError: for the first setting that cannot be used.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    texts: dict[str, str] = {}
    for row in rows():
        text, source = chosen.get(row.name, (row.default, "default"))
        try:
            values[row.name] = row.read(text)
        except ValueError as error:
            raise ConfigError(row.option, text, source, str(error)) from None
        sources[row.name] = source
        texts[row.name] = text
    database = database_url.parse(values["url"], "[database] url", sources["url"])
    if values["password"]:
        try:
            database = database.with_password(values["password"])
        except ValueError as error:
            source = sources["password"]
            raise ConfigError("[database] password", None, source, str(error)) from None
    return Configuration(Settings(**values), database, sources, warnings, file, texts)


def _find_file(file: str | None, environ: Mapping[str, str]) -> str | None:
    named = file or environ.get(FILE_VARIABLE)
    if named:
        return named
    for candidate in (LOCAL_FILE, os.path.expanduser(HOME_FILE)):
        if os.path.exists(candidate):
            return candidate
    return None


def parse_file(parser: configparser.ConfigParser, path: str, source: str) -> None:
    """Read a file; keys before the first section header are in the section `UNNAMED`.

    The legacy documentation prints its examples without section headers.

    :raises ConfigError: if it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        try:
            parser.read_string(text, source=path)
        except configparser.MissingSectionHeaderError:
            parser.clear()
            parser.read_string(f"[{UNNAMED}]\n{text}", source=path)
    except (OSError, ValueError, configparser.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError("configuration file", path, source, f"{reason}") from None


def _read_file(path: str) -> dict[tuple[str, str], str]:
    # No interpolation: a percent sign in a URL means what it says. No default section: upstream
    # has none, and one would put a setting where it is not looked for.
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parse_file(parser, path, "as named")
    found: dict[tuple[str, str], str] = {}
    by_key = {(row.section, key): row for row in rows() for key in row.keys}
    for name in parser.sections():
        section = UNNAMED_IS if name == UNNAMED else name
        for key, value in parser.items(name):
            if (section, key) not in by_key:
                raise ConfigError(f"[{section}] {key}", None, path, _unknown(section, key, by_key))
            row = by_key[section, key]
            seen = found.get((row.section, row.name))
            if seen is not None and seen != value:
                names = " and ".join(row.keys)
                raise ConfigError(row.option, None, path, f"{names} mean the same; give one")
            found[row.section, row.name] = value
    return found


def _unknown(section: str, key: str, known: Mapping[tuple[str, str], Row]) -> str:
    here = [name for where, name in known if where == section]
    if section == "global" or section.startswith("/") or key.startswith(_CHERRYPY_KEYS):
        return (
            "belongs to a CherryPy file, which -c of pacifica-uniqueid or UNIQUEID_CPCONFIG names;"
            " this is the service's file"
        )
    if not here:
        sections = ", ".join(sorted({f"[{where}]" for where, _name in known}))
        return f"there is no such section; there are {sections}"
    elsewhere = [where for where, name in known if name == key]
    if elsewhere:
        return f"belongs to the section [{elsewhere[0]}]"
    if key in _INSTEAD:
        return f"is no setting; {_INSTEAD[key]}"
    close = difflib.get_close_matches(key, here, 1)
    if close:
        return f"is no setting; did you mean {close[0]}?"
    return f"is no setting; [{section}] has {', '.join(here)}"


def _choose(
    row: Row,
    environ: Mapping[str, str],
    from_file: Mapping[tuple[str, str], str],
    path: str | None,
    flags: Mapping[str, str],
) -> tuple[str, str]:
    """The text that counts for a setting, and where it stands."""
    if row.name in flags:
        return flags[row.name], "command line"
    found = _read_variable(row, row.variable, environ)
    if found is None and (row.section, row.name) in from_file:
        found = from_file[row.section, row.name], str(path)
    for variable in row.legacy_variables:
        found = found or _read_variable(row, variable, environ)
    if found is None and row.name == "url":
        password = _read_variable(row, "PEEWEE_PASS", environ)
        parts = dict(environ) if password is None else {**environ, "PEEWEE_PASS": password[0]}
        url = database_url.from_parts(parts)
        found = None if url is None else (url, "PEEWEE_PROTO, PEEWEE_ADDR, ...")
    return found or (row.default, "default")


def _read_variable(row: Row, variable: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """What a variable, or the file that its ``_FILE`` names, holds, and which it was.

    An empty variable counts as not set. What an editor adds to a text, a byte order mark or the
    end of the last line, is no part of it.
    """
    text, path = (
        environ.get(name, "").removeprefix("\ufeff").rstrip("\r\n")
        for name in (variable, f"{variable}_FILE")
    )
    if not row.secret:
        path = ""
    if text and path:
        both = f"{variable} and {variable}_FILE"
        raise ConfigError(row.option, None, both, "mean the same; set one of them")
    if path:
        return _read_secret(row, path, f"{variable}_FILE"), f"{variable}_FILE"
    return (text, variable) if text else None


def _read_secret(row: Row, path: str, variable: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_SECRET + 1)
        text = content.decode("utf-8-sig").rstrip("\r\n")
        reason = "" if text else "it is empty"
        if len(content) > _MAX_SECRET:
            reason = f"it is longer than {_MAX_SECRET} bytes"
        elif len(text.splitlines()) > 1:
            reason = "it has several lines"
    except OSError as error:
        reason = str(error.strerror)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    if reason:
        # The secret itself is a likely mistake for its path.
        shown = database_url.hide_password(path) if "://" in path else path
        allowed = f"must name a readable file with the value in one line of UTF-8 text: {reason}"
        raise ConfigError(row.option, shown, variable, allowed)
    return text


def _unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    known = {row.variable for row in rows()}
    known |= {f"{row.variable}_FILE" for row in rows() if row.secret}
    warnings = []
    for name in sorted(environ):
        if not name.startswith("UNIQUEID_") or name in known or _NOT_SETTINGS.fullmatch(name):
            continue
        close = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        instead = _INSTEAD.get(name.removeprefix("UNIQUEID_").lower())
        hint = f"; {instead}" if instead else hint
        warnings.append(f"the environment variable {name} is no setting and is ignored{hint}")
    return tuple(warnings)
