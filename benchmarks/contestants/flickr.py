"""A ticket table as Flickr had it, on MariaDB: REPLACE INTO and the ID that comes of it.

https://code.flickr.net/2010/02/08/ticket-servers-distributed-unique-primary-keys-on-the-cheap/
One ID a request, since that is all it can do; autocommit, and a connection for each thread.
"""

from __future__ import annotations

from typing import Any

import pymysql
from bottle import Bottle, request
from per_thread import PerThread

from uniqueid import config

_url = config.load().database
application = Bottle()


def _connect() -> Any:
    return pymysql.connect(
        host=_url.host,
        port=_url.port or 3306,
        user=_url.user,
        password=_url.password or "",
        database=_url.database,
        autocommit=True,
        ssl_disabled=True,
    )


with _connect() as _connection, _connection.cursor() as _cursor:
    _cursor.execute(
        "CREATE TABLE tickets (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,"
        " stub VARCHAR(255) NOT NULL UNIQUE) ENGINE=InnoDB"
    )

_connections = PerThread(_connect)


@application.route("/getid")  # type: ignore[untyped-decorator]
def getid() -> dict[str, int]:
    """The next ID; `range` is taken for 1."""
    with _connections.get().cursor() as cursor:
        # InnoDB's deadlocks are reported to the caller: the recipe has no retry.
        cursor.execute("REPLACE INTO tickets (stub) VALUES (%s)", (request.query["mode"],))
        first = cursor.lastrowid
    return {"startIndex": first, "endIndex": first}
