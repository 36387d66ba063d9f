"""The ceiling: what Bottle behind the same uWSGI answers when the counter is a number in memory.

It forgets everything when it ends, and so is no service. What a durable one can be measured by.
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
