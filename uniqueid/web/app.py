"""The WSGI application: the table of routes, and what every request passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from bottle import Bottle, HTTPError, HTTPResponse, request

from uniqueid.logs import AccessLog
from uniqueid.monitoring.health import Checks
from uniqueid.monitoring.metrics import Metrics
from uniqueid.web import getid, pages
from uniqueid.web.auth import Tokens
from uniqueid.web.caching import NoStore
from uniqueid.web.fast_route import FastRoute
from uniqueid.web.getid import Allocating, GetID, RetentionPolicy
from uniqueid.web.parameters import Limits
from uniqueid.web.problems import (
    JSON,
    WSGI,
    Environ,
    ErrorBoundary,
    Handler,
    ProblemResponse,
    StartResponse,
    http_problem,
    problem_of,
)
from uniqueid.web.request_target import RequestTarget
from uniqueid.web.status import Status


@dataclass(frozen=True)
class Route:
    """One line of the table of routes."""

    path: str
    methods: tuple[str, ...]
    handler: Handler
    tokens: Tokens | None = None
    """One of these is needed; None for no token."""
    label: str = ""
    """In the metrics, in place of the path."""


class Endpoint:
    """A route's handler with what all routes have: token, log line, metrics, errors as problems.

    It raises nothing.
    """

    def __init__(self, route: Route, metrics: Metrics, access_log: AccessLog | None) -> None:
        self._handler = route.handler
        self._tokens = route.tokens
        self.count = metrics.route(route.label or route.path).answered
        self._rejected = metrics.refused if route.path == getid.PATH else None
        self._access_log = access_log

    def __call__(self, environ: Environ) -> HTTPResponse | str:
        """Respond to a request."""
        since = perf_counter()
        fields = None
        if self._access_log is not None:
            fields = self._access_log.begin(environ)
            if fields is not None:
                environ[getid.FIELDS_KEY] = fields
        try:
            if self._tokens is not None:
                name = self._tokens.require(environ)
                environ[getid.CALLER_KEY] = name
                if fields is not None:
                    fields["token"] = name
            response = self._handler(environ)
        except ProblemResponse as problem:
            response = problem
        except Exception as error:
            response = problem_of(error)
        status = 200 if isinstance(response, str) else response.status_code
        if self._rejected is not None and isinstance(response, ProblemResponse):
            self._rejected.labels(response.label).inc()
        seconds = perf_counter() - since
        self.count(status, seconds)
        if self._access_log is not None and fields is not None:
            if isinstance(response, ProblemResponse):
                fields["type"] = response.problem_type
            self._access_log.end(fields, status, seconds)
        return response


class Application(Bottle):  # type: ignore[misc]
    """Bottle with the routes of a table; every request passes the middleware first."""

    def __init__(
        self, routes: Iterable[Route], metrics: Metrics, access_log: AccessLog | None
    ) -> None:
        super().__init__()
        # What Bottle cannot answer is for the error boundary, not for Bottle's page in HTML.
        self.catchall = False
        self._unrouted = metrics.route("other")
        inner: WSGI = self.dispatch
        for route in routes:
            endpoint = Endpoint(route, metrics, access_log)
            self._add(route, endpoint)
            if route.path == getid.PATH:
                inner = FastRoute(self, route.path, endpoint)
        self._entry = NoStore(ErrorBoundary(RequestTarget(inner), self._count_unrouted))

    def wsgi(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        return self._entry(environ, start_response)

    def dispatch(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Have Bottle find the route."""
        result: Iterable[bytes] = super().wsgi(environ, start_response)
        return result

    def _count_unrouted(self, status: int) -> None:
        self._unrouted.answered(status, 0)

    def _add(self, route: Route, endpoint: Endpoint) -> None:
        def respond() -> HTTPResponse:
            response = endpoint(request.environ)
            return HTTPResponse(response, 200, JSON) if isinstance(response, str) else response

        def reject() -> HTTPResponse:
            endpoint.count(405, 0)
            allowed = ", ".join(route.methods)
            detail = f"{request.method} is not allowed here; allowed are {allowed}"
            return http_problem(405, "Method Not Allowed", detail, {"Allow": allowed})

        self.route(route.path, "ANY", reject)
        if "HEAD" not in route.methods:
            # Bottle runs GET's handler for a HEAD that has none of its own.
            self.route(route.path, "HEAD", reject)
        for method in route.methods:
            self.route(route.path, method, respond)

    def default_error_handler(self, error: HTTPError) -> HTTPResponse:
        """What Bottle rejects: an unknown path, a method, a body it cannot read."""
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        detail = {
            404: f"there is nothing at {request.path}",
            405: f"{request.method} is not allowed here",
        }.get(error.status_code, str(error.body))
        self._count_unrouted(error.status_code)
        title = error.status_line.partition(" ")[2]
        return http_problem(error.status_code, title, detail, headers)


def make_app(
    allocator: Allocating,
    limits: Limits,
    *,
    checks: Checks | None = None,
    metrics: Metrics | None = None,
    access_log: AccessLog | None = None,
    tokens: Tokens | None = None,
    status_tokens: Tokens | None = None,
    status: Status | None = None,
    description: Mapping[str, Any] | None = None,
    retention: RetentionPolicy | None = None,
    send_interim: Callable[[bytes], object] | None = None,
) -> Application:
    """The WSGI application.

    :param allocator: allocates the ranges.
    :param limits: what a request may ask for.
    :param checks: what `/readyz` asks, by name.
    :param metrics: where requests are counted, and what `/metrics` shows.
    :param access_log: where requests are logged.
    :param tokens: one of these is needed for IDs.
    :param status_tokens: one of these is needed for what is told about the service.
    :param status: the status page; None for none.
    :param description: the document of `/openapi.json`; None for none.
    :param retention: which requests are recorded, and for how long.
    :param send_interim: sends an interim response, where the server does not.
    """
    metrics = metrics or Metrics()
    handler = GetID(allocator, limits, retention or RetentionPolicy(), send_interim)

    def routes() -> Iterator[Route]:
        get = ("GET", "HEAD")
        ready = pages.readyz(checks or {}, status_tokens)
        yield Route("/", get, pages.root(status))
        yield Route(getid.PATH, ("GET", "POST"), handler, tokens)
        yield Route("/livez", get, pages.livez)
        yield Route("/readyz", get, ready)
        yield Route("/healthz", get, ready)
        yield Route("/metrics", get, pages.metrics_page(metrics), status_tokens)
        if status is not None:
            yield Route("/status.json", get, pages.status_document(status), status_tokens)
            for path, file in pages.files().items():
                yield Route(path, get, file, label="assets")
        if description is not None:
            yield Route("/openapi.json", get, pages.openapi_document(description))

    return Application(routes(), metrics, access_log)
