"""Verifies that the tables are what allocation relies on.

Allocation reads and writes one row a mode, found by its id, and the guarded UPDATE compares an
integer exactly. So the counters need a unique key on `id`, an integer column of 64 bits, rows that
are integers, and a table whose commits are durable; idempotency keys need a unique key of their
own. Most of it is in the catalog, the rest takes one reading of the counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uniqueid.database.dialects.base import Dialect, Select, Table, TableProblem
from uniqueid.errors import MAX_ID, SYNC

COUNTERS = "uniqueindex"
JOURNAL = "uniqueidjournal"


def check_tables(
    select: Select, dialect: Dialect, counters: Table, journal: Table | None
) -> list[TableProblem]:
    """All problems of the tables, first those that ``dbsync`` cannot repair.

    :param counters: as `Dialect.describe` found it.
    :param journal: the same; None where there is none yet.
    """
    problems = [*counters.problems, *_column_problems(dialect, counters)]
    if not problems:
        # The rows, once it is certain what a comparison of them means.
        problems = _row_problems(select, dialect, counters)
        problems += _counters_key(select, dialect, counters)
    if journal is not None:
        problems += journal.problems or _journal_key(select, dialect, journal)
    return sorted(problems, key=lambda problem: bool(problem.repair))


def _column_problems(dialect: Dialect, table: Table) -> list[TableProblem]:
    problems = []
    for column in ("id", "index"):
        if column not in table.columns:
            found = f"the table {table.name} has no column {column}"
            problems.append(TableProblem(found, "rename the column that took its place"))
    if problems:
        return problems
    mode, next_id = table.columns["id"], table.columns["index"]
    if not dialect.is_text(mode):
        problems.append(
            TableProblem(
                f"the column id of {table.name} has the type {mode or 'none'}, which does not store"
                " every mode unchanged",
                "copy its rows into a table with the type VARCHAR(255)",
            )
        )
    if not dialect.is_wide_integer(next_id) and not dialect.is_narrow_integer(next_id):
        problems.append(
            TableProblem(
                f"the column index of {table.name} has the type {next_id or 'none'}, which is not"
                " an integer of 64 bits",
                "copy its rows into a table with the type BIGINT",
            )
        )
    return problems


def _row_problems(select: Select, dialect: Dialect, table: Table) -> list[TableProblem]:
    quote = dialect.quote
    mode, next_id = quote("id"), quote("index")
    rows = select(
        f"SELECT {mode}, {next_id} FROM {quote(table.name)}"
        f" WHERE {dialect.bad_row_condition(mode, next_id)} LIMIT 1",
        {},
    )
    return [TableProblem(*_describe_row(table.name, *row)) for row in rows]


def _describe_row(table: str, mode: Any, next_id: Any) -> tuple[str, str]:
    if mode is None:
        return f"{table} has a row whose id is NULL", "delete that row: no mode has it"
    remedy = "set it with SQL to an integer above every ID that was allocated for the mode"
    if not isinstance(mode, str):
        return f"{table} has the id {mode!r}, which is not text", "store it as text"
    if next_id is None or not isinstance(next_id, int):
        value = "NULL" if next_id is None else repr(next_id)
        return f"the next ID of mode {mode!r} is {value}, which is not an integer", remedy
    return f"the next ID of mode {mode!r} is {next_id}, and must be from 0 to {MAX_ID + 1}", remedy


def _counters_key(select: Select, dialect: Dialect, table: Table) -> list[TableProblem]:
    quote = dialect.quote
    unique = frozenset({"id"}) in table.unique_keys
    if unique and "id" not in table.nullable and dialect.unique_keys_cover_collation:
        return []
    mode, next_id = quote("id"), quote("index")
    duplicates = select(
        f"SELECT {mode}, COUNT(*), MIN({next_id}), MAX({next_id}) FROM {quote(table.name)}"
        f" WHERE {mode} IS NOT NULL GROUP BY {mode} HAVING COUNT(*) > 1 LIMIT 1",
        {},
    )
    for name, number, lowest, highest in duplicates:
        found = (
            f"{table.name} has {number} rows for the mode {name!r}, with next IDs from {lowest} to"
            f" {highest}"
        )
        remedy = f"keep the row with {highest}, delete the others with SQL, and {SYNC}"
        return [TableProblem(found, remedy)]
    if unique and "id" not in table.nullable:
        return []
    if "id" in table.nullable and table.has_primary_key:
        return [TableProblem(f"the column id of {table.name} accepts NULL", "make it NOT NULL")]
    found = f"{table.name} has no unique key on the column id"
    return [TableProblem(found, SYNC, dialect.add_key(table, "id"))]


def _journal_key(select: Select, dialect: Dialect, table: Table) -> Sequence[TableProblem]:
    quote = dialect.quote
    columns = ("idempotency_key", "caller")
    if frozenset(columns) in table.unique_keys:
        return []
    missing = [column for column in columns if column not in table.columns]
    if missing:
        found = f"the table {table.name} has no column {missing[0]}"
        return [TableProblem(found, "rename the table, and " + SYNC)]
    key, caller = map(quote, columns)
    duplicates = select(
        f"SELECT {key}, {caller}, COUNT(*) FROM {quote(table.name)} WHERE {key} IS NOT NULL"
        f" GROUP BY {key}, {caller} HAVING COUNT(*) > 1 LIMIT 1",
        {},
    )
    for value, _caller, number in duplicates:
        shown = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        return [
            TableProblem(
                f"{table.name} has {number} rows for the idempotency key {shown!r}",
                f"keep the one with the lowest id, delete the others with SQL, and {SYNC}",
            )
        ]
    found = f"{table.name} has no unique key on the columns {' and '.join(columns)}"
    return [TableProblem(found, SYNC, dialect.add_unique_index(table, *columns))]
