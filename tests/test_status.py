"""The status page's data, and who gets the page."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest
from fakes import Clock, FakeAllocator
from web import assert_never_cached, assert_problem, call

from uniqueid.errors import MAX_ID
from uniqueid.monitoring.metrics import SECONDS, Metrics, State
from uniqueid.web import openapi
from uniqueid.web.app import make_app
from uniqueid.web.parameters import Limits
from uniqueid.web.status import MOST_COUNTERS, SAMPLES, Status, prefers_html, quantile

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Watched:
    """A service whose time and state a test sets."""

    def __init__(self) -> None:
        self.clock = Clock(1_000_000.0)
        self.metrics = Metrics("mysql")
        self.state = State(counters={"file": 11, "idle": 5})
        self.metrics.state = lambda: self.state
        self.wrong: str | None = None
        where = {"kind": "MySQL or MariaDB", "host": "db:3306"}
        checks = {"database": lambda: self.wrong}
        self.status = Status(self.metrics, checks, where, clock=self.clock)
        # A test takes the samples.
        self.status.history.start = lambda: None  # type: ignore[method-assign]
        self.allocator = FakeAllocator()
        self.app = make_app(
            self.allocator,
            Limits(),
            metrics=self.metrics,
            status=self.status,
            description=openapi.document(),
        )

    def read(self) -> Any:
        response = call(self.app, "GET", "/status.json")
        assert response.status == 200
        assert_never_cached(response)
        return response.json


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("text/html", True),
        ("text/html;q=0.9, application/json;q=0.1", True),
        ("TEXT/HTML , */*;q=0.1", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html, */*", False),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("application/xhtml+xml", False),
        ("text/*", True),
        ("text/*;q=0.5, application/json", False),
        ("text/*, */*", False),
        ("text/*, text/html;q=0", False),
    ],
)
def test_the_page_is_for_who_prefers_html(watched: Watched, accept: str, html: bool) -> None:
    """Every other client gets the legacy service's message, as do those that accept anything."""
    assert prefers_html(accept) is html
    response = call(watched.app, "GET", "/", HTTP_ACCEPT=accept)
    assert response.status == 200
    assert_never_cached(response)
    if html:
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert b"<!doctype html>" in response.body
    else:
        assert response.json == {"message": "Pacifica UniqueID Up and Running"}
    assert watched.allocator.requests == []


@pytest.mark.parametrize("path", ["/", "/status/status.css", "/status/status.js"])
def test_a_page_may_load_nothing_from_elsewhere(watched: Watched, path: str) -> None:
    """Its policy forbids it, and its own files do not ask for it."""
    response = call(watched.app, "GET", path, HTTP_ACCEPT=BROWSER)
    assert response.status == 200
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    text = response.body.decode().replace("http://www.w3.org/2000/svg", "")
    # A link loads nothing.
    text = re.sub(r'<a href="https://[^"]*">', "", text)
    assert "//www" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert len(response.body) < 20_000


def test_the_data_says_how_well_fast_and_full(watched: Watched) -> None:
    """Counters used here and others of the database, rates of the last seconds, and history."""
    history = watched.status.history
    history.take()
    watched.clock.now += 2
    watched.metrics.committed(4, 0.003)
    watched.metrics.allocated("file", 4, 40, 51)
    route = watched.metrics.route("/getid")
    for seconds in (0.0015, 0.0015, 0.0015, 0.04):
        route.answered(200, seconds)
    history.take()
    data = watched.read()
    assert data["database"] == {"kind": "MySQL or MariaDB", "host": "db:3306"}
    assert (data["ready"], data["checks"]) == (True, {"database": "ok"})
    assert data["uptime_seconds"] == 2
    file, idle = data["counters"]
    assert (file["mode"], file["next_id"], file["ids"], file["rate"]) == ("file", "51", 40, 20.0)
    assert file["used"] == 50 / MAX_ID
    assert (idle["mode"], idle["next_id"], idle["ids"]) == ("idle", "5", 0)
    recent = data["history"]
    assert (recent["requests"], recent["ids"], recent["batch"]) == ([2.0], [20.0], [4.0])
    assert 0.001 < recent["p50"][0] < 0.002
    assert 0.02 < recent["p99"][0] <= 0.05
    watched.wrong = "gone fishing"
    assert (watched.read()["ready"], watched.read()["checks"]["database"]) == (
        False,
        "gone fishing",
    )


