"""No response may be used twice, and each can prove for which request it was made."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from uniqueid.logs import REQUEST_ID, sent_request_id
from uniqueid.web.parameters import is_nonce
from uniqueid.web.problems import WSGI, Environ, StartResponse

NEVER_CACHED = (
    # RFC 9111, 5.2.2; no directive here lets a cache use a response twice.
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
"""On every response of every route, errors included: a response that a cache repeats is an ID
allocated twice."""

NONCE = "X-Request-Nonce"
"""The header in which a client sends a nonce, and in which each response to it returns it."""
NONCE_HEADER = "HTTP_X_REQUEST_NONCE"
"""Where WSGI has it."""
NONCE_KEY = "uniqueid.nonce"
"""Where a handler leaves the nonce that came as a parameter."""

# A handler or plug-in does not decide on these; a validator would let a cache ask whether its copy
# is still good.
_REPLACED = frozenset(
    {"etag", "last-modified", "age", NONCE.lower(), *(name.lower() for name, _ in NEVER_CACHED)}
)


class NoStore:
    """WSGI middleware, the outermost: each response forbids storing it and returns the nonce.

    The X-Request-ID of a request is returned as well.
    """

    def __init__(self, app: WSGI) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Respond to a request."""
        nonce = environ.get(NONCE_HEADER)
        if nonce is not None and is_nonce(nonce):
            environ[NONCE_KEY] = nonce

        def start(status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> Any:
            kept = [pair for pair in headers if pair[0].lower() not in _REPLACED]
            nonce = environ.get(NONCE_KEY)
            if nonce is not None:
                kept.append((NONCE, nonce))
            if REQUEST_ID in environ and (sent := sent_request_id(environ)) is not None:
                kept.append(("X-Request-ID", sent))
            # No exc_info: uWSGI turns a response that has one into an empty 500.
            return start_response(status, [*kept, *NEVER_CACHED])

        return self._app(environ, start)
