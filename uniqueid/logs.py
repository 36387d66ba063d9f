"""Log lines: one event each, as key=value or JSON, and requests only where that is wanted."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import secrets
import stat
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

    Otherwise it reads as the message and `key=value` behind it.
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


class LineHandler(logging.Handler):
    """Writes each line to a descriptor by one write(2), and drops what that does not take.

    After `never_block`, no thread waits for the reader of the log. The base class' lock guards the
    attributes.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._cut = False
        self.dropped = 0
        """Lines that were not written, or not as a whole."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        except Exception:
            self.handleError(record)
            return
        if self._cut:
            line = b"\n" + line
        try:
            self._cut = os.write(self._descriptor, line) < len(line)
        except OSError:
            self.dropped += 1
        else:
            self.dropped += self._cut


def dropped() -> int:
    """How many lines of this process were dropped."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, LineHandler))


def never_block() -> None:
    """Make writes to standard output and error fail where they would wait for a reader.

    A log driver that hangs would stop every thread that has a line to write, the server's own
    among them. A regular file does not wait for a reader.
    """
    for descriptor in (1, 2):
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            continue
        try:
            # Opened again: other processes that share the descriptor go on waiting for its reader.
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            # A socket, another user's pipe, or no /proc. A terminal is the shell's as well.
            if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
                os.set_blocking(descriptor, False)
        else:
            os.dup2(own, descriptor)
            os.close(own)


def set_up(level: str, format: str = "keyvalue") -> None:
    """Lines to standard error, unless logging is set up already."""
    root = logging.getLogger()
    if not root.handlers:
        handler = LineHandler()
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
    """A line for one request in N, chosen when it arrives.

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
