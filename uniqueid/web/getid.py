"""`/getid`: from the parameters of a request to its range."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

from bottle import HTTPResponse

from uniqueid.errors import InvalidRequest
from uniqueid.logs import request_id
from uniqueid.model import Allocation, AllocationRecord, now
from uniqueid.web import parameters
from uniqueid.web.caching import NONCE_HEADER, NONCE_KEY
from uniqueid.web.parameters import Limits, Request
from uniqueid.web.problems import JSON, Environ, http_problem

PATH = "/getid"
MAX_TARGET = 8192
"""Bytes of path and query. A mode of 255 characters has at most 3,060 when percent-encoded."""
MAX_BODY = 8192
"""Bytes of a form."""
_MAX_CACHED_QUERY = 256
"""Bytes; longer ones, and a thousand of these, would hold too much memory."""
KEY = "Idempotency-Key"
"""The header with what stands for a request, however often it is sent
(draft-ietf-httpapi-idempotency-key-header-07)."""
_KEY_HEADER = "HTTP_IDEMPOTENCY_KEY"
REPLAYED = "Idempotency-Replayed"
"""The header of a response whose range was allocated to an earlier request."""
CALLER_KEY = "uniqueid.caller"
"""Where the name of a request's token is."""
FIELDS_KEY = "uniqueid.fields"
"""Where the fields of a request's log line are collected."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Allocating(Protocol):
    """The part of the allocator which a request needs."""

    def allocate(
        self, mode: str, count: int, record: AllocationRecord | None = None
    ) -> Allocation: ...


@dataclass(frozen=True)
class RetentionPolicy:
    """Which requests are recorded in the journal, and for how long."""

    idempotency_ttl: float = 604_800
    """Seconds for which a key counts."""
    journal: bool = False
    """Whether every request is recorded, or only those with a key."""
    journal_ttl: float = 7_776_000
    """Seconds for which the others are kept."""

    def record(
        self, environ: Mapping[str, Any], request: Request, id: str | None
    ) -> AllocationRecord | None:
        """What to record of a request; None for nothing.

        :param id: the request's in the log, where it has one.
        """
        if not self.journal and request.key is None:
            return None
        name = environ.get("HTTP_X_CLIENT") or environ.get("HTTP_USER_AGENT") or ""
        seconds = self.journal_ttl if self.journal else 0.0
        if request.key is not None:
            seconds = max(seconds, self.idempotency_ttl)
        at = now()
        return AllocationRecord(
            request.mode,
            request.count,
            request.key,
            environ.get(CALLER_KEY, ""),
            parameters.client_name(name),
            id or request_id(environ),
            at,
            at + int(seconds * 1_000_000),
        )


class GetID:
    """The handler of `/getid`.

    :param allocator: allocates the ranges.
    :param limits: what a request may ask for.
    :param retention: which requests are recorded.
    :param send_interim: sends an interim response (RFC 9110, 15.2), where the server does not.
    """

    def __init__(
        self,
        allocator: Allocating,
        limits: Limits,
        retention: RetentionPolicy,
        send_interim: Callable[[bytes], object] | None,
    ) -> None:
        self._allocate = allocator.allocate
        self._limits = limits
        # A pure function, and clients repeat few queries: to parse one takes a tenth of the CPU
        # time of a request.
        self._parse_query = lru_cache(1024)(partial(parameters.parse, limits))
        self._retention = retention
        self._send_interim = send_interim

    def __call__(self, environ: Environ) -> HTTPResponse | str:
        """Allocate a range; its JSON.

        :raises ProblemResponse: for a target or body that cannot be read.
        :raises UniqueIDError: when nothing can be allocated.
        """
        request = self._parse(environ)
        if request.count == 0:
            # The legacy service's response, which Ingest expects for a bundle without files.
            return _json(-1, -3, request)
        fields = environ.get(FIELDS_KEY)
        if fields is not None:
            fields["mode"], fields["range"] = request.mode, request.count
        record = self._retention.record(environ, request, None if fields is None else fields["id"])
        first, batch_size, replayed = self._allocate(request.mode, request.count, record)
        if fields is not None:
            fields["batch"] = batch_size
            if replayed:
                fields["replayed"] = "true"
            fields["start"] = first
        text = _json(first, first + request.count - 1, request)
        return HTTPResponse(text, 200, {**JSON, REPLAYED: "true"}) if replayed else text

    def _parse(self, environ: Environ) -> Request:
        query = environ.get("QUERY_STRING", "")
        if len(query) > MAX_TARGET:
            detail = f"the query has {len(query)} bytes; at most {MAX_TARGET} are read"
            raise http_problem(414, "URI Too Long", detail)
        form = self._form(environ) if environ["REQUEST_METHOD"] == "POST" else ""
        nonce, key = environ.get(NONCE_HEADER), environ.get(_KEY_HEADER)
        try:
            if form or nonce is not None or key is not None or len(query) > _MAX_CACHED_QUERY:
                request = parameters.parse(self._limits, query, form, nonce, key)
            else:
                request = self._parse_query(query)
        except InvalidRequest as error:
            if error.nonce is not None:
                environ[NONCE_KEY] = error.nonce
            raise
        if request.nonce is not None:
            # Before the allocation: an error has to be known for this request's own as well.
            environ[NONCE_KEY] = request.nonce
        return request

    def _form(self, environ: Environ) -> str:
        """The body of a POST, as a WSGI string; empty when there is none."""
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise http_problem(
                411, "Length Required", "a body must come with a Content-Length"
            )  # fmt: skip
        length = environ.get("CONTENT_LENGTH") or "0"
        if not (length.isascii() and length.isdigit()):
            detail = f"Content-Length is {length!r}: give the number of bytes"
            raise http_problem(400, "Bad Request", detail)
        if len(length) > 10 or int(length) > MAX_BODY:
            detail = f"the body has {length} bytes; at most {MAX_BODY} are read"
            raise http_problem(413, "Content Too Large", detail)
        if int(length) == 0:
            return ""
        content_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if content_type != "application/x-www-form-urlencoded":
            detail = (
                f"Content-Type is {content_type!r}: send the parameters in the query, or as"
                " application/x-www-form-urlencoded"
            )
            raise http_problem(415, "Unsupported Media Type", detail)
        if self._send_interim and environ.get("HTTP_EXPECT", "").lower() == "100-continue":
            self._send_interim(_CONTINUE)
        return _read(environ, int(length))


def _read(environ: Environ, length: int) -> str:
    try:
        body: bytes = environ["wsgi.input"].read(length)
    except OSError:
        # uWSGI's error for a client that sent nothing for socket-timeout, or has gone.
        detail = f"the {length} bytes of the body did not arrive in time"
        raise http_problem(408, "Request Timeout", detail) from None
    if len(body) < length:
        detail = f"the body has {len(body)} bytes, and Content-Length says {length}"
        raise http_problem(400, "Bad Request", detail)
    return body.decode("latin-1")


def _json(first: int, last: int, request: Request) -> str:
    """A range as JSON; by hand, which takes a third of the time of json.dumps."""
    nonce = f', "nonce": {json.dumps(request.nonce)}' if request.nonce_in_query else ""
    return f'{{"startIndex": {first}, "endIndex": {last}{nonce}}}'
