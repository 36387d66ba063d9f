"""What the connection pools of all providers share."""

from __future__ import annotations

from collections.abc import Callable

from pony.orm.dbapiprovider import Pool


def keep_connection(pool: Pool, init: Callable[[], None]) -> None:
    """Let a pool be initialised for one more thread, with the connection it has.

    Pony's pools are `threading.local`, and are initialised in each thread. Slots of such a class
    are common to all threads (CPython's documentation, `_threading_local`).
    """
    connection, pid = getattr(pool, "con", None), getattr(pool, "pid", None)
    init()
    pool.con, pool.pid = connection, pid
