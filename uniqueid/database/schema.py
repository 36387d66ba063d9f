"""The schema's version and the way to it.

The tables are the legacy service's: ``uniqueindex`` with the next ID of each mode, and
``uniqueindexsystem`` with the parts of the version, 1.0. Releases up to 0.2.1 had only the first,
whose column may have 32 bits on servers (that of 0.2.1 from PyPI has 64); that is version 0.0.
Version 1.1 adds ``uniqueidjournal`` (`uniqueid.database.journal`). The legacy service runs next to
that table and does not read the minor version; but its ``dbsync`` fails at any that it does not
know, so that `step_back` has to come before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from pony.orm import db_session

from uniqueid.database.dialects.base import Select, TableProblem
from uniqueid.database.errors import TRANSIENT, classify, explain
from uniqueid.database.journal import statements
from uniqueid.database.store import Store
from uniqueid.database.table_checks import COUNTERS, JOURNAL, check_tables
from uniqueid.errors import SYNC, SYNC_NEW, DatabaseUnavailable, SchemaError, UnsafeSession

log = logging.getLogger(__name__)

VERSION = "uniqueindexsystem"
"""The table of the version's parts."""

CURRENT = (1, 1)
OLD = (1, 0)
"""The legacy service's. This release serves from it as well, without keys and a journal."""

# Several processes may sync at once, as the pods of one release do.
_ATTEMPTS = 10


@dataclass(frozen=True)
class Found:
    """What there is in a database."""

    version: tuple[int, int] | None
    """None when there is no table at all."""
    narrow: bool = False
    """Whether the counter's column has 32 bits: the old dbsync left it so."""
    problems: tuple[TableProblem, ...] = ()
    """Why allocation cannot rely on the tables, first what ``dbsync`` cannot repair."""

    def __str__(self) -> str:
        if self.version is None:
            return "it has no tables yet"
        version = "the schema has version {}.{}".format(*self.version)
        return f"{version} with a 32-bit counter" if self.narrow else version


def inspect(store: Store) -> Found:
    """Look at the tables; nothing is changed.

    :raises DatabaseUnavailable: when the database does not answer.
    """

    def question() -> Found:
        with db_session:
            return _inspect(store)

    return store.read(question)


def pending(store: Store) -> list[str]:
    """What `sync` would do, in its order; empty when the schema is current.

    :raises SchemaError: when the schema is newer than this release.
    """
    found = inspect(store)
    _refuse_newer(found)
    _refuse_broken(found)
    return [name for name, wanted, _apply in _MIGRATIONS if wanted(found)]


CREATE = "create the counters"
"""The step of `sync` after which every mode starts at 1."""


def sync(store: Store, *, create: bool = True) -> list[str]:
    """Bring an empty or old schema to the current version; counters keep their values.

    In one transaction, except on MySQL, whose DDL commits automatically; each step can be repeated.

    :param create: whether tables may be created in a database that has none.
    :returns: what was done.
    :raises SchemaError: when the schema is newer than this release, and when there are no tables
        and none may be created.
    :raises DatabaseUnavailable: when the database does not answer or refuses.
    """
    store.open()
    for attempt in range(_ATTEMPTS):
        try:
            with db_session(ddl=True):
                found = _inspect(store)
                _refuse_newer(found)
                _refuse_broken(found)
                if found.version is None and not create:
                    raise no_tables(store)
                done = []
                for name, wanted, apply in _MIGRATIONS:
                    if wanted(found):
                        apply(store, found)
                        done.append(name)
                return done
        except (SchemaError, UnsafeSession):
            raise
        except Exception as error:
            if classify(error) not in TRANSIENT or attempt == _ATTEMPTS - 1:
                raise DatabaseUnavailable(explain(error)) from error
            log.info("another process changes the schema; trying again: %s", explain(error))
    raise AssertionError("unreachable")


def no_tables(store: Store) -> SchemaError:
    """Why ``dbsync --no-create`` changes nothing, and what to do."""
    if store.dialect.is_missing(store.url):
        found = f"there is no file {store.url.database}"
    else:
        found = f"the database {store.url} has no tables"
    return SchemaError(
        found,
        "dbsync may not create tables here, since every mode would start at 1. If the counters are"
        " in another database, correct the URL or move them (docs/operating.md, Moving to another"
        " database). To start new counters deliberately, run dbsync without --no-create, or set"
        " database.initialize=true in the Helm chart for one upgrade",
    )


def step_back(store: Store) -> bool:
    """Record version 1.0 again, for the legacy service's ``dbsync``; tables and rows stay.

    :returns: whether another version was recorded.
    :raises SchemaError: when there is nothing to step back from, or the schema is newer.
    :raises DatabaseUnavailable: when the database does not answer or refuses.
    """
    found = require(store)
    if found.version == OLD:
        return False
    try:
        with db_session(ddl=True):
            _write_version(store, OLD)
    except Exception as error:
        raise DatabaseUnavailable(explain(error)) from error
    return True


