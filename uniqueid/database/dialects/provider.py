"""What Pony's database providers have in common here.

What differs from Pony's own: No provider reconnects inside a transaction: Pony would go on without
the locks that the lost session held, and allocate a range twice. Every session is serializable from
its start, which saves a round trip a transaction. A connection that is returned to its pool with
nothing open is left alone, which saves another. A pool has one connection, and all threads use it,
one at a time. And a session of a single statement needs no BEGIN and no COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pony.orm.core import DBSessionContextManager
from pony.orm.dbapiprovider import Pool


class SingleStatementSession(DBSessionContextManager):  # type: ignore[misc]
    """A `db_session` with one statement, which the database commits automatically.

    That saves the round trips for BEGIN and COMMIT. A provider recognises it by
    `is_single_statement`.
    """

    __slots__ = ()


SINGLE_STATEMENT = SingleStatementSession(serializable=True)
SERIALIZABLE = DBSessionContextManager(serializable=True)


def is_single_statement(cache: Any) -> bool:
    """Whether Pony's session cache is that of a single statement."""
    return isinstance(cache.db_session, SingleStatementSession)


def keep_connection(pool: Pool, init: Callable[[], None]) -> None:
    """Let a pool be initialised for one more thread, with the connection it has.

    Pony's pools are `threading.local`, and are initialised in each thread. Slots of such a class
    are common to all threads (CPython's documentation, `_threading_local`).
    """
    connection, pid = getattr(pool, "con", None), getattr(pool, "pid", None)
    init()
    pool.con, pool.pid = connection, pid
