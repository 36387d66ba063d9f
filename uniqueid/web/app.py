"""HTTP and nothing else: from a request to the allocator and back."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from bottle import Bottle, HTTPError, HTTPResponse, request

from uniqueid import errors
from uniqueid.logs import REQUEST_ID, AccessLog, request_id, sent_request_id
from uniqueid.model import Allocation, AllocationRecord, now
from uniqueid.monitoring.health import Checks
from uniqueid.monitoring.metrics import CONTENT_TYPE, Metrics
from uniqueid.web import openapi
from uniqueid.web import parameters as validation
from uniqueid.web.auth import Tokens
from uniqueid.web.status import FILES, HEADERS, Status, prefers_html, read

log = logging.getLogger(__name__)

MAX_TARGET = 8192
"""Bytes of path and query. A mode of 255 characters has at most 3,060 when percent-encoded."""
MAX_BODY = 8192
"""Bytes of a form."""

NEVER_CACHED = (
    # RFC 9111, 5.2.2; no directive here lets a cache use an answer twice.
    ("Cache-Control", "no-store, no-cache, private, max-age=0"),
    ("Pragma", "no-cache"),
    # In the past: what ignores Cache-Control may heed this.
    ("Expires", "Thu, 01 Jan 1970 00:00:01 GMT"),
    # Matches no later request (RFC 9110, 12.5.5).
    ("Vary", "*"),
    # For content delivery networks (W3C Edge Architecture; RFC 9213).
    ("Surrogate-Control", "no-store"),
    ("CDN-Cache-Control", "no-store"),
    # For nginx, which these two keep from storing even when it is told to ignore all the others.
    ("X-Accel-Expires", "0"),
    ("X-Accel-Buffering", "no"),
)
"""On every response of every route, errors included: an answer that a cache repeats is an ID
handed out twice."""
NONCE = "X-Request-Nonce"
"""The header in which a client sends a nonce, and in which every answer to it has it back."""
_NONCE_HEADER = "HTTP_X_REQUEST_NONCE"
KEY = "Idempotency-Key"
"""The header with what stands for a request, however often it is sent
(draft-ietf-httpapi-idempotency-key-header-07)."""
_KEY_HEADER = "HTTP_IDEMPOTENCY_KEY"
REPLAYED = "Idempotency-Replayed"
"""The header of an answer that was given before."""
# Where the name of a request's token waits for its handler.
_CALLER_KEY = "uniqueid.caller"
# Where the nonce of a request waits for its response.
_NONCE_KEY = "uniqueid.nonce"
# Where the facts for a request's log line are collected.
_FACTS_KEY = "uniqueid.facts"
# What a handler or plug-in may say of these does not count; a validator would let a cache ask
# whether its copy is still good.
_NOT_FROM_HANDLERS = frozenset(
    {"etag", "last-modified", "age", NONCE.lower(), *(name.lower() for name, _ in NEVER_CACHED)}
)

_JSON = {"Content-Type": "application/json"}
# With nginx in front, and its uwsgi_pass, this is the client's.
_PROTOCOLS = frozenset({"HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/2", "HTTP/3.0", "HTTP/3"})
# Of a request target in absolute-form (RFC 9112, 3.2.2).
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

StartResponse = Callable[..., Any]
Environ = dict[str, Any]
Handler = Callable[[Environ], HTTPResponse | str]
"""From a request to its answer; a text is JSON, with status 200."""


class Allocating(Protocol):
    """The part of the allocator which a request needs."""

    def allocate(
        self,
        mode: str,
        count: int,
        record: AllocationRecord | None = None,
    ) -> Allocation: ...


@dataclass(frozen=True)
class Keeping:
    """For how long the journal keeps its rows, and of which requests it has one."""

    idempotency_ttl: float = 604_800
    """Seconds for which a key counts."""
    journal: bool = False
    """Whether every request is recorded, or only those with a key."""
    journal_ttl: float = 7_776_000
    """Seconds for which the others are kept."""

    def record(
        self, environ: Mapping[str, Any], asked: validation.Request, id: str | None
    ) -> AllocationRecord:
        """What the journal is to know of a request.

        :param id: the request's in the log, where it has one.
        """
        name = environ.get("HTTP_X_CLIENT") or environ.get("HTTP_USER_AGENT") or ""
        seconds = self.journal_ttl if self.journal else 0.0
        if asked.key is not None:
            seconds = max(seconds, self.idempotency_ttl)
        at = now()
        return AllocationRecord(
            asked.mode,
            asked.count,
            asked.key,
            environ.get(_CALLER_KEY, ""),
            validation.client_name(name),
            id or request_id(environ),
            at,
            at + int(seconds * 1_000_000),
        )


# Error class to status, problem type, title and seconds after which to try again.
_PROBLEMS: dict[type[errors.UniqueIDError], tuple[int, str, str, int | None]] = {
    errors.CounterExhausted: (409, "counter-exhausted", "The counter is exhausted", None),
    errors.TooManyModes: (409, "too-many-modes", "No more modes can be created", None),
    errors.ModeNotStorable: (400, "bad-mode", "The mode cannot be used", None),
    errors.KeyReused: (422, "idempotency-key-reused", "The key is another request's", None),
    errors.KeyInFlight: (409, "idempotency-key-in-flight", "The key has no answer yet", 1),
    errors.JournalMissing: (501, "journal-missing", "The database has no journal yet", None),
    errors.CounterRegressed: (503, "counter-regressed", "A counter went back", 30),
    errors.Overloaded: (503, "overloaded", "Too many requests are waiting", 1),
    errors.Closing: (503, "overloaded", "The service is stopping", 1),
    errors.DatabaseUnavailable: (503, "database-unavailable", "The database is not available", 2),
    errors.UnsafeSession: (503, "database-unavailable", "The database is not available", 2),
    errors.FenceUnavailable: (503, "fence-unavailable", "The fence file cannot be written", 2),
    errors.FenceDamaged: (503, "fence-damaged", "The fence file is missing or damaged", 30),
}
_FAULT_TITLES = {
    "bad-range": "The range cannot be used",
    "bad-mode": "The mode cannot be used",
    "bad-nonce": "The nonce cannot be used",
    "bad-idempotency-key": "The key cannot be used",
}


def problem(
    status: int, type: str, title: str, detail: str, headers: Mapping[str, str], **more: object
) -> HTTPResponse:
    """An error as RFC 9457 has it, with the old service's two keys in it."""
    document = {
        "type": type,
        "title": title,
        "status": status,
        "detail": detail,
        # The old service's name for the detail.
        "message": detail,
        **more,
    }
    response = HTTPResponse(
        json.dumps(document),
        status,
        {**headers, "Content-Type": "application/problem+json"},
    )
    response.problem_type = type
    return response


