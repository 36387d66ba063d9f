"""Log lines: one event each, as key=value or JSON, and requests only where that is wanted."""

from __future__ import annotations

import itertools
import json
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

REQUEST_ID = "HTTP_X_REQUEST_ID"
"""Where WSGI has the header in which proxies number requests."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
# W3C Trace Context, 3.2; a version after 00 may add fields.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{1,200})?"
)
_BARE = re.compile(r"[A-Za-z0-9._:/+@%,-]+", re.ASCII)


class Event:
    """A message with facts beside it, which a formatter can keep apart.

    Where nobody does, it reads as the message and `key=value` behind it.
    """

    def __init__(self, message: str, **facts: object) -> None:
        self.message = message
        self.facts = facts

    def __str__(self) -> str:
        return " ".join([self.message, *(f"{key}={_value(v)}" for key, v in self.facts.items())])


class _Formatter(logging.Formatter):
    def facts(self, record: logging.LogRecord) -> dict[str, object]:
        """What a line says, in its order."""
        message: Any = record.msg
        when = datetime.fromtimestamp(record.created, UTC)
        said = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message.message if isinstance(message, Event) else record.getMessage(),
        }
        facts = dict(message.facts) if isinstance(message, Event) else {}
        if record.exc_info and record.exc_info[0] is not None:
            facts["exception"] = self.formatException(record.exc_info)
        # What is said of every line stands first, and no fact takes its place.
        return {**said, **{key: value for key, value in facts.items() if key not in said}}


class KeyValue(_Formatter):
    """`key=value`, with JSON's quotes and escapes around what is more than a word."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_value(value)}" for key, value in self.facts(record).items())


class JSON(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(self.facts(record), default=str)


FORMATS: Mapping[str, type[logging.Formatter]] = {"keyvalue": KeyValue, "json": JSON}


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def set_up(level: str, format: str = "keyvalue") -> None:
    """Lines to standard error, unless somebody has set up logging already."""
    root = logging.getLogger()
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(FORMATS[format]())
        root.addHandler(handler)
        root.setLevel(level.upper())
    logging.getLogger("uniqueid").setLevel(level.upper())


def sent_request_id(environ: Mapping[str, Any]) -> str | None:
    """The X-Request-ID of a request, where it has one that fits into a header and a log line."""
    sent: str = environ.get(REQUEST_ID, "")
    return sent if _REQUEST_ID.fullmatch(sent) else None


def request_id(environ: Mapping[str, Any]) -> str:
    """The number that a proxy or client gave a request, or a random one."""
    return sent_request_id(environ) or secrets.token_hex(16)


log = logging.getLogger("uniqueid.access")


class AccessLog:
    """A line for one request in so many, chosen when it arrives.

    :param every: 1 for each request, 100 for one in a hundred.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._numbers = itertools.count()

    def begin(self, environ: Mapping[str, Any]) -> dict[str, object] | None:
        """The facts of a request that gets a line, for its handler to add to; or None."""
        # Taking the next number is one step for CPython's threads.
        if next(self._numbers) % self._every:
            return None
        facts: dict[str, object] = {
            "id": request_id(environ),
            "client": environ.get("REMOTE_ADDR", ""),
            "method": environ.get("REQUEST_METHOD", ""),
            "path": environ.get("PATH_INFO", ""),
        }
        traceparent = environ.get("HTTP_TRACEPARENT", "")
        if _TRACEPARENT.fullmatch(traceparent):
            facts["traceparent"] = traceparent
        return facts

    def end(self, facts: Mapping[str, object], status: int, seconds: float) -> None:
        """Write the line."""
        log.info(Event("request", **facts, status=status, duration=round(seconds, 6)))
