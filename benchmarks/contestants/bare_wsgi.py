"""A bare WSGI callable with a counter in memory, under the service's uWSGI settings.

It is no service: the counter is lost when the process ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_lock = threading.Lock()
_counters: dict[str, int] = {}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The next IDs of a mode; every path is /getid."""
    query = parse_qs(environ["QUERY_STRING"])
    count = int(query["range"][0])
    mode = query["mode"][0]
    with _lock:
        first = _counters.get(mode, 1)
        _counters[mode] = first + count
    body = b'{"startIndex": %d, "endIndex": %d}' % (first, first + count - 1)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
