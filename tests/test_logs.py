"""Log lines: one an event, in words or for machines, and no secret in any."""

from __future__ import annotations

import json
import logging
import os
import re
import sys

import pytest
from fakes import FakeAllocator
from web import call

from uniqueid.errors import Overloaded
from uniqueid.logs import JSON, AccessLog, Event, KeyValue, LineHandler
from uniqueid.web.app import make_app
from uniqueid.web.parameters import Limits


def record(message: object, *arguments: object, failed: bool = False) -> logging.LogRecord:
    """A line as logging makes it, about an exception if wanted."""
    exc_info = None
    if failed:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            exc_info = sys.exc_info()
    return logging.LogRecord("uniqueid.x", logging.WARNING, "f", 1, message, arguments, exc_info)


def pairs(line: str) -> dict[str, str]:
    """What a reader of key=value lines makes of one."""
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)(?: |$)', line)
    assert " ".join(f"{key}={value}" for key, value in found) == line
    return {key: json.loads(value) if value[:1] == '"' else value for key, value in found}


@pytest.mark.parametrize("mode", ["file", "", 'a b="c"\nlevel=error', "päth ☃", "\x00\x1b[31m"])
def test_a_line_can_be_read_back_whatever_is_in_it(mode: str) -> None:
    """No client can forge a line, or a part of one, with a mode."""
    entry = record(Event("counter regressed", mode=mode, found=5))
    line = KeyValue().format(entry)
    assert line.isascii()
    assert "\n" not in line
    found = pairs(line)
    assert found.keys() == {"time", "level", "logger", "message", "mode", "found"}
    assert (found["mode"], found["found"], found["level"]) == (mode, "5", "warning")
    document = json.loads(JSON().format(entry))
    assert document["message"] == "counter regressed"
    assert (document["mode"], document["found"]) == (mode, 5)


@pytest.mark.parametrize("formatter", [KeyValue(), JSON()])
def test_an_exception_is_one_line_too(formatter: logging.Formatter) -> None:
    """The traceback is a fact of the event."""
    line = formatter.format(record("it %s", "failed", failed=True))
    assert "\n" not in line
    found = json.loads(line) if line[0] == "{" else pairs(line)
    assert found["message"] == "it failed"
    assert "ValueError: two\nlines" in found["exception"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["time"])


def test_a_request_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    """Who asked for what, what came of it and how long it took."""
    allocator = FakeAllocator(first=7)
    allocator.batch_size = 3
    app = make_app(allocator, Limits(), access_log=AccessLog(1))
    with caplog.at_level(logging.INFO, "uniqueid"):
        given = {"HTTP_X_REQUEST_ID": "abc-1", "HTTP_AUTHORIZATION": "Bearer secret"}
        call(app, "GET", "/getid?range=5&mode=a+b", REMOTE_ADDR="10.0.0.7", **given)
        allocator.error = Overloaded(5)
        call(app, "GET", "/getid?range=5&mode=full", HTTP_X_REQUEST_ID="no\nsuch id")
        call(app, "GET", "/getid?range=x&mode=file")
    met, full, bad = [entry.msg.facts for entry in caplog.records]
    assert met.pop("duration") >= 0
    assert met == {
        "id": "abc-1", "client": "10.0.0.7", "method": "GET", "path": "/getid",
        "mode": "a b", "range": 5, "batch": 3, "start": 7, "status": 200,
    }  # fmt: skip
    assert (full["status"], full["type"], full["mode"]) == (503, "overloaded", "full")
    assert re.fullmatch("[0-9a-f]{32}", full["id"])
    assert (bad["status"], bad["type"]) == (400, "bad-range")
    assert "secret" not in caplog.text


def test_lines_that_a_pipe_does_not_take_are_dropped_and_counted() -> None:
    """No thread waits; a line that was cut off does not run into the next one."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        handler = LineHandler(writer)
        lines = [f"{number:05}" + "x" * 5000 for number in range(100)]
        for line in lines:
            handler.handle(record(line))
        assert 80 < handler.dropped < 100
        first = os.read(reader, 1 << 20).decode().splitlines()
        before = handler.dropped
        handler.handle(record("the reader is back"))
        assert handler.dropped == before
        second = os.read(reader, 1 << 20).decode().splitlines()
    finally:
        os.close(reader)
        handler.handle(record("not read"))
        os.close(writer)
    assert handler.dropped == before + 1
    assert first[: 100 - before] == lines[: 100 - before]
    assert second[-1] == "the reader is back"
    assert second[:-1] in ([], [""])


_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "logged"),
    [
        (f"00-{_TRACE}-01", True),
        (f"01-{_TRACE}-01-more", True),
        ("", False),
        (f"ff-{_TRACE}-01", False),
        (f"00-{_TRACE}", False),
        (f"00-{_TRACE}-01 x", False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        (f"00-{_TRACE.upper()}-01", False),
    ],
)
def test_a_traceparent_is_in_the_line_of_its_request(
    caplog: pytest.LogCaptureFixture, traceparent: str, logged: bool
) -> None:
    """As W3C Trace Context defines it; anything else is left out."""
    app = make_app(FakeAllocator(), Limits(), access_log=AccessLog(1))
    with caplog.at_level(logging.INFO, "uniqueid"):
        call(app, "GET", "/getid?range=5&mode=a", HTTP_TRACEPARENT=traceparent)
    (facts,) = [entry.msg.facts for entry in caplog.records]
    assert facts.get("traceparent") == (traceparent if logged else None)


def test_one_request_in_so_many_has_a_line_and_none_by_default(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And who has none costs nothing more."""
    allocator = FakeAllocator()
    with caplog.at_level(logging.DEBUG, "uniqueid"):
        app = make_app(allocator, Limits(), access_log=AccessLog(10))
        for _ in range(30):
            call(app, "GET", "/getid?range=1&mode=file")
        assert len(caplog.records) == 3
        app = make_app(allocator, Limits())
        call(app, "GET", "/getid?range=1&mode=file")
    assert len(caplog.records) == 3
