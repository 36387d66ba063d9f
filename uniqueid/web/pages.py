"""All routes but `/getid`: the service's name or status page, probes, metrics, the description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from bottle import HTTPResponse

from uniqueid import errors
from uniqueid.monitoring.health import Checks
from uniqueid.monitoring.metrics import CONTENT_TYPE, Metrics
from uniqueid.web.auth import Tokens
from uniqueid.web.problems import JSON, Environ, Handler
from uniqueid.web.status import FILES, HEADERS, Status, prefers_html, read


def json_response(document: object, status: int = 200) -> HTTPResponse:
    """A document as JSON."""
    return HTTPResponse(json.dumps(document), status, JSON)


def root(status: Status | None) -> Handler:
    """The service's name, as the legacy service; its status page for a browser.

    :param status: None without a status page.
    """
    page = None if status is None else file("status.html", "text/html; charset=utf-8")

    def handle(environ: Environ) -> HTTPResponse | str:
        if page is not None and prefers_html(environ.get("HTTP_ACCEPT", "")):
            return page(environ)
        return json_response({"message": "Pacifica UniqueID Up and Running"})

    return handle


def file(name: str, content_type: str) -> Handler:
    """A file of the status page."""
    return partial(_file, read(name), content_type)


def _file(content: bytes, content_type: str, _environ: Environ) -> HTTPResponse:
    return HTTPResponse(content, 200, {**HEADERS, "Content-Type": content_type})


def files() -> Mapping[str, Handler]:
    """Path to handler of the files that the status page loads."""
    return {path: file(*named) for path, named in FILES.items()}


def livez(_environ: Environ) -> HTTPResponse:
    """The process responds."""
    return json_response({"status": "ok"})


def readyz(checks: Checks, status_tokens: Tokens | None) -> Handler:
    """Whether a request for IDs would be served, and each check with what is wrong."""

    def handle(environ: Environ) -> HTTPResponse:
        results = {name: check() for name, check in checks.items()}
        failed = {name: reason for name, reason in results.items() if reason is not None}
        if failed and status_tokens is not None:
            # A probe has no token, and must not learn hosts and users.
            try:
                status_tokens.require(environ)
            except errors.Unauthorized:
                results |= dict.fromkeys(failed, "failed")
        document = {
            "status": "unavailable" if failed else "ok",
            "checks": {name: reason or "ok" for name, reason in results.items()},
        }
        return json_response(document, 503 if failed else 200)

    return handle


def metrics_page(metrics: Metrics) -> Handler:
    """Prometheus' metrics."""

    def handle(_environ: Environ) -> HTTPResponse:
        return HTTPResponse(metrics.render(), 200, {"Content-Type": CONTENT_TYPE})

    return handle


def status_document(status: Status) -> Handler:
    """The data of the status page."""
    return lambda _environ: json_response(status.document())


def openapi_document(description: Mapping[str, Any]) -> Handler:
    """The description of the API."""
    text = json.dumps(description)
    return lambda _environ: text
