"""Errors as HTTP: every problem document (RFC 9457) is made here."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bottle import HTTPResponse

from uniqueid import errors

log = logging.getLogger(__name__)

JSON = {"Content-Type": "application/json"}
_JSON_TYPE = ("Content-Type", "application/json")

StartResponse = Callable[..., Any]
Environ = dict[str, Any]
WSGI = Callable[[Environ, StartResponse], Iterable[bytes]]
Handler = Callable[[Environ], HTTPResponse | str]
"""From a request to its response; a text is JSON, with status 200."""

# Error class to status, problem type, title and seconds after which to try again.
_PROBLEMS: dict[type[errors.UniqueIDError], tuple[int, str, str, int | None]] = {
    errors.CounterExhausted: (409, "counter-exhausted", "The counter is exhausted", None),
    errors.TooManyModes: (409, "too-many-modes", "No more modes can be created", None),
    errors.ModeNotStorable: (400, "bad-mode", "The mode cannot be used", None),
    errors.KeyReused: (422, "idempotency-key-reused", "The key is another request's", None),
    errors.KeyInFlight: (409, "idempotency-key-in-flight", "The key has no answer yet", 1),
    errors.JournalMissing: (501, "journal-missing", "The database has no journal yet", None),
    errors.CounterRegressed: (503, "counter-regressed", "A counter has regressed", 30),
    errors.Overloaded: (503, "overloaded", "Too many requests are waiting", 1),
    errors.Closing: (503, "overloaded", "The service is stopping", 1),
    errors.DatabaseUnavailable: (503, "database-unavailable", "The database is not available", 2),
    errors.UnsafeSession: (503, "database-unavailable", "The database is not available", 2),
    errors.FenceUnavailable: (503, "fence-unavailable", "The fence file cannot be written", 2),
    errors.FenceDamaged: (503, "fence-damaged", "The fence file is missing or damaged", 30),
}
_PARAMETER_TITLES = {
    "bad-range": "The range cannot be used",
    "bad-mode": "The mode cannot be used",
    "bad-nonce": "The nonce cannot be used",
    "bad-idempotency-key": "The key cannot be used",
}


class ProblemResponse(HTTPResponse):  # type: ignore[misc]
    """An error as RFC 9457 has it, with the legacy service's two keys in it.

    :param type: of the problem; `about:blank` says no more than the status.
    :param fields: further members of the document.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> None:
        document = {
            "type": type,
            "title": title,
            "status": status,
            "detail": detail,
            # The legacy service's name for the detail.
            "message": detail,
            **fields,
        }
        headers = {**(headers or {}), "Content-Type": "application/problem+json"}
        super().__init__(json.dumps(document), status, headers)
        self.problem_type = type

    @property
    def label(self) -> str:
        """Its type for metrics, or its status where the type says nothing."""
        return str(self.status_code) if self.problem_type == "about:blank" else self.problem_type


def http_problem(
    status: int, title: str, detail: str, headers: Mapping[str, str] | None = None
) -> ProblemResponse:
    """A problem that is the status and no more."""
    return ProblemResponse(status, "about:blank", title, detail, headers)


def problem_of(error: Exception) -> ProblemResponse:
    """The response to an error of the service, or to an unexpected one, which is logged."""
    if isinstance(error, errors.InvalidRequest):
        faults = [
            {"parameter": fault.parameter, "value": fault.value, "allowed": fault.allowed}
            for fault in error.faults
        ]
        type = error.faults[0].type
        return ProblemResponse(400, type, _PARAMETER_TITLES[type], str(error), errors=faults)
    if isinstance(error, errors.Unauthorized):
        headers = {"WWW-Authenticate": error.challenge}
        return ProblemResponse(401, "unauthorized", "A token is needed", str(error), headers)
    known = _PROBLEMS.get(error.__class__) if isinstance(error, errors.UniqueIDError) else None
    if known is None:
        return _unexpected(error)
    status, type, title, retry_after = known
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    # A driver's words name hosts and users: they are for the log alone.
    detail = error.public if isinstance(error, errors.Unavailable) else str(error)
    return ProblemResponse(status, type, title, detail, headers)


def _unexpected(error: Exception) -> ProblemResponse:
    if isinstance(error, errors.Unexpected):
        unexpected = error
    else:
        unexpected = errors.Unexpected(uuid.uuid4().hex)
        log.error("unexpected error, reference %s", unexpected.reference, exc_info=error)
    return ProblemResponse(
        500,
        "about:blank",
        "Internal Server Error",
        str(unexpected),
        reference=unexpected.reference,
    )


def respond(response: HTTPResponse | str, start_response: StartResponse) -> list[bytes]:
    """Start a response and return its body."""
    if isinstance(response, str):
        body = response.encode()
        start_response("200 OK", [_JSON_TYPE, ("Content-Length", str(len(body)))])
    else:
        body = response.body.encode()
        response.set_header("Content-Length", len(body))
        start_response(response.status_line, response.headerlist)
    return [body]


class ErrorBoundary:
    """WSGI middleware: an error that nothing inside has answered becomes a problem.

    :param count: is called with the status of such a response.
    """

    def __init__(self, app: WSGI, count: Callable[[int], None]) -> None:
        self._app = app
        self._count = count

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        try:
            return self._app(environ, start_response)
        except Exception as error:
            response = error if isinstance(error, ProblemResponse) else _unexpected(error)
            self._count(response.status_code)
            return respond(response, start_response)
