"""HTTP, in process."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
from fakes import FakeAllocator
from web import Response, assert_never_cached, assert_problem, call

from uniqueid import errors
from uniqueid.monitoring.metrics import Metrics
from uniqueid.web.app import make_app
from uniqueid.web.getid import MAX_BODY, MAX_TARGET
from uniqueid.web.parameters import Limits
from uniqueid.web.status import Status


@pytest.fixture
def allocator() -> FakeAllocator:
    return FakeAllocator()


@pytest.fixture
def app(allocator: FakeAllocator) -> object:
    return make_app(allocator, Limits(), metrics=Metrics())


def test_the_root_says_what_it_always_said(app: object, allocator: FakeAllocator) -> None:
    """Deployments check GET / and expect this message and no allocation."""
    response = call(app, "GET", "/")
    assert response.status == 200
    assert response.json == {"message": "Pacifica UniqueID Up and Running"}
    assert response.headers["Content-Type"] == "application/json"
    assert_never_cached(response)
    assert call(app, "HEAD", "/").status == 200
    assert allocator.requests == []


def test_a_repeated_query_is_a_request_of_its_own(app: object, allocator: FakeAllocator) -> None:
    """It gets a range of its own, and the nonce, key and body of another have no part in it."""
    target = "/getid?range=2&mode=file"
    firsts = [call(app, "GET", target).json["startIndex"] for _ in range(3)]
    assert firsts == [1, 3, 5]
    assert call(app, "GET", target, HTTP_X_REQUEST_NONCE="n").headers["X-Request-Nonce"] == "n"
    assert call(app, "GET", target, HTTP_X_REQUEST_NONCE="").status == 400
    assert call(app, "GET", target, HTTP_IDEMPOTENCY_KEY="short").status == 400
    again = call(app, "GET", target)
    assert (again.status, again.json["startIndex"]) == (200, 9)
    assert "X-Request-Nonce" not in again.headers
    for bad in ("/getid?range=x&mode=file", "/getid?range=x&mode=file"):
        assert call(app, "GET", bad).status == 400
    for nonce in ("a", "b", "a"):
        assert call(app, "GET", f"{target}&nonce={nonce}").json["nonce"] == nonce


REQUESTS = (
    "range=10&mode=file",
    "range=0&mode=file",
    "mode=file&range=007&nonce=a%20b",
    "range=1&mode=%C3%A9",
    "range=-1&mode=file",
    "range=1",
    "",
    "range=1&mode=file&nonce=" + 300 * "x",
    "range=1&mode=%FF",
    "x" * (MAX_TARGET + 1),
)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"HTTP_X_REQUEST_NONCE": "n"},
    {"HTTP_X_REQUEST_NONCE": "\xe9"},
    {"HTTP_IDEMPOTENCY_KEY": "short"},
    {"HTTP_AUTHORIZATION": "Bearer wrong"},
)


@pytest.mark.parametrize(
    "error", [None, errors.Overloaded(7), errors.TooManyModes("m", 5), OSError()]
)
@pytest.mark.parametrize("headers", HEADERS, ids=str)
def test_bottles_dispatch_would_answer_the_same(
    headers: dict[str, str], error: Exception | None
) -> None:
    """GET /getid takes the fast route, unless a hook or a plug-in wants to see it."""
    answers = []
    seen: list[str] = []
    for change in (
        lambda app: None,
        lambda app: app.add_hook("before_request", lambda: seen.append("hook")),
        lambda app: app.install(lambda callback: seen.append("plug-in") or callback),
    ):
        allocator = FakeAllocator()
        allocator.error = error
        app = make_app(allocator, Limits(), metrics=Metrics())
        change(app)
        got = [call(app, "GET", f"/getid?{query}", **headers) for query in REQUESTS]
        for answer in got:
            if answer.status == 500:
                answer.body = answer.headers["Content-Length"] = b""
        answers.append((got, allocator.requests))
    assert answers[0] == answers[1] == answers[2]
    assert seen.count("hook") == len(REQUESTS)
    assert "plug-in" in seen


@pytest.mark.parametrize("path", ["/getid", "/getid/", "//getid", "//getid//", "/getid//"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_getid_answers_under_each_spelling_of_its_path(app: object, method: str, path: str) -> None:
    """A consumer's base URL may end in a slash."""
    response = call(app, method, f"{path}?range=10&mode=file")
    assert response.status == 200
    assert response.json == {"startIndex": 1, "endIndex": 10}
    assert response.headers["Content-Type"] == "application/json"
    assert_never_cached(response)
    assert call(app, method, f"{path}?range=1&mode=file").json == {"startIndex": 11, "endIndex": 11}


def test_a_post_takes_its_parameters_from_the_form_too(
    app: object, allocator: FakeAllocator
) -> None:
    """In the body, in the query or in both, but none twice."""
    assert call(app, "POST", "/getid", b"range=2&mode=f%C3%A4").status == 200
    assert call(app, "POST", "/getid?range=3", b"mode=b").status == 200
    assert allocator.requests == [("fä", 2), ("b", 3)]
    assert_problem(call(app, "POST", "/getid?range=3", b"mode=b&range=3"), 400, "bad-range")