def test_minutes_without_requests_have_no_latency(watched: Watched) -> None:
    """None is not 0; and no more is kept than is shown."""
    for _ in range(SAMPLES + 10):
        watched.status.history.take()
        watched.clock.now += 2
    recent = watched.read()["history"]
    assert len(recent["time"]) == SAMPLES - 1
    assert set(recent["p99"]) == set(recent["batch"]) == {None}
    assert set(recent["requests"]) == {0.0}


def test_the_busiest_counters_are_shown_besides_the_fullest(watched: Watched) -> None:
    """With a rate each, however many modes are used here."""
    history = watched.status.history
    counters = {f"full{number}": MAX_ID - number for number in range(MOST_COUNTERS)}
    watched.state = State(counters=counters)
    history.take()
    for number in range(MOST_COUNTERS):
        watched.metrics.allocated(f"mode{number}", 1, number + 1, number + 2)
    watched.clock.now += 2
    history.take()
    shown = {counter["mode"]: counter for counter in watched.read()["counters"]}
    assert len(shown) == MOST_COUNTERS
    assert f"full{MOST_COUNTERS // 2 - 1}" in shown
    busiest = shown[f"mode{MOST_COUNTERS - 1}"]
    assert (busiest["ids"], busiest["rate"]) == (MOST_COUNTERS, MOST_COUNTERS / 2)
    assert "mode0" not in shown


def test_the_data_names_its_instance(watched: Watched) -> None:
    """Behind a load balancer, a client tells one from another by name and start."""
    data = watched.read()
    assert data["instance"] == socket.gethostname()
    assert data["started"] == "1970-01-12T13:46:40.000Z"
    assert data["tokens_required"] is False


def test_a_database_with_many_counters_makes_no_endless_page(watched: Watched) -> None:
    """The fullest are shown, and how many there are."""
    counters = {f"mode{number}": number + 1 for number in range(MOST_COUNTERS * 3)}
    watched.state = State(counters=counters)
    data = watched.read()
    assert data["counters_total"] == MOST_COUNTERS * 3
    assert len(data["counters"]) == MOST_COUNTERS
    assert min(int(counter["next_id"]) for counter in data["counters"]) == MOST_COUNTERS * 2 + 1


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ([0] * 13 + [0], 0.5, None),
        ([10] * 14, 0.5, 0.0005),
        ([0, 10] + [10] * 12, 0.5, 0.0015),
        ([0] * 13 + [5], 0.99, SECONDS[-1]),
    ],
)
def test_a_quantile_is_prometheus_own(
    counts: list[float], share: float, seconds: float | None
) -> None:
    """Interpolated within the bucket; what is longer than the last bound is that bound."""
    found = quantile(counts, share)
    assert found == seconds if seconds is None else found == pytest.approx(seconds)


def test_a_switch_turns_page_and_data_off() -> None:
    """A browser then gets the JSON, and the description has no page."""
    app = make_app(FakeAllocator(), Limits(), description=openapi.document(status_page=False))
    assert call(app, "GET", "/", HTTP_ACCEPT=BROWSER).json["message"]
    for path in ("/status.json", "/status/status.js"):
        assert_problem(call(app, "GET", path), 404, "about:blank")
    text = json.dumps(call(app, "GET", "/openapi.json").json)
    assert "status.json" not in text
    assert "text/html" not in json.dumps(call(app, "GET", "/openapi.json").json["paths"]["/"])
