"""A sequence of PostgreSQL's: SELECT nextval.

One ID a request; autocommit, and a connection for each thread.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from bottle import Bottle
from per_thread import PerThread

from uniqueid import config

_url = config.load().database
application = Bottle()


def _connect() -> Any:
    connection = psycopg2.connect(
        host=_url.host, port=_url.port, user=_url.user, dbname=_url.database
    )
    connection.autocommit = True
    return connection


_connection = _connect()
_connection.cursor().execute("CREATE SEQUENCE ids")
_connection.close()

_connections = PerThread(_connect)


@application.route("/getid")  # type: ignore[untyped-decorator]
def getid() -> dict[str, int]:
    """The next ID; `range` is taken for 1 and there is one mode."""
    with _connections.get().cursor() as cursor:
        cursor.execute("SELECT nextval('ids')")
        (first,) = cursor.fetchone()
    return {"startIndex": first, "endIndex": first}