def test_an_empty_bundle_gets_the_old_answer_and_nothing_else(
    app: object, allocator: FakeAllocator
) -> None:
    """range=0 is a 200 with -1 and -3, and no transaction."""
    response = call(app, "GET", "/getid?range=0&mode=file")
    assert (response.status, response.json) == (200, {"startIndex": -1, "endIndex": -3})
    assert allocator.requests == []


@pytest.mark.parametrize(
    ("query", "type"),
    [
        ("", "bad-range"),
        ("range=&mode=file", "bad-range"),
        ("mode=file", "bad-range"),
        ("range=-1&mode=file", "bad-range"),
        ("range=1&range=1&mode=file", "bad-range"),
        ("range=1000000001&mode=file", "bad-range"),
        ("range=1", "bad-mode"),
        ("range=1&mode=", "bad-mode"),
        ("range=1&mode=%00", "bad-mode"),
        ("range=1&mode=%ff", "bad-mode"),
        ("range=1&mode=" + "a" * 256, "bad-mode"),
        ("range=0&mode=", "bad-mode"),
    ],
)
def test_bad_parameters_are_a_400_and_allocate_nothing(
    app: object, allocator: FakeAllocator, query: str, type: str
) -> None:
    """The document names the parameter, its value and what is allowed."""
    for method in ("GET", "POST"):
        response = call(app, method, f"/getid?{query}")
        assert_problem(response, 400, type)
        assert type.removeprefix("bad-") in response.json["detail"]
        assert response.json["errors"][0].keys() == {"parameter", "value", "allowed"}
    assert allocator.requests == []


@pytest.mark.parametrize(
    ("error", "status", "type", "retry"),
    [
        (errors.CounterExhausted("file", 5, 2), 409, "counter-exhausted", False),
        (errors.TooManyModes("file", 2), 409, "too-many-modes", False),
        (errors.ModeNotStorable("file"), 400, "bad-mode", False),
        (errors.CounterRegressed("file", 5, 9), 503, "counter-regressed", True),
        (errors.Overloaded(1000), 503, "overloaded", True),
        (errors.Closing(), 503, "overloaded", True),
        (errors.DatabaseUnavailable("root@db refused"), 503, "database-unavailable", True),
    ],
)
def test_each_error_has_its_status_and_type(
    app: object, allocator: FakeAllocator, error: Exception, status: int, type: str, retry: bool
) -> None:
    """And a Retry-After where trying again makes sense; a driver's words stay in the log."""
    allocator.error = error
    response = call(app, "GET", "/getid?range=5&mode=file")
    assert_problem(response, status, type)
    assert ("Retry-After" in response.headers) is retry
    assert "root@db" not in response.body.decode()


