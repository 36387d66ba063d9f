"""The HTTP protocol of the service: what a request carries, and when a response is accepted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests

from uniqueid_client.errors import RequestRefused
from uniqueid_client.version import __version__

NONCE = "X-Request-Nonce"
KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
CLIENT = "X-Client"
USER_AGENT = f"pacifica-uniqueid-client/{__version__}"
NEVER_CACHED = {
    "Cache-Control": "no-store, no-cache, private, max-age=0",
    "Pragma": "no-cache",
    "Expires": "Thu, 01 Jan 1970 00:00:01 GMT",
    "Vary": "*",
    "Surrogate-Control": "no-store",
    "CDN-Cache-Control": "no-store",
    "X-Accel-Expires": "0",
    "X-Accel-Buffering": "no",
}
"""The caching headers of every response of the service."""
REQUEST_HEADERS = {
    # RFC 9111, 5.2.1.4 and 5.4.
    "Cache-Control": "no-cache, no-store",
    "Pragma": "no-cache",
    "Accept": "application/json",
    "User-Agent": USER_AGENT,
}
MAX_MODE_LENGTH = 255
MAX_SECONDS = 86_400

_RETRIED_STATUS = frozenset({408, 425, 429})
_KEY_IN_FLIGHT = "idempotency-key-in-flight"
_JOURNAL_MISSING = "journal-missing"


class AttemptFailed(Exception):
    """An attempt failed, and another one may succeed."""

    def __init__(self, cause: str, retry_after: float = 0, *, without_key: bool = False) -> None:
        self.cause = cause
        self.retry_after = retry_after
        """Seconds."""
        self.without_key = without_key
        """Whether a request without an idempotency key would succeed."""
        super().__init__(cause)


# -- parameters --------------------------------------------------------------------------------


def endpoint(url: str) -> tuple[str, str]:
    """The URL of `/getid`, and the same without credentials, for messages.

    :raises ValueError: for a URL that is not allowed.
    """
    allowed = "give http://HOST[:PORT] or https://HOST[:PORT], with a path if there is one"
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise ValueError(f"url is {url!r}: {error}; {allowed}") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise ValueError(f"url is {url!r}: {allowed}")
    path = parts.path.rstrip("/") + "/getid"
    location = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    return (
        urlunsplit((parts.scheme, parts.netloc, path, "", "")),
        urlunsplit((parts.scheme, location, path, "", "")),
    )


def check_seconds(name: str, value: float) -> None:
    """Raise a ValueError for a time-out that is not allowed."""
    if not 0 < value <= MAX_SECONDS:
        raise ValueError(
            f"{name} is {value!r}: give a number of seconds above 0, at most {MAX_SECONDS}"
        )


def check_mode(mode: str) -> None:
    """Raise a ValueError for a name of a mode that is not allowed."""
    if not isinstance(mode, str) or not 0 < len(mode) <= MAX_MODE_LENGTH:
        raise ValueError(f"mode is {mode!r}: give a name of 1 to {MAX_MODE_LENGTH} characters")
    try:
        mode.encode()
    except UnicodeEncodeError:
        raise ValueError(f"mode is {mode!r}: give a name that UTF-8 can encode") from None


def check_text(name: str, value: str, low: int, high: int) -> None:
    """Raise a ValueError for a text that no header can carry."""
    if not re.fullmatch(rf"[ -~]{{{low},{high}}}", value, re.ASCII):
        raise ValueError(f"{name} is {value!r}: give {low} to {high} printable ASCII characters")


def check_token(token: str, what: str = "token") -> str:
    """The token (RFC 6750, 2.1); a ValueError, which does not contain it, if it is not allowed."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]{1,512}=*", token, re.ASCII):
        raise ValueError(f"{what}: give 1 to 512 letters, digits and ._~+/-, with = at the end")
    return token


def read_token(file: str) -> str:
    """The token in a file, without white space around it.

    :raises ValueError: if there is none, or it is not allowed.
    """
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"token file {file!r}: {reason}") from None
    return check_token(text, f"the token in {file!r}")


def bearer(
    token: str | Callable[[], str],
) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """Authentication for `requests`; a plain header would be replaced from ~/.netrc."""
    text = token if isinstance(token, str) else check_token(token())

    def add(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers["Authorization"] = f"Bearer {text}"
        return prepared

    return add


def quoted(key: str) -> str:
    """A string of a structured field (RFC 9651, 3.3.3)."""
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- responses ---------------------------------------------------------------------------------


def document(response: requests.Response) -> dict[str, Any]:
    """The JSON object of a response; empty if there is none."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def stale_reason(
    response: requests.Response, body: dict[str, Any], nonce: str, seconds: float
) -> str | None:
    """Why a response belongs to another request than this one, which took `seconds`; or None."""
    values = (response.headers.get(NONCE), body.get("nonce"))
    returned = [value for value in values if value is not None]
    if any(value != nonce for value in returned):
        return "the nonce of another request came back"
    age = response.headers.get("Age")
    if age is not None and not is_new(age, seconds):
        return f"it was stored for some time (Age: {age})"
    # An error without a nonce may be a proxy's own.
    if response.status_code == 200 and not returned:
        return "no nonce came back"
    return None


def is_new(age: str, seconds: float) -> bool:
    """Whether an Age is possible for a response that was made within the last `seconds`.

    By RFC 9111, 5.1 only a stored response has an Age; but Varnish adds one to every response, and
    Traffic Server one that includes the time until the response.
    """
    age = age.strip()
    return age.isascii() and age.isdigit() and len(age) < 12 and int(age) <= math.ceil(seconds)


def first_id(response: requests.Response, body: dict[str, Any], count: int, shown: str) -> int:
    """The first ID of a response that belongs to this request.

    :raises AttemptFailed: if another attempt may succeed.
    :raises RequestRefused: if it would not.
    """
    status = response.status_code
    if status == 200:
        first, last = body.get("startIndex"), body.get("endIndex")
        # type() instead of isinstance(): JSON's true is an int in Python.
        if type(first) is int and type(last) is int and first > 0 and last - first + 1 == count:
            return first
        raise AttemptFailed(f"the response has no range of {count}: {response.text[:200]!r}")
    if 300 <= status < 400:
        target = response.headers.get("Location", "nowhere")
        detail = f"it redirects to {target}: give the client that URL"
        raise RequestRefused(shown, status, "about:blank", detail)
    detail = str(body.get("detail") or body.get("message") or response.reason)
    problem = str(body.get("type", "about:blank"))
    if problem == _JOURNAL_MISSING:
        raise AttemptFailed(f"{status}: {detail}", without_key=True)
    if problem == _KEY_IN_FLIGHT or status >= 500 or status in _RETRIED_STATUS:
        raise AttemptFailed(f"{status}: {detail}", _retry_after(response))
    raise RequestRefused(shown, status, problem, detail)


def _retry_after(response: requests.Response) -> float:
    """Seconds to wait (RFC 9110, 10.2.3); 0 if the response does not tell."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())
