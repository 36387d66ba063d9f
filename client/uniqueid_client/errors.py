"""The errors of the client.

::

    UniqueIDError
      RequestRefused          3xx or 4xx
      ServiceUnavailable      no attempt was answered in time
      CachedResponseError     the response belongs to another request
        RepeatedRangeError    the nonce is right and the IDs were received before
      ClientClosed

Parameters that are not allowed are a ValueError, before a request is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

_WITNESSES = ("Via", "Server", "X-Cache", "Age")


class UniqueIDError(Exception):
    """Any error that the client raises on purpose, except ValueError."""


class RequestRefused(UniqueIDError):
    """The service rejected the request; a retry would be rejected as well."""

    def __init__(self, url: str, status: int, type: str, detail: str) -> None:
        self.url = url
        self.status = status
        self.type = type
        """The problem type, such as `bad-mode`; `about:blank` if the response has none."""
        self.detail = detail
        super().__init__(f"{url} answered {status}: {detail}")


class ServiceUnavailable(UniqueIDError):
    """No attempt returned a range. Ranges that were allocated for it leave a gap."""

    def __init__(self, url: str, attempts: int, cause: str) -> None:
        self.url = url
        self.attempts = attempts
        self.cause = cause
        super().__init__(f"{url} did not answer in {_times(attempts)}: {cause}")


class CachedResponseError(UniqueIDError):
    """The responses belong to other requests; none of their IDs was used.

    `headers` holds those of the last one that identify proxies: Via, Server, X-Cache, Age.
    """

    severity = logging.WARNING

    def __init__(self, url: str, attempts: int, reason: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.attempts = attempts
        self.reason = reason
        self.headers = {name: headers[name] for name in _WITNESSES if name in headers}
        self.via = self.headers.get("Via")
        """The proxies that name themselves (RFC 9110, 7.6.3)."""
        self.server = self.headers.get("Server")
        values = ", ".join(f"{name}: {value}" for name, value in self.headers.items())
        super().__init__(
            f"{url} returned a response that belongs to another request in {_times(attempts)}:"
            f" {reason}. There is a cache in between ({values or 'no header identifies it'}), or"
            " the service is too old to return a nonce; see docs/caching.md"
        )


class RepeatedRangeError(CachedResponseError):
    """Responses with the right nonce contained IDs that this client had received before.

    A cache cannot do that: a proxy rewrites responses, or the service repeats IDs. Find the cause
    before more IDs are used.
    """

    severity = logging.ERROR


class ClientClosed(UniqueIDError):
    """The client was closed."""

    def __init__(self) -> None:
        super().__init__("the client was closed")


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
