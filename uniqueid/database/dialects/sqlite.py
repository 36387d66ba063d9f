"""SQLite: one file, no server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from uniqueid.database.dialects.base import Dialect, Select, Table, TableProblem, unique_keys
from uniqueid.errors import UnsafeSession


class SQLite(Dialect):
    """Values of any type can be stored in any column, so the rows are looked at as well."""

    # An index can have another collation than its column, which the catalog does not tell.
    unique_keys_cover_collation = False

    def verify_session(self, connection: sqlite3.Connection) -> None:
        """See that a COMMIT is on disk when it returns.

        Where a file system has no shared memory, SQLite stays in another journal mode without an
        error (SQLite's documentation, "Write-Ahead Logging").

        :raises UnsafeSession: when it is not.
        """
        ((journal_mode,),) = connection.execute("PRAGMA journal_mode").fetchall()
        ((synchronous,),) = connection.execute("PRAGMA synchronous").fetchall()
        if journal_mode != "wal":
            raise UnsafeSession(
                f"the journal mode of the SQLite file is {journal_mode}, and the service has set it"
                " to wal: put the file on a local file system, which supports the write-ahead log"
            )
        # 2 is FULL, 3 is EXTRA.
        if synchronous < 2:
            raise UnsafeSession(
                f"PRAGMA synchronous is {synchronous}, and the service has set it to 2 (FULL): use"
                " another build of SQLite"
            )

    def bad_row_condition(self, mode: str, next_id: str) -> str:
        general = super().bad_row_condition(mode, next_id)
        return f"typeof({mode}) <> 'text' OR typeof({next_id}) <> 'integer' OR {general}"

    def describe(self, select: Select, name: str) -> Table | None:
        found = select(
            "SELECT type, sql FROM sqlite_master WHERE name = $name COLLATE NOCASE"
            " AND type IN ('table', 'view')",
            {"name": name},
        )
        if not found:
            return None
        kind, sql = found[0]
        problems = []
        if kind == "view" or sql.upper().startswith("CREATE VIRTUAL"):
            what = "a view" if kind == "view" else "a virtual table"
            problems.append(
                TableProblem(
                    f"{name} is {what}, not a plain table",
                    f"rename it and put the table {name} in its place",
                )
            )
        columns = select("SELECT name, type, pk FROM pragma_table_info($name)", {"name": name})
        primary = frozenset(column for column, _type, position in columns if position)
        return Table(
            name,
            {column: type for column, type, _position in columns},
            unique_keys=self._unique_keys(select, name) | ({primary} if primary else set()),
            has_primary_key=bool(primary),
            problems=tuple(problems),
        )

    def _unique_keys(self, select: Select, name: str) -> frozenset[frozenset[str]]:
        # An expression has no column's name.
        rows = select(
            "SELECT list.name, info.name FROM pragma_index_list($name) AS list"
            " JOIN pragma_index_info(list.name) AS info"
            ' WHERE list."unique" AND NOT list.partial',
            {"name": name},
        )
        return unique_keys(rows)

    # SQLite's documentation, "Datatypes In SQLite", 3.1: the affinity of a declared type.

    def is_wide_integer(self, type: str) -> bool:
        return "INT" in type.upper()

    def is_narrow_integer(self, type: str) -> bool:
        return False

    def is_text(self, type: str) -> bool:
        name = type.upper()
        return "INT" not in name and any(part in name for part in ("CHAR", "CLOB", "TEXT"))

    def add_key(self, table: Table, quote: Callable[[str], str], *columns: str) -> str:
        # SQLite adds no primary key to a table.
        return self.add_unique_index(table, quote, *columns)
