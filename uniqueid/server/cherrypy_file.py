"""The CherryPy file of the built-in server: an INI file whose values are Python literals.

CherryPy evaluates values as expressions, including calls. Here only literals are read.
"""

from __future__ import annotations

import ast
import configparser
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from uniqueid import config
from uniqueid.errors import ConfigError

GLOBAL: Final = "global"
DEFAULTS: Final[Mapping[str, Any]] = {
    "environment": "",
    "log.screen": True,
    "log.access_file": "",
    "log.error_file": "",
    "server.socket_host": "localhost",
    "server.socket_port": 8051,
    "server.socket_file": "",
    "server.socket_queue_size": 128,
    "server.socket_timeout": 10,
    "server.accepted_queue_size": -1,
    "server.accepted_queue_timeout": 10,
    "server.thread_pool": 64,
    "server.shutdown_timeout": 0,
    "server.max_request_header_size": 500 * 1024,
    "server.max_request_body_size": 100 * 1024 * 1024,
    "server.nodelay": True,
    "server.protocol_version": "HTTP/1.1",
    "server.ssl_module": "builtin",
    "server.ssl_certificate": "",
    "server.ssl_private_key": "",
    "server.ssl_certificate_chain": "",
    "server.ssl_ciphers": "",
}
"""The supported keys; a value has the type of its default. `shutdown_timeout` 0 means
`request_timeout` and 5 seconds."""
_IGNORED_SERVER_KEYS = frozenset(
    {"server.thread_pool_max", "server.statistics", "server.peercreds", "server.peercreds_resolve"}
)
_WHOLE = {
    "server.socket_port": (0, 65_535),
    "server.thread_pool": (1, 10_000),
    "server.socket_queue_size": (1, 65_535),
    "server.accepted_queue_size": (-1, 1_000_000),
}
_WORDS = {
    "environment": ("staging", "production", "embedded", "test_suite"),
    "server.ssl_module": ("builtin", "pyopenssl"),
    "server.protocol_version": ("HTTP/1.1", "HTTP/1.0"),
}
_QUIET_ENVIRONMENTS = ("production", "embedded", "test_suite")
_HEADERS_ON: Final = "tools.response_headers.on"
_HEADERS: Final = "tools.response_headers.headers"
# Every example of the legacy documentation has this key. Its value is no literal and is not read.
_DISPATCH: Final = "request.dispatch"
# RFC 9110, 5.1 and 5.5.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[ \t!-~\x80-\xff]*")
# Validators, with which a cache would reuse a response, and what the server sets.
_REFUSED_HEADERS = frozenset(
    {"age", "connection", "content-length", "etag", "last-modified", "transfer-encoding"}
)


@dataclass(frozen=True)
class CherryPyFile:
    """The checked content of a CherryPy file."""

    path: str = ""
    values: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULTS))
    headers: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """URL path to additional headers of its responses."""
    ignored: tuple[str, ...] = ()
    """Keys without an effect, each as ``[section] key``."""


def read(path: str, source: str) -> CherryPyFile:
    """Read a CherryPy file. Keys before the first section header belong to [global].

    :param source: the option or variable that names the file, for errors.
    :raises ConfigError: for a key or a value that is not supported.
    """
    # CherryPy's parser interpolates, and keys are case-sensitive.
    parser = configparser.ConfigParser(interpolation=configparser.BasicInterpolation())
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    config.parse_file(parser, path, source)
    given: dict[str, Any] = {}
    tools: dict[str, dict[str, Any]] = {}
    ignored = []
    for section in parser.sections():
        where = GLOBAL if section == config.UNNAMED else section
        if where != GLOBAL and not where.startswith("/"):
            raise ConfigError(f"[{where}]", None, path, _OF_SERVICE)
        for key in parser.options(section):
            _check_kind(where, key, path)
            if key == _DISPATCH:
                continue
            value = _literal(parser, section, key, path, where)
            if key in (_HEADERS_ON, _HEADERS):
                tools.setdefault("" if where == GLOBAL else where, {})[key] = value
            elif key.startswith("server.") and key not in _IGNORED_SERVER_KEYS:
                given[key] = _checked(key, value, path)
            elif key in DEFAULTS and where in (GLOBAL, "/"):
                # The legacy service applied the whole file to its one application as well.
                given.setdefault(key, _checked(key, value, path))
            else:
                ignored.append(f"[{where}] {key}")
    headers = {
        where.rstrip("/"): _headers(keys.get(_HEADERS, []), where or GLOBAL, path)
        for where, keys in tools.items()
        if keys.get(_HEADERS_ON)
    }
    quiet = {"log.screen": False} if given.get("environment") in _QUIET_ENVIRONMENTS else {}
    return CherryPyFile(path, {**DEFAULTS, **quiet, **given}, headers, tuple(ignored))


