"""The CherryPy file of the built-in server: INI sections whose values are Python literals.

CherryPy itself evaluates the values, calls included. Here nothing but literals is read, and each
key is checked before CherryPy gets it.
"""

from __future__ import annotations

import ast
import configparser
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from uniqueid import config
from uniqueid.errors import ConfigError

# RFC 9110, 5.1 and 5.5.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[ \t!-~\x80-\xff]*")

Kind = Literal["cherrypy", "service"]

GLOBAL: Final = "global"
_NAMESPACES = frozenset({"server", "engine", "log", "checker", "environment"})
_HEADERS_ON: Final = "tools.response_headers.on"
_HEADERS: Final = "tools.response_headers.headers"
# The old service's documentation has it in every example. It chose CherryPy's way of finding a
# handler, and there is none to be found: what it names is not even looked at.
_DISPATCH: Final = "request.dispatch"
# What a cache needs to ask whether an old answer is still good, and what belongs to the server.
_REFUSED_HEADERS = frozenset(
    {"age", "connection", "content-length", "etag", "last-modified", "transfer-encoding"}
)


@dataclass(frozen=True)
class CherryPyFile:
    """What a CherryPy file says."""

    path: str
    server: Mapping[str, Any]
    """Keys for CherryPy's own configuration: server, engine, log, checker, environment."""
    headers: Mapping[str, tuple[tuple[str, str], ...]]
    """URL path to headers that its answers get."""
    ignored: tuple[str, ...] = ()
    """Keys which mean nothing to this service, each as ``[section] key``."""


def kind_of(path: str, source: str) -> Kind:
    """Whether a file is CherryPy's or the service's own, by its sections.

    :raises ConfigError: when it cannot be read, or is neither.
    """
    sections = set(_parse(path, source, interpolate=False).sections())
    cherrypy = {name for name in sections if name == GLOBAL or name.startswith("/")}
    if not cherrypy:
        return "service"
    if sections == cherrypy:
        return "cherrypy"
    others = ", ".join(f"[{name}]" for name in sorted(sections - cherrypy))
    reason = f"has sections for CherryPy and others ({others}): make two files of it"
    raise ConfigError("configuration file", path, source, reason)


def read(path: str, source: str) -> CherryPyFile:
    """Read a CherryPy file; the values are still to be checked against CherryPy's types.

    :param source: who named the file, for the errors.
    :raises ConfigError: for a file of another kind, and for a value that is no literal.
    """
    if kind_of(path, source) != "cherrypy":
        sections = " or ".join(f"[{name}]" for name in sorted({r.section for r in config.rows()}))
        reason = (
            f"is no CherryPy file, which has the sections [{GLOBAL}] and [/]; a file with"
            f" {sections} goes to -c or {config.FILE_VARIABLE}"
        )
        raise ConfigError("CherryPy file", path, source, reason)
    parser = _parse(path, source, interpolate=True)
    server: dict[str, Any] = {}
    tools: dict[str, dict[str, Any]] = {}
    ignored = []
    # What stands under a path goes before what stands under [global].
    for section in sorted(parser.sections(), key=lambda name: name != GLOBAL):
        for key in parser.options(section):
            if key == _DISPATCH:
                continue
            value = _literal(parser, section, key, path)
            namespace = key.partition(".")[0]
            if key in (_HEADERS_ON, _HEADERS):
                tools.setdefault("" if section == GLOBAL else section, {})[key] = value
            elif section == GLOBAL and namespace in _NAMESPACES:
                server[key] = value
            elif section == "/" and namespace == "log":
                # The old service gave the whole file to its one application as well.
                server.setdefault(key, value)
            else:
                ignored.append(f"[{section}] {key}")
    headers = {
        section.rstrip("/"): _headers(keys.get(_HEADERS, []), section or GLOBAL, path)
        for section, keys in tools.items()
        if keys.get(_HEADERS_ON)
    }
    return CherryPyFile(path, server, headers, tuple(ignored))


def check(key: str, value: Any, known: Mapping[str, Any], path: str) -> None:
    """Refuse a key that CherryPy does not have, or a value of another type than its own.

    CherryPy would take both, and the one would do nothing while the other ends in a traceback.

    :param known: key to the value it has without the file.
    :raises ConfigError: which says what is allowed.
    """
    option = f"[{GLOBAL}] {key}"
    if key not in known:
        close = difflib.get_close_matches(key, known, 1)
        here = [name for name in sorted(known) if name.startswith(key.partition(".")[0] + ".")]
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(here)}"
        raise ConfigError(option, repr(value), path, f"is no key of CherryPy's; {hint}")
    default = known[key]
    types: tuple[type, ...]
    if isinstance(default, bool):
        types, allowed = (bool,), "True or False"
    elif isinstance(default, int | float):
        types, allowed = (int, float), "a number"
    elif isinstance(default, tuple):
        types, allowed = (tuple,), "a tuple"
    elif isinstance(default, set | list):
        types, allowed = (set, list, tuple), "a list"
    else:
        types, allowed = (str, type(None)), "a text in quotes"
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ConfigError(option, repr(value), path, f"must be {allowed}")


def _parse(path: str, source: str, *, interpolate: bool) -> configparser.ConfigParser:
    # CherryPy's own parser interpolates and keeps the keys' case.
    parser = configparser.ConfigParser(
        interpolation=configparser.BasicInterpolation() if interpolate else None
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8-sig"), source=path)
    except (OSError, ValueError, configparser.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError("configuration file", path, source, f"{reason}") from None
    return parser


def _literal(parser: configparser.ConfigParser, section: str, key: str, path: str) -> Any:
    option = f"[{section}] {key}"
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
            reason = f"{name} is not set here: a cache could repeat the answer, or the server sets"
            raise ConfigError(option, repr(tuple(pair)), path, f"{reason} it itself")
        pairs.append((name, text))
    return tuple(pairs)