def require(store: Store) -> Found:
    """Refuse to go on with a schema this release cannot serve from.

    :returns: what was found, which it can serve from.
    :raises SchemaError: which names the command that repairs it.
    """
    found = inspect(store)
    _refuse_newer(found)
    _refuse_broken(found)
    if found.version is None:
        # More likely the wrong database than a new one.
        raise SchemaError(f"the database {store.url} has no tables yet", SYNC_NEW)
    if found.version[0] < CURRENT[0] or found.narrow:
        raise SchemaError(str(found), SYNC)
    for problem in found.problems:
        raise SchemaError(problem.found, problem.remedy)
    return found


def check(store: Store, *, equal: bool = False) -> None:
    """What ``dbchk`` does: `require`, and with `equal` the minor version must match too.

    :raises SchemaError: when it does not.
    """
    found = require(store)
    if equal and found.version != CURRENT:
        raise SchemaError(str(found), "this release has version {}.{}, ".format(*CURRENT) + SYNC)


def _refuse_newer(found: Found) -> None:
    if found.version is not None and found.version[0] > CURRENT[0]:
        raise SchemaError(
            str(found), "this release knows {}.{}: install a newer release".format(*CURRENT)
        )


def _refuse_broken(found: Found) -> None:
    for problem in found.problems:
        if not problem.repair:
            raise SchemaError(problem.found, problem.remedy)


# -- looking ----------------------------------------------------------------------------------


def _inspect(store: Store) -> Found:
    dialect, select = store.dialect, _select(store)
    counters = dialect.describe(select, COUNTERS)
    if counters is None:
        return Found(None)
    problems = tuple(check_tables(select, dialect, counters, dialect.describe(select, JOURNAL)))
    narrow = dialect.is_narrow_integer(counters.columns.get("index", ""))
    version = dialect.describe(select, VERSION)
    if version is None or "value" not in version.columns:
        return Found((0, 0), narrow, problems)
    quote = dialect.quote
    rows = select(f"SELECT {quote('part')}, {quote('value')} FROM {quote(VERSION)}", {})
    parts = {str(part): int(value) for part, value in rows}
    return Found((parts.get("major", 0), parts.get("minor", 0)), narrow, problems)


def _select(store: Store) -> Select:
    # Not execute(), which takes SQLite's lock for writing.
    return lambda sql, values: store.database.select(sql, {}, values)


# -- changing ---------------------------------------------------------------------------------


def _create_counters(store: Store, found: Found) -> None:
    quote = store.dialect.quote
    columns = f"{quote('id')} VARCHAR(255) NOT NULL PRIMARY KEY, {quote('index')} BIGINT NOT NULL"
    options = store.dialect.counters_options(_select(store))
    _execute(store, f"CREATE TABLE IF NOT EXISTS {quote(COUNTERS)} ({columns}){options}")


def _widen_counters(store: Store, found: Found) -> None:
    _execute(store, store.dialect.widen_column(COUNTERS, "index"))


def _create_journal(store: Store, found: Found) -> None:
    for statement in statements(store.dialect, store.dialect.mode_type(_select(store))):
        _execute(store, statement)


def _repair_tables(store: Store, found: Found) -> None:
    for problem in found.problems:
        _execute(store, problem.repair)


def _record_version(store: Store, found: Found) -> None:
    quote = store.dialect.quote
    table, part, value = quote(VERSION), quote("part"), quote("value")
    _execute(
        store,
        f"CREATE TABLE IF NOT EXISTS {table} ({part} VARCHAR(255) NOT NULL PRIMARY KEY,"
        f" {value} INTEGER NOT NULL)",
    )
    _write_version(store, CURRENT)


def _write_version(store: Store, version: tuple[int, int]) -> None:
    quote = store.dialect.quote
    table, part, value = quote(VERSION), quote("part"), quote("value")
    # The major part last: where DDL commits automatically, a half-recorded version reads as an old
    # one.
    for name, number in (("minor", version[1]), ("major", version[0])):
        update = f"UPDATE {table} SET {value} = {number} WHERE {part} = '{name}'"
        if store.database.execute(update, {}, {}).rowcount == 0:
            _execute(store, f"INSERT INTO {table} ({part}, {value}) VALUES ('{name}', {number})")


def _execute(store: Store, sql: str) -> None:
    store.database.execute(sql, {}, {})


_MIGRATIONS: list[tuple[str, Callable[[Found], bool], Callable[[Store, Found], None]]] = [
    (CREATE, lambda found: found.version is None, _create_counters),
    ("widen the counters to 64 bits", lambda found: found.narrow, _widen_counters),
    ("add missing unique keys", lambda found: bool(found.problems), _repair_tables),
    (
        "create the journal",
        lambda found: found.version is None or found.version < CURRENT,
        _create_journal,
    ),
    (
        "record version {}.{}".format(*CURRENT),
        lambda found: found.version is None or found.version < CURRENT,
        _record_version,
    ),
]
"""Each: what it does, whether a database needs it, how."""