_OF_SERVICE = (
    f"belongs to the service's file, which {config.FILE_VARIABLE} names; this is a CherryPy file,"
    " with the sections [global] and [/]"
)


def _check_kind(section: str, key: str, path: str) -> None:
    """Refuse a key of the service's file."""
    if any(key in row.keys for row in config.rows()):
        raise ConfigError(f"[{section}] {key}", None, path, _OF_SERVICE)


def _checked(key: str, value: Any, path: str) -> Any:
    option = f"[{GLOBAL}] {key}"
    if key not in DEFAULTS:
        if key.count(".") > 1:
            raise ConfigError(option, None, path, "is not supported: there is one server")
        close = difflib.get_close_matches(key, DEFAULTS, 1)
        hint = f"; did you mean {close[0]}?" if close else "; docs/server.md lists the keys"
        raise ConfigError(option, None, path, f"is not supported{hint}")
    default = DEFAULTS[key]
    if key in _WORDS:
        fits, allowed = value in _WORDS[key], f"must be one of {', '.join(_WORDS[key])}"
    elif isinstance(default, bool):
        fits, allowed = isinstance(value, bool), "must be True or False"
    elif key in _WHOLE:
        low, high = _WHOLE[key]
        fits = type(value) is int and low <= value <= high
        allowed = f"must be a whole number from {low} to {high}"
    elif isinstance(default, int):
        fits, allowed = type(value) in (int, float) and value >= 0, "must be a number, 0 or more"
    else:
        fits, allowed = value is None or isinstance(value, str), "must be a text in quotes"
    if not fits:
        raise ConfigError(option, repr(value), path, allowed)
    return "" if value is None else value


def _literal(
    parser: configparser.ConfigParser, section: str, key: str, path: str, where: str
) -> Any:
    option = f"[{where}] {key}"
    try:
        text = parser.get(section, key)
    except configparser.InterpolationError:
        raw = parser.get(section, key, raw=True)
        raise ConfigError(option, raw, path, "a percent sign is written %%") from None
    if not text:
        return ""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        shown = text if len(text) <= 100 else text[:100] + "..."
        reason = "must be a Python literal: a 'text' in quotes, a number, True, False, None, a list"
        raise ConfigError(option, shown, path, reason) from None


def _headers(value: Any, section: str, path: str) -> tuple[tuple[str, str], ...]:
    option = f"[{section}] {_HEADERS}"
    allowed = "must be a list of ('Name', 'value') in Latin-1, without line breaks"
    pairs = []
    for pair in value if isinstance(value, list | tuple) else [value]:
        if not (
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(part, str) for part in pair)
            and _HEADER_NAME.fullmatch(pair[0])
            and _HEADER_VALUE.fullmatch(pair[1])
        ):
            raise ConfigError(option, repr(pair), path, allowed)
        name, text = pair
        if name.lower() in _REFUSED_HEADERS:
            reason = f"{name} is not allowed: a cache could repeat the response, or the server sets"
            raise ConfigError(option, repr(tuple(pair)), path, f"{reason} it itself")
        pairs.append((name, text))
    return tuple(pairs)