def test_an_unexpected_error_is_a_500_whose_reference_stands_in_the_log(
    app: object, allocator: FakeAllocator, caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback for the client, the whole of it for the operator."""
    allocator.error = ZeroDivisionError("secret")
    with caplog.at_level(logging.ERROR):
        response = call(app, "GET", "/getid?range=5&mode=file")
    assert_problem(response, 500, "about:blank")
    assert "secret" not in response.body.decode()
    assert response.json["reference"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("HEAD", "/getid?range=1&mode=file", 405, "GET, POST"),
        ("PUT", "/getid?range=1&mode=file", 405, "GET, POST"),
        ("DELETE", "/getid", 405, "GET, POST"),
        ("OPTIONS", "/getid", 405, "GET, POST"),
        ("TRACE", "/getid", 405, "GET, POST"),
        ("POST", "/", 405, "GET, HEAD"),
        ("GET", "/nothing", 404, None),
        ("POST", "/nothing", 404, None),
        ("GET", "/getid/more", 404, None),
        ("GET", "/GETID", 404, None),
    ],
)
def test_what_is_not_served_is_refused_in_json(
    app: object, allocator: FakeAllocator, method: str, target: str, status: int, allow: str | None
) -> None:
    """Unknown paths are 404, other methods 405 with Allow; nothing is allocated."""
    response = call(app, method, target)
    assert response.status == status
    assert response.headers.get("Allow") == allow
    assert_never_cached(response)
    if method == "HEAD":
        assert response.body == b""
    else:
        assert_problem(response, status, "about:blank")
    assert allocator.requests == []


def test_a_path_that_is_no_utf8_is_not_taken_for_another(app: object) -> None:
    """Bottle would drop the bytes and answer for what is left."""
    assert_problem(call(app, "GET", "/", PATH_INFO="/\xff\xfe"), 404, "about:blank")


@pytest.mark.parametrize(
    ("environ", "body", "status"),
    [
        ({"CONTENT_LENGTH": str(MAX_BODY + 1)}, b"range=1&mode=a", 413),
        ({"CONTENT_LENGTH": "9" * 5000}, b"range=1&mode=a", 413),
        ({"CONTENT_LENGTH": "-5"}, b"range=1&mode=a", 400),
        ({"CONTENT_LENGTH": "99"}, b"range=1&mode=a", 400),
        ({"CONTENT_LENGTH": "12", "CONTENT_TYPE": "application/json"}, b'{"range": 1}', 415),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, b"range=1&mode=a", 411),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    app: object, allocator: FakeAllocator, environ: dict[str, str], body: bytes, status: int
) -> None:
    """Too long, too short, of another type, of no known length."""
    assert_problem(raw(app, {**environ, "wsgi.input": io.BytesIO(body)}), status, "about:blank")
    assert allocator.requests == []


def raw(app: Any, environ: dict[str, Any]) -> Response:
    """A request which the validator would not let through, as a careless server does."""
    started: list[tuple[str, list[tuple[str, str]]]] = []
    values = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/getid",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        **environ,
    }
    content = b"".join(app(values, lambda *args: started.append(args)))
    return Response(int(started[0][0][:3]), dict(started[0][1]), content)


def test_a_query_that_is_too_long_is_a_414(app: object, allocator: FakeAllocator) -> None:
    """Beyond the longest mode there is no reason for one."""
    response = call(app, "GET", "/getid?range=1&mode=a&x=" + "x" * MAX_TARGET)
    assert_problem(response, 414, "about:blank")
    longest = "range=1&mode=" + "%F0%9F%98%80" * 255
    assert call(app, "GET", f"/getid?{longest}").status == 200
    assert len(allocator.requests) == 1


@pytest.mark.parametrize(
    "protocol", ["", "b HTTP/1.1", "HTTP/1.1 HTTP/1.1", "HTTP/1.1 200 OK", "http/1.1", "HTTP/"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_a_blank_in_the_target_leaves_for_the_protocol_is_a_400(
    app: object, allocator: FakeAllocator, method: str, protocol: str
) -> None:
    """uWSGI splits the request line at blanks; nothing is allocated."""
    target = "/getid?range=1&mode=a"
    assert_problem(call(app, method, target, SERVER_PROTOCOL=protocol), 400, "about:blank")
    assert allocator.requests == []
    assert call(app, method, target, SERVER_PROTOCOL="HTTP/3.0").status == 200


def test_a_request_id_comes_back(app: object, allocator: FakeAllocator) -> None:
    """On every route and with errors; what does not fit into a header line does not."""
    for target in ("/getid?range=1&mode=a", "/getid?range=x", "/livez", "/nothing"):
        response = call(app, "GET", target, HTTP_X_REQUEST_ID="a-1:b")
        assert response.headers["X-Request-ID"] == "a-1:b"
        for unusable in ("", "a b", "a\r\nSet-Cookie: x", "x" * 129, "é"):
            response = call(app, "GET", target, HTTP_X_REQUEST_ID=unusable)
            assert "X-Request-ID" not in response.headers
        assert "X-Request-ID" not in call(app, "GET", target).headers


def test_assets_share_one_route_label(allocator: FakeAllocator) -> None:
    """So that a new file makes no new series."""
    metrics = Metrics()
    where = {"kind": "SQLite", "host": "a local file"}
    app = make_app(allocator, Limits(), metrics=metrics, status=Status(metrics, {}, where))
    for name in ("status.css", "status.js"):
        assert call(app, "GET", f"/status/{name}").status == 200
    assert metrics.routes["assets"].read()[0] == {200: 2}
    assert not any(route.startswith("/status/") for route in metrics.routes)


def test_what_is_no_request_at_all_is_a_400(app: object) -> None:
    """uWSGI hands on even a request without a method or path."""
    for missing in ("REQUEST_METHOD", "PATH_INFO"):
        assert_problem(raw(app, {missing: ""}), 400, "about:blank")


def test_readyz_says_what_is_wrong(allocator: FakeAllocator) -> None:
    """Each check by name; one that fails makes it a 503."""
    wrong: dict[str, str | None] = {"database": None, "counters": None}
    checks = {name: (lambda name=name: wrong[name]) for name in wrong}
    app = make_app(allocator, Limits(), checks=checks)
    for path in ("/readyz", "/healthz"):
        wrong["counters"] = None
        response = call(app, "GET", path)
        assert response.status == 200
        assert response.json["checks"] == {"database": "ok", "counters": "ok"}
        wrong["counters"] = "regressed"
        response = call(app, "GET", path)
        assert response.status == 503
        assert response.json["checks"] == {"database": "ok", "counters": "regressed"}
        assert call(app, "GET", "/livez").status == 200
    assert allocator.requests == []


def test_metrics_count_requests_by_route_and_status(app: object) -> None:
    """In Prometheus' text format."""
    call(app, "GET", "/getid?range=10&mode=file")
    call(app, "GET", "/getid?range=x&mode=file")
    call(app, "HEAD", "/getid")
    text = call(app, "GET", "/metrics").body.decode()
    assert 'uniqueid_http_requests_total{route="/getid",status="200"} 1.0' in text
    assert 'uniqueid_http_requests_total{route="/getid",status="400"} 1.0' in text
    assert 'uniqueid_http_requests_total{route="/getid",status="405"} 1.0' in text
