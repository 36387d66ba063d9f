"""Redis: INCRBY, with a server that writes and syncs its log before it answers."""

from __future__ import annotations

import os

import redis
from bottle import Bottle, request

application = Bottle()
# At most one connection for each thread, from the pool.
_client = redis.Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))


@application.route("/getid")  # type: ignore[untyped-decorator]
def getid() -> dict[str, int]:
    """The next IDs of a mode."""
    count = int(request.query["range"])
    last = int(_client.incrby(request.query["mode"], count))
    return {"startIndex": last - count + 1, "endIndex": last}
