"""No answer may be used twice, and every answer can prove for which request it was made."""

from __future__ import annotations

import pytest
import web
from bottle import Bottle, HTTPResponse
from fakes import FakeAllocator
from web import Response

from uniqueid import errors
from uniqueid.monitoring.metrics import Metrics
from uniqueid.web.app import make_app
from uniqueid.web.caching import NEVER_CACHED, NONCE
from uniqueid.web.getid import KEY
from uniqueid.web.parameters import Limits
from uniqueid_client import protocol


@pytest.fixture
def allocator() -> FakeAllocator:
    return FakeAllocator()


@pytest.fixture
def app(allocator: FakeAllocator) -> Bottle:
    wrong = {"database": lambda: "it is away"}
    return make_app(allocator, Limits(), checks=wrong, metrics=Metrics())


def call(
    app: Bottle, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Response:
    """One request in process."""
    environ = {}
    for name, value in (headers or {}).items():
        key = name.upper().replace("-", "_")
        environ[key if key.startswith("CONTENT_") else "HTTP_" + key] = value
    return web.call(app, method, target, body or None, **environ)


ANSWERS: list[tuple[int, str, str, bytes, dict[str, str], Exception | None]] = [
    (200, "GET", "/", b"", {}, None),
    (200, "HEAD", "/", b"", {}, None),
    (200, "GET", "/livez", b"", {}, None),
    (503, "GET", "/readyz", b"", {}, None),
    (503, "GET", "/healthz", b"", {}, None),
    (200, "GET", "/metrics", b"", {}, None),
    (200, "GET", "/getid?range=1&mode=m", b"", {}, None),
    (200, "GET", "/getid?range=0&mode=m", b"", {}, None),
    (200, "GET", "//getid/?range=1&mode=m", b"", {}, None),
    (200, "POST", "/getid", b"range=1&mode=m", {}, None),
    (400, "GET", "/getid", b"", {}, None),
    (404, "GET", "/nothing", b"", {}, None),
    (405, "HEAD", "/getid?range=1&mode=m", b"", {}, None),
    (405, "PUT", "/getid?range=1&mode=m", b"", {}, None),
    (405, "OPTIONS", "/", b"", {}, None),
    (409, "GET", "/getid?range=9&mode=m", b"", {}, errors.CounterExhausted("m", 9, 1)),
    (409, "GET", "/getid?range=9&mode=m", b"", {}, errors.TooManyModes("m", 9)),
    (411, "POST", "/getid", b"", {"Transfer-Encoding": "chunked"}, None),
    (413, "POST", "/getid", b"x" * 8193, {}, None),
    (414, "GET", "/getid?mode=" + "m" * 9000, b"", {}, None),
    (415, "POST", "/getid", b"{}", {"Content-Type": "application/json"}, None),
    (500, "GET", "/getid?range=1&mode=m", b"", {}, RuntimeError("a defect")),
    (503, "GET", "/getid?range=1&mode=m", b"", {}, errors.CounterRegressed("m", 1, 2)),
    (503, "GET", "/getid?range=1&mode=m", b"", {}, errors.Overloaded(1)),
    (503, "GET", "/getid?range=1&mode=m", b"", {}, errors.Closing()),
    (503, "POST", "/getid?range=1&mode=m", b"", {}, errors.DatabaseUnavailable("gone")),
]


@pytest.mark.parametrize(
    ("status", "method", "target", "body", "headers", "error"),
    ANSWERS,
    ids=[f"{row[0]}-{row[1]}-{row[2][:20]}-{type(row[5]).__name__}" for row in ANSWERS],
)
def test_every_answer_says_in_every_dialect_that_it_must_not_be_kept(
    app: Bottle,
    allocator: FakeAllocator,
    status: int,
    method: str,
    target: str,
    body: bytes,
    headers: dict[str, str],
    error: Exception | None,
) -> None:
    """Each status of each route carries all of the headers once, no validator, and its nonce."""
    allocator.error = error
    answer = call(app, method, target, body, {**headers, "X-Request-Nonce": "n 1"})
    assert answer.status == status
    for name, value in NEVER_CACHED:
        assert answer.headers.get(name) == value
    assert answer.headers.get("ETag") is None
    assert answer.headers.get("Last-Modified") is None
    assert answer.headers.get("X-Request-Nonce") == "n 1"


def test_the_headers_are_those_that_were_measured() -> None:
    """Each of them stops a cache that the others do not; see docs/caching.md."""
    assert dict(NEVER_CACHED) == {
        "Cache-Control": "no-store, no-cache, private, max-age=0",
        "Pragma": "no-cache",
        "Expires": "Thu, 01 Jan 1970 00:00:01 GMT",
        "Vary": "*",
        "Surrogate-Control": "no-store",
        "CDN-Cache-Control": "no-store",
        "X-Accel-Expires": "0",
        "X-Accel-Buffering": "no",
    }


def test_the_client_knows_them() -> None:
    """`probe` reports the headers that are missing or changed."""
    assert dict(NEVER_CACHED) == protocol.NEVER_CACHED
    assert (NONCE, KEY) == (protocol.NONCE, protocol.KEY)


def test_nothing_inside_the_application_can_weaken_them(app: Bottle) -> None:
    """A handler or a hook that sets caching headers or validators is overruled."""
    weak = {
        "ETag": '"1"',
        "Last-Modified": "Thu, 01 Jan 2026 00:00:01 GMT",
        "Cache-Control": "public, max-age=600",
        "Expires": "Thu, 01 Jan 2099 00:00:01 GMT",
        "Vary": "Accept",
        "X-Accel-Expires": "600",
        "Age": "5",
        "X-Request-Nonce": "another",
    }
    app.route("/weak", "GET", lambda: HTTPResponse("{}", 200, weak))
    answer = call(app, "GET", "/weak", headers={"X-Request-Nonce": "mine"})
    assert answer.status == 200
    for name, value in NEVER_CACHED:
        assert answer.headers.get(name) == value
    for name in ("ETag", "Last-Modified", "Age"):
        assert answer.headers.get(name) is None
    assert answer.headers.get("X-Request-Nonce") == "mine"


def test_an_error_outside_of_every_handler_carries_them_too(app: Bottle) -> None:
    """Even Bottle's own last resort passes through the one place."""

    def broken() -> None:
        raise RuntimeError("a hook with a defect")

    app.add_hook("before_request", broken)
    answer = call(app, "GET", "/getid?range=1&mode=m")
    assert answer.status == 500
    assert answer.headers.get("Cache-Control") == "no-store, no-cache, private, max-age=0"
    assert b"Traceback" not in answer.body


def test_a_nonce_in_the_query_comes_back_twice(app: Bottle) -> None:
    """In the header, and in the document for a client whose proxy drops unknown headers."""
    answer = call(app, "GET", "/getid?range=2&mode=m&nonce=a%20b~%22")
    assert answer.headers.get("X-Request-Nonce") == 'a b~"'
    assert answer.json == {"startIndex": 1, "endIndex": 2, "nonce": 'a b~"'}


def test_a_post_with_a_nonce_in_the_query_has_it_in_the_document(app: Bottle) -> None:
    """The method makes no difference."""
    answer = call(app, "POST", "/getid?range=2&mode=m&nonce=q")
    assert answer.headers.get("X-Request-Nonce") == "q"
    assert answer.json["nonce"] == "q"


def test_a_nonce_from_elsewhere_comes_back_in_the_header_alone(app: Bottle) -> None:
    """Who sends it in the header or a form gets the same document as everybody."""
    by_header = call(app, "GET", "/getid?range=2&mode=m", headers={"X-Request-Nonce": "h"})
    by_form = call(app, "POST", "/getid", b"range=2&mode=m&nonce=f")
    assert by_header.headers.get("X-Request-Nonce") == "h"
    assert by_form.headers.get("X-Request-Nonce") == "f"
    assert by_header.json == {"startIndex": 1, "endIndex": 2}
    assert by_form.json == {"startIndex": 3, "endIndex": 4}


def test_without_a_nonce_nothing_comes_back(app: Bottle) -> None:
    """The old clients see the old answer."""
    answer = call(app, "GET", "/getid?range=2&mode=m")
    assert answer.headers.get("X-Request-Nonce") is None
    assert answer.json == {"startIndex": 1, "endIndex": 2}


def test_the_answer_for_no_ids_proves_itself_as_well(app: Bottle) -> None:
    """range=0 is answered without an allocation, and still for one request only."""
    answer = call(app, "GET", "/getid?range=0&mode=m&nonce=zero")
    assert answer.json == {"startIndex": -1, "endIndex": -3, "nonce": "zero"}
    assert answer.headers.get("X-Request-Nonce") == "zero"


@pytest.mark.parametrize(
    ("target", "body", "headers"),
    [
        ("?nonce=", b"", {}),
        ("?nonce", b"", {}),
        ("?nonce=" + "n" * 129, b"", {}),
        ("?nonce=a%0D%0ASet-Cookie:%20x", b"", {}),
        ("?nonce=a%00", b"", {}),
        ("?nonce=a%7F", b"", {}),
        ("?nonce=%C3%A9", b"", {}),
        ("?nonce=a&nonce=a", b"", {}),
        ("?nonce=a&nonce=b", b"", {}),
        ("?nonce=a", b"nonce=a", {}),
        ("?nonce=a", b"", {"X-Request-Nonce": "b"}),
        ("", b"nonce=%80", {}),
        ("", b"", {"X-Request-Nonce": ""}),
        ("", b"", {"X-Request-Nonce": "n" * 129}),
        ("", b"", {"X-Request-Nonce": "\xe9"}),
    ],
)
def test_a_bad_nonce_is_refused_and_nothing_is_allocated(
    app: Bottle, allocator: FakeAllocator, target: str, body: bytes, headers: dict[str, str]
) -> None:
    """A nonce that could not come back as it was sent proves nothing."""
    query = f"{target or '?'}&range=1&mode=m"
    answer = call(app, "POST" if body else "GET", "/getid" + query, body, headers)
    document = answer.json
    assert answer.status == 400
    assert document["type"] == "bad-nonce"
    assert document["errors"][0]["parameter"] == "nonce"
    assert document["detail"].startswith("nonce is '")
    assert "1 to 128 printable ASCII characters" in document["detail"]
    assert allocator.next_id == 1


@pytest.mark.parametrize("nonce", ["n", "n" * 128, "%20%7e!%2B%26%25"])
def test_every_printable_nonce_is_taken(app: Bottle, nonce: str) -> None:
    """From 1 to 128 characters, whatever they are."""
    assert call(app, "GET", f"/getid?range=1&mode=m&nonce={nonce}").status == 200


def test_all_that_is_wrong_is_said_at_once_with_the_good_nonce(app: Bottle) -> None:
    """An error proves itself too, or a kept error would go unnoticed."""
    answer = call(app, "GET", "/getid?range=x&nonce=good")
    assert answer.status == 400
    assert answer.headers.get("X-Request-Nonce") == "good"
    assert [fault["parameter"] for fault in answer.json["errors"]] == ["range", "mode"]


def test_an_error_of_the_database_proves_itself(app: Bottle, allocator: FakeAllocator) -> None:
    """Also with the nonce in the query, which Bottle has not seen before the handler."""
    allocator.error = errors.DatabaseUnavailable("gone")
    answer = call(app, "GET", "/getid?range=1&mode=m&nonce=mine")
    assert answer.status == 503
    assert answer.headers.get("X-Request-Nonce") == "mine"
