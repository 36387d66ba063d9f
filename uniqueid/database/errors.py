"""What an error of a database driver means for a transaction.

Codes: MySQL's server and client error references and MariaDB's, PostgreSQL's manual appendix A
(SQLSTATE), SQLite's result codes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from enum import Enum

from pony.orm import core
from pony.orm.dbapiprovider import DBException


class Cause(Enum):
    """Why a transaction failed; the value is the metric's label."""

    CONNECTION = "connection"
    """The session is gone or of no use (a read-only replica): a new one may work."""
    SERIALIZATION = "serialization"
    """Another transaction was first."""
    DEADLOCK = "deadlock"
    LOCK_TIMEOUT = "lock_timeout"
    DUPLICATE_KEY = "duplicate_key"
    """Two processes used a mode, or made a table, for the first time."""
    NOT_STORABLE = "not_storable"
    """A text which the database's character set or column cannot hold."""
    NO_TABLE = "no_table"
    """The schema is not there: somebody dropped it, or it is another database."""
    LOST_UPDATE = "lost_update"
    """The counter was not what had been read: the lock on it was lost."""
    OTHER = "other"
    """No disk space, no privilege: trying again at once would change nothing."""


TRANSIENT = frozenset(Cause) - {Cause.NOT_STORABLE, Cause.NO_TABLE, Cause.OTHER}
"""The causes after which the whole transaction is worth another try."""


class LostUpdate(Exception):
    """The guarded UPDATE met another value than the one that had been read under its lock."""


_MYSQL = {
    **dict.fromkeys(
        (1040, 1047, 1053, 1077, 1129, 1152, 1158, 1159, 1160, 1161, 1317, 1927, 4031),
        Cause.CONNECTION,
    ),
    # the client library's own
    **dict.fromkeys((2002, 2003, 2006, 2013, 2014, 2055), Cause.CONNECTION),
    # a server which takes no writes: read_only, super_read_only, a transaction begun on one
    **dict.fromkeys((1290, 1792, 1836, 3100), Cause.CONNECTION),
    **dict.fromkeys((1020, 1180, 3101), Cause.SERIALIZATION),
    1213: Cause.DEADLOCK,
    **dict.fromkeys((1205, 1969, 3024, 3572), Cause.LOCK_TIMEOUT),
    # a row; or a key that another process adds at the same moment
    **dict.fromkeys((1061, 1062, 1068), Cause.DUPLICATE_KEY),
    1146: Cause.NO_TABLE,
    **dict.fromkeys((1264, 1267, 1366, 1406, 3988), Cause.NOT_STORABLE),
}
_POSTGRESQL = {
    **dict.fromkeys(("57P01", "57P02", "57P03", "57P05", "53300", "25006"), Cause.CONNECTION),
    "40001": Cause.SERIALIZATION,
    "40P01": Cause.DEADLOCK,
    "42P01": Cause.NO_TABLE,
    **dict.fromkeys(("55P03", "57014"), Cause.LOCK_TIMEOUT),
    # unique_violation, and what DDL says when another process makes the same table, its type, or
    # its key, at the same moment
    **dict.fromkeys(("23505", "42P07", "42P16", "42710"), Cause.DUPLICATE_KEY),
    **dict.fromkeys(("22001", "22003", "22021", "22P05"), Cause.NOT_STORABLE),
}
_SQLITE = {
    sqlite3.SQLITE_BUSY: Cause.LOCK_TIMEOUT,
    sqlite3.SQLITE_LOCKED: Cause.LOCK_TIMEOUT,
    sqlite3.SQLITE_CANTOPEN: Cause.CONNECTION,
    sqlite3.SQLITE_CONSTRAINT: Cause.DUPLICATE_KEY,
}

_MYSQL_REJECTED = frozenset({1044, 1045, 1049, 1130, 1698, 3118, 4151})
"""Access denied, unknown database, host that may not connect, locked account."""
_POSTGRESQL_REJECTED = re.compile(
    r"FATAL:\s+(password authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r'|(role|database) ".*" (does not exist|is not permitted to log in))'
)
"""libpq passes no SQLSTATE on for a connection that the server rejects, only its message."""


def classify(error: BaseException) -> Cause | None:
    """Why a transaction failed; None when the error is not the database's but a mistake here."""
    for link in _chain(error):
        if isinstance(link, LostUpdate):
            return Cause.LOST_UPDATE
        cause = _of_driver(link)
        if cause is not None:
            return cause
    return None


def is_rejected(error: BaseException) -> bool:
    """Whether the server rejected the user, the password or the database's name, which waiting
    does not change."""
    for link in _chain(error):
        module = type(link).__module__
        if module.startswith(("pymysql", "MySQLdb")) and link.args:
            return link.args[0] in _MYSQL_REJECTED
        if module.startswith("psycopg2"):
            return _POSTGRESQL_REJECTED.search(str(link)) is not None
    return False


def explain(error: BaseException) -> str:
    """One line for the log: the driver's own words, which hold no password."""
    deepest = list(_chain(error))[-1]
    if isinstance(deepest, LostUpdate):
        return "the lock on a counter was lost"
    arguments = [str(part).strip() for part in deepest.args if not isinstance(part, Exception)]
    return " ".join(": ".join(arguments).split()) or type(deepest).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it wraps: Pony keeps the driver's in places of its own."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        inner: BaseException | None = None
        if isinstance(link, DBException):
            inner = link.original_exc
        elif isinstance(link, core.TransactionError):
            inner = getattr(link, "original_exc", None)
            infos = getattr(link, "exceptions", None)
            if inner is None and infos:
                inner = infos[0][1]
        link = inner


def _of_driver(error: BaseException) -> Cause | None:
    if isinstance(error, sqlite3.Error):
        if str(error).startswith("no such table"):
            # SQLite has no code of its own for it.
            return Cause.NO_TABLE
        code = getattr(error, "sqlite_errorcode", None)
        # The low byte is the primary result code, the rest says more about it.
        return _SQLITE.get(code & 0xFF, Cause.OTHER) if code is not None else Cause.OTHER
    if isinstance(error, OSError):
        return Cause.CONNECTION
    module = type(error).__module__
    if module.startswith(("pymysql", "MySQLdb")):
        if type(error).__name__ == "InterfaceError":
            return Cause.CONNECTION
        code = error.args[0] if error.args else None
        return _MYSQL.get(code, Cause.OTHER) if isinstance(code, int) else Cause.CONNECTION
    if module.startswith("psycopg2"):
        if type(error).__name__ == "InterfaceError":
            return Cause.CONNECTION
        state = getattr(error, "pgcode", None)
        # The client library has no SQLSTATE of its own: what it finds is a broken connection.
        if state is None or state.startswith("08"):
            return Cause.CONNECTION
        return _POSTGRESQL.get(state, Cause.OTHER)
    return None
