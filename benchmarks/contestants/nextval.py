"""A sequence of PostgreSQL's: SELECT nextval.

One ID a request; autocommit, and a connection for each thread.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg2
from bottle import Bottle

from uniqueid import config

_url = config.load().database
_local = threading.local()
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


@application.route("/getid")  # type: ignore[untyped-decorator]
def getid() -> dict[str, int]:
    """The next ID; `range` is taken for 1 and there is one mode."""
    connection = getattr(_local, "connection", None)
    if connection is None:
        connection = _local.connection = _connect()
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('ids')")
        (first,) = cursor.fetchone()
    return {"startIndex": first, "endIndex": first}
