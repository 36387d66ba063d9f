"""A Bottle handler with a counter in memory, under the service's uWSGI settings.

It is no service: the counter is lost when the process ends.
"""

from __future__ import annotations

import threading

from bottle import Bottle, request

application = Bottle()
_lock = threading.Lock()
_counters: dict[str, int] = {}


@application.route("/getid")  # type: ignore[untyped-decorator]
def getid() -> dict[str, int]:
    """The next IDs of a mode."""
    count = int(request.query["range"])
    mode = request.query["mode"]
    with _lock:
        first = _counters.get(mode, 1)
        _counters[mode] = first + count
    return {"startIndex": first, "endIndex": first + count - 1}
