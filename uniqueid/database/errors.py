"""What an error of a database driver means for a transaction.

Each dialect has the error codes of its driver.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from pony.orm import core
from pony.orm.dbapiprovider import DBException

from uniqueid.database.dialects import DIALECTS
from uniqueid.database.dialects.base import Cause
from uniqueid.errors import (
    SYNC,
    ConnectionLimitReached,
    DatabaseUnavailable,
    TransactionRejected,
    UniqueIDError,
)

__all__ = [
    "TRANSIENT",
    "Cause",
    "LostUpdate",
    "classify",
    "explain",
    "is_rejected",
    "unavailable",
]

TRANSIENT = frozenset(Cause) - {
    Cause.NOT_STORABLE,
    Cause.NO_TABLE,
    Cause.REFUSED,
    Cause.OTHER,
}
"""The causes after which the whole transaction is worth another try."""


class LostUpdate(Exception):
    """The guarded UPDATE met another value than the one that had been read under its lock."""


def classify(error: BaseException) -> Cause | None:
    """Why a transaction failed; None when the error is not the database's but a mistake here."""
    for link in _chain(error):
        if isinstance(link, LostUpdate):
            return Cause.LOST_UPDATE
        cause = _of_driver(link)
        if cause is not None:
            return cause
    return Cause.CONNECTION if _passed_a_driver(error) else None


def is_rejected(error: BaseException) -> bool:
    """Whether the server rejected the user, the password or the database's name, which waiting
    does not change."""
    return any(dialect.is_rejected(link) for link in _chain(error) for dialect in DIALECTS.values())


def explain(error: BaseException) -> str:
    """One line for the log: the driver's own words, which hold no password."""
    deepest = list(_chain(error))[-1]
    if isinstance(deepest, LostUpdate):
        return "the lock on a counter was lost"
    arguments = [str(part).strip() for part in deepest.args if not isinstance(part, Exception)]
    if _of_driver(deepest) is None and not isinstance(deepest, UniqueIDError):
        # Such an error's text means little without its class.
        arguments.insert(0, type(deepest).__name__)
    return " ".join(": ".join(arguments).split()) or type(deepest).__name__


def unavailable(error: Exception) -> DatabaseUnavailable:
    """The error that says why the database did not do its work."""
    if isinstance(error, DatabaseUnavailable):
        return error
    if classify(error) is Cause.NO_TABLE:
        return DatabaseUnavailable(f"{explain(error)}; {SYNC}", tables=True)
    cause = explain(error)
    if any(
        dialect.is_connection_limit(link) for link in _chain(error) for dialect in DIALECTS.values()
    ):
        return ConnectionLimitReached(cause)
    if classify(error) is Cause.OTHER:
        return TransactionRejected(cause)
    return DatabaseUnavailable(cause)


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
    if isinstance(error, OSError):
        return Cause.CONNECTION
    for dialect in DIALECTS.values():
        cause = dialect.cause_of(error)
        if cause is not None:
            return cause
    return None


def _passed_a_driver(error: BaseException) -> bool:
    """Whether a driver has raised an error or passed it on.

    Drivers raise errors of other classes than their own as well, with an answer that they cannot
    read, or from the libraries that they use.
    """
    if isinstance(error, UniqueIDError):
        return False
    packages = {name for dialect in DIALECTS.values() for name in dialect.drivers}
    return any(
        str(frame.f_globals.get("__name__")).partition(".")[0] in packages
        for frame, _line in traceback.walk_tb(error.__traceback__)
    )