def _type_of(response: HTTPResponse) -> str:
    """The type of a problem, or its status where the type says nothing."""
    type: str = getattr(response, "problem_type", "about:blank")
    return str(response.status_code) if type == "about:blank" else type


class _Application(Bottle):  # type: ignore[misc]
    """Bottle, with what must hold for every response in the one place that all of them pass."""

    count_unrouted: Callable[[int], None] | None = None
    """Told the status of what no route has answered."""
    direct: tuple[str, Handler] | None = None
    """The path whose GET is answered without Bottle's dispatch, and its handler. To find a handler
    and to make a response of its text takes Bottle longer than the handler itself takes."""

    send_interim: Callable[[bytes], object] | None = None
    """Sends an interim response (RFC 9110, 15.2), where the server does not."""

    def add_hook(self, name: str, func: Callable[..., object]) -> None:
        """Add a hook, which every request is to pass."""
        self.__dict__.pop("direct", None)
        super().add_hook(name, func)

    def install(self, plugin: Any) -> Any:
        """Install a plug-in, which every request is to pass."""
        self.__dict__.pop("direct", None)
        return super().install(plugin)

    def wsgi(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        def start_uncached(
            status: str, headers: list[tuple[str, str]], _exc_info: object = None
        ) -> Any:
            kept = [pair for pair in headers if pair[0].lower() not in _NOT_FROM_HANDLERS]
            nonce = environ.get(_NONCE_KEY)
            if nonce is not None:
                kept.append((NONCE, nonce))
            if REQUEST_ID in environ and (sent := sent_request_id(environ)) is not None:
                kept.append(("X-Request-ID", sent))
            # No exc_info: uWSGI turns an answer that has one into an empty 500.
            return start_response(status, [*kept, *NEVER_CACHED])

        nonce = environ.get(_NONCE_HEADER)
        if nonce is not None and validation.is_nonce(nonce):
            environ[_NONCE_KEY] = nonce
        try:
            self._normalise(environ)
            direct = self.direct
            if (
                direct is None
                or environ["PATH_INFO"] != direct[0]
                or environ["REQUEST_METHOD"] != "GET"
            ):
                result: Iterable[bytes] = super().wsgi(environ, start_uncached)
                return result
            answer = direct[1](environ)
        except Exception as error:
            answer = error if isinstance(error, HTTPResponse) else _unexpected(error)
            if self.count_unrouted is not None:
                self.count_unrouted(answer.status_code)
        if isinstance(answer, str):
            body = answer.encode()
            start_uncached("200 OK", [*_JSON.items(), ("Content-Length", str(len(body)))])
        else:
            body = answer.body.encode()
            answer.set_header("Content-Length", len(body))
            start_uncached(answer.status_line, answer.headerlist)
        return [body]

    @staticmethod
    def _normalise(environ: Environ) -> None:
        """Refuse what is no request, and bring the path to the one form that has a route."""
        path = environ.get("PATH_INFO", "")
        if environ.get("SERVER_PROTOCOL", "HTTP/1.1") not in _PROTOCOLS:
            # uWSGI ends the target at the first blank, and takes what follows for the protocol.
            raise problem(400, "about:blank", "Bad Request", "the target has a blank in it", {})
        if (origin := _ORIGIN.match(path)) is not None:
            path = environ["PATH_INFO"] = path[origin.end() :] or "/"
        if not environ.get("REQUEST_METHOD") or not path.startswith("/"):
            raise problem(400, "about:blank", "Bad Request", "this is no HTTP request", {})
        try:
            if not path.isascii():
                path.encode("latin-1").decode("utf-8")
        except UnicodeError:
            # Bottle drops such bytes, and would answer for the path that is left.
            raise problem(404, "about:blank", "Not Found", "the path is not UTF-8", {}) from None
        if path != "/" and (path.startswith("//") or path.endswith("/")):
            # Consumers are configured with a URL that may end in a slash, and add their own.
            environ["PATH_INFO"] = "/" + path.strip("/")

    def default_error_handler(self, error: HTTPError) -> HTTPResponse:
        """What Bottle refuses: an unknown path, a method, a body it cannot read."""
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        detail = {
            404: f"there is nothing at {request.path}",
            405: f"{request.method} is not allowed here",
        }.get(error.status_code, str(error.body))
        if self.count_unrouted is not None:
            self.count_unrouted(error.status_code)
        return problem(
            error.status_code,
            "about:blank",
            error.status_line.partition(" ")[2],
            detail,
            headers,
        )


def make_app(
    allocator: Allocating,
    limits: validation.Limits,
    *,
    checks: Checks | None = None,
    metrics: Metrics | None = None,
    access_log: AccessLog | None = None,
    tokens: Tokens | None = None,
    status_tokens: Tokens | None = None,
    status: Status | None = None,
    description: Mapping[str, Any] | None = None,
    keeping: Keeping | None = None,
) -> Bottle:
    """The WSGI application.

    :param allocator: hands out the ranges.
    :param limits: what a request may ask for.
    :param checks: what `/readyz` asks, by name.
    :param metrics: where requests are counted, and what `/metrics` shows.
    :param access_log: where requests are written down.
    :param tokens: one of these is needed for IDs.
    :param status_tokens: one of these is needed for what is told about the service.
    :param status: the status page; None for none.
    :param description: what `/openapi.json` answers.
    :param keeping: which requests are recorded, and for how long.
    """
    kept = keeping or Keeping()
    # What a handler raises comes to _Application.wsgi, not to Bottle's page in HTML.
    app = _Application()
    app.catchall = False
    if metrics is None:
        metrics = Metrics()
    count_unrouted = metrics.route("other").answered
    app.count_unrouted = lambda status: count_unrouted(status, 0)

    def route(
        path: str,
        *methods: str,
        tokens: Tokens | None = None,
        direct: bool = False,
        label: str | None = None,
    ) -> Callable[[Handler], None]:
        count = metrics.route(label or path).answered

        def add(handler: Handler) -> None:
            def guarded(environ: Environ) -> HTTPResponse | str:
                since = perf_counter()
                facts = None
                if access_log is not None:
                    facts = access_log.begin(environ)
                    if facts is not None:
                        environ[_FACTS_KEY] = facts
                try:
                    if tokens is not None:
                        name = tokens.require(environ)
                        environ[_CALLER_KEY] = name
                        if facts is not None:
                            facts["token"] = name
                    answer = handler(environ)
                except HTTPResponse as refused:
                    answer = refused
                except Exception as error:
                    answer = _response_to(error)
                status = 200 if isinstance(answer, str) else answer.status_code
                if status >= 400 and path == "/getid":
                    metrics.refused.labels(_type_of(answer)).inc()
                seconds = perf_counter() - since
                count(status, seconds)
                if access_log is not None and facts is not None:
                    if hasattr(answer, "problem_type"):
                        facts["type"] = answer.problem_type
                    access_log.end(facts, status, seconds)
                return answer

            def routed() -> HTTPResponse:
                answer = guarded(request.environ)
                return HTTPResponse(answer, 200, _JSON) if isinstance(answer, str) else answer

            def refuse() -> HTTPResponse:
                count(405, 0)
                detail = f"{request.method} is not allowed here; allowed are {', '.join(methods)}"
                allow = {"Allow": ", ".join(methods)}
                return problem(405, "about:blank", "Method Not Allowed", detail, allow)

            app.route(path, "ANY", refuse)
            if "HEAD" not in methods:
                # Bottle runs GET's handler for a HEAD that has none of its own.
                app.route(path, "HEAD", refuse)
            for method in methods:
                app.route(path, method, routed)
            if direct:
                app.direct = path, guarded

        return add

    @route("/", "GET", "HEAD")
    def root(environ: Environ) -> HTTPResponse:
        if status is not None and prefers_html(environ.get("HTTP_ACCEPT", "")):
            return _page(read("status.html"), "text/html; charset=utf-8")
        return _json({"message": "Pacifica UniqueID Up and Running"})

    @route("/getid", "GET", "POST", tokens=tokens, direct=True)
    def getid(environ: Environ) -> HTTPResponse | str:
        query = environ.get("QUERY_STRING", "")
        if len(query) > MAX_TARGET:
            detail = f"the query has {len(query)} bytes; at most {MAX_TARGET} are read"
            return problem(414, "about:blank", "URI Too Long", detail, {})
        form = _form(environ, app.send_interim) if environ["REQUEST_METHOD"] == "POST" else ""
        try:
            asked = validation.parse(
                limits, query, form, environ.get(_NONCE_HEADER), environ.get(_KEY_HEADER)
            )
        except errors.InvalidRequest as error:
            if error.nonce is not None:
                environ[_NONCE_KEY] = error.nonce
            raise
        if asked.nonce is not None:
            # Before the allocation: an error has to be known for this request's own as well.
            environ[_NONCE_KEY] = asked.nonce
        replayed = False
        if asked.count == 0:
            # The answer of the old service, which Ingest expects for a bundle without files.
            first, last = -1, -3
        else:
            facts = environ.get(_FACTS_KEY)
            if facts is not None:
                facts["mode"], facts["range"] = asked.mode, asked.count
            record = None
            if kept.journal or asked.key is not None:
                record = kept.record(environ, asked, None if facts is None else str(facts["id"]))
            first, batch, replayed = allocator.allocate(asked.mode, asked.count, record)
            if facts is not None:
                facts["batch"] = batch
                if replayed:
                    facts["replayed"] = "true"
                facts["start"] = first
            last = first + asked.count - 1
        # A text costs a third of json.dumps.
        nonce = f', "nonce": {json.dumps(asked.nonce)}' if asked.nonce_in_query else ""
        text = f'{{"startIndex": {first}, "endIndex": {last}{nonce}}}'
        return HTTPResponse(text, 200, {**_JSON, REPLAYED: "true"}) if replayed else text

    @route("/livez", "GET", "HEAD")
    def livez(_environ: Environ) -> HTTPResponse:
        return _json({"status": "ok"})

    def readyz(environ: Environ) -> HTTPResponse:
        found = {name: check() for name, check in (checks or {}).items()}
        wrong = {name: reason for name, reason in found.items() if reason is not None}
        if wrong and status_tokens is not None:
            # A probe has no token, and need not know hosts and users.
            try:
                status_tokens.require(environ)
            except errors.Unauthorized:
                found |= dict.fromkeys(wrong, "failed")
        document = {
            "status": "unavailable" if wrong else "ok",
            "checks": {name: reason or "ok" for name, reason in found.items()},
        }
        return _json(document, 503 if wrong else 200)

    route("/readyz", "GET", "HEAD")(readyz)
    route("/healthz", "GET", "HEAD")(readyz)

    @route("/metrics", "GET", "HEAD", tokens=status_tokens)
    def show_metrics(_environ: Environ) -> HTTPResponse:
        return HTTPResponse(metrics.render(), 200, {"Content-Type": CONTENT_TYPE})

    if status is not None:

        @route("/status.json", "GET", "HEAD", tokens=status_tokens)
        def show_status(_environ: Environ) -> HTTPResponse:
            return _json(status.document())

        for path, (name, kind) in FILES.items():
            route(path, "GET", "HEAD", label="assets")(partial(_page, read(name), kind))

    if description is not None:
        described = json.dumps(description)

        @route("/openapi.json", "GET", "HEAD")
        def openapi_document(_environ: Environ) -> HTTPResponse:
            return HTTPResponse(described, 200, _JSON)

        @route("/docs", "GET", "HEAD")
        def docs(_environ: Environ) -> HTTPResponse:
            if openapi.asset("swagger-ui-bundle.js") is None:
                detail = "to read /openapi.json here: pip install 'pacifica-uniqueid[docs]'"
                raise problem(404, "about:blank", "Not Found", detail, {})
            return _page(read("docs.html"), "text/html; charset=utf-8")

        route("/docs/docs.js", "GET", "HEAD", label="assets")(
            partial(_page, read("docs.js"), "text/javascript; charset=utf-8")
        )
        for path, (name, kind) in openapi.ASSETS.items():
            route(path, "GET", "HEAD", label="assets")(partial(_asset, name, kind))

    return app


def _page(content: bytes, kind: str, _environ: Environ | None = None) -> HTTPResponse:
    return HTTPResponse(content, 200, {**HEADERS, "Content-Type": kind})


def _asset(name: str, kind: str, _environ: Environ) -> HTTPResponse:
    content = openapi.asset(name)
    if content is None:
        detail = "the extra docs is not installed"
        raise problem(404, "about:blank", "Not Found", detail, {})
    return _page(content, kind)


def _json(document: object, status: int = 200) -> HTTPResponse:
    return HTTPResponse(json.dumps(document), status, _JSON)


def _form(environ: Mapping[str, Any], send_interim: Callable[[bytes], object] | None) -> str:
    """The body of a POST, as a WSGI string; empty when there is none."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        detail = "a body must come with a Content-Length"
        raise problem(411, "about:blank", "Length Required", detail, {})
    length = environ.get("CONTENT_LENGTH") or "0"
    if not (length.isascii() and length.isdigit()):
        detail = f"Content-Length is {length!r}: give the number of bytes"
        raise problem(400, "about:blank", "Bad Request", detail, {})
    if len(length) > 10 or int(length) > MAX_BODY:
        detail = f"the body has {length} bytes; at most {MAX_BODY} are read"
        raise problem(413, "about:blank", "Content Too Large", detail, {})
    if int(length) == 0:
        return ""
    content_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        detail = (
            f"Content-Type is {content_type!r}: send the parameters in the query, or as"
            " application/x-www-form-urlencoded"
        )
        raise problem(415, "about:blank", "Unsupported Media Type", detail, {})
    if send_interim is not None and environ.get("HTTP_EXPECT", "").lower() == "100-continue":
        send_interim(_CONTINUE)
    try:
        body: bytes = environ["wsgi.input"].read(int(length))
    except OSError:
        # uWSGI's words for a client that sent nothing for socket-timeout, or has gone.
        detail = f"the {length} bytes of the body did not arrive in time"
        raise problem(408, "about:blank", "Request Timeout", detail, {}) from None
    if len(body) < int(length):
        detail = f"the body has {len(body)} bytes, and Content-Length says {length}"
        raise problem(400, "about:blank", "Bad Request", detail, {})
    return body.decode("latin-1")


def _response_to(error: Exception) -> HTTPResponse:
    """The one place where an error becomes an answer."""
    if isinstance(error, errors.InvalidRequest):
        faults = [
            {"parameter": fault.parameter, "value": fault.value, "allowed": fault.allowed}
            for fault in error.faults
        ]
        type = error.faults[0].type
        return problem(400, type, _FAULT_TITLES[type], str(error), {}, errors=faults)
    if isinstance(error, errors.Unauthorized):
        headers = {"WWW-Authenticate": error.challenge}
        return problem(401, "unauthorized", "A token is needed", str(error), headers)
    known = _PROBLEMS.get(error.__class__) if isinstance(error, errors.UniqueIDError) else None
    if known is None:
        return _unexpected(error)
    status, type, title, retry_after = known
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    detail = str(error)
    if isinstance(error, errors.Unavailable):
        # Why is for the log: a driver's words name hosts and users.
        detail = error.public
    return problem(status, type, title, detail, headers)


def _unexpected(error: BaseException) -> HTTPResponse:
    if not isinstance(error, errors.Unexpected):
        cause, error = error, errors.Unexpected(uuid.uuid4().hex)
        log.error("unexpected error, reference %s", error.reference, exc_info=cause)
    facts = {"reference": error.reference}
    return problem(500, "about:blank", "Internal Server Error", str(error), {}, **facts)
