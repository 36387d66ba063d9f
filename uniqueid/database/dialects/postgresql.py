"""PostgreSQL; without its driver, which is an extra."""

from __future__ import annotations

import re
from typing import Any

from pony.orm.dbapiprovider import DBAPIProvider

from uniqueid.database.dialects.base import (
    IDLE_IN_TRANSACTION,
    LOCK_WAIT,
    Cause,
    ConnectOptions,
    Dialect,
    Select,
    Table,
    TableProblem,
    unique_keys,
    verify,
)
from uniqueid.database.durability import DurabilityProblem
from uniqueid.database_url import DatabaseURL

# SQLSTATE: PostgreSQL's manual, appendix A. What is missing here is `Cause.OTHER`.
_CAUSES = {
    **dict.fromkeys(
        ("25P03", "57P01", "57P02", "57P03", "57P05", "53300", "25006"), Cause.CONNECTION
    ),
    # A hot standby has no serializable transactions.
    "0A000": Cause.CONNECTION,
    "40001": Cause.SERIALIZATION,
    "40P01": Cause.DEADLOCK,
    "42P01": Cause.NO_TABLE,
    **dict.fromkeys(("55P03", "57014"), Cause.LOCK_TIMEOUT),
    # unique_violation, and what DDL says when another process makes the same table, its type, or
    # its key, at the same moment
    **dict.fromkeys(("23505", "42P07", "42P16", "42710"), Cause.DUPLICATE_KEY),
    **dict.fromkeys(("22001", "22003", "22021", "22P05"), Cause.NOT_STORABLE),
    # a missing privilege, schema or column
    **dict.fromkeys(("42501", "3D000", "3F000", "42703"), Cause.REFUSED),
}
_CAUSES_OF_CLASSES = {
    "08": Cause.CONNECTION,
    "28": Cause.REFUSED,
    # no disk space, memory or other resources
    "53": Cause.REFUSED,
    # errors of the operating system, internal errors such as a damaged file
    "58": Cause.REFUSED,
    "XX": Cause.REFUSED,
}
"""By the first two characters of the SQLSTATE, its class."""
_REJECTED = re.compile(
    r"FATAL:\s+(password authentication failed|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r'|(role|database) ".*" (does not exist|is not permitted to log in))'
)
"""libpq passes no SQLSTATE on for a connection that the server rejects, only its message."""
_CONNECTION_LIMIT = re.compile(
    r"FATAL:\s+(too many connections for|sorry, too many clients|remaining connection slots"
    r"|no more connections allowed)"
)
"""The last is PgBouncer's."""

# synchronous_commit: `on` is the least that survives a crash of the server, and a failover to a
# synchronous standby where there is one, which `local` and `remote_write` do not. `remote_apply` is
# stronger and kept. Not with startup options: PgBouncer refuses or drops them.
_SET = f"""SELECT set_config('default_transaction_isolation', 'serializable', false),
           set_config('lock_timeout', '{LOCK_WAIT}s', false),
           set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION}s', false),
           set_config('synchronous_commit', CASE current_setting('synchronous_commit')
               WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false);
"""
_CHECK = """SELECT current_setting('default_transaction_isolation'),
           current_setting('synchronous_commit'), current_setting('fsync'),
           current_setting('full_page_writes')
"""
_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "p": "a partitioned table",
    "f": "a foreign table",
}

_TABLE = """SELECT c.relkind::text, c.relpersistence::text, row_security_active(c.oid),
           EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
           (SELECT string_agg(format('%I.%I', n.nspname, o.relname), ' and ' ORDER BY n.nspname)
                FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace
                WHERE o.relname = c.relname AND o.oid <> c.oid
                AND o.relkind IN ('r', 'v', 'm', 'f', 'p')
                AND n.nspname = ANY (current_schemas(true))),
           format('%I.%I', s.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE c.oid = to_regclass($name)
"""
_COLUMNS = """SELECT a.attname::text, a.attnotnull,
           (CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END)::regtype::text
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = to_regclass($name) AND a.attnum > 0 AND NOT a.attisdropped
"""
# Of each column of a key: NULL for an expression, or where the key compares as the column does not.
# Columns that are only included (INCLUDE) are no part of the key.
_KEYS = """SELECT i.indexrelid::bigint, i.indisprimary,
           (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid
                AND a.attnum = i.indkey[place] AND a.attcollation = i.indcollation[place])
    FROM pg_index i, generate_series(0, i.indnkeyatts - 1) AS place
    WHERE i.indrelid = to_regclass($name) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
"""


class PostgreSQL(Dialect):
    """Names are looked up along the search path, as the service's own statements are."""

    name = "PostgreSQL"
    drivers = ("psycopg2",)
    generated_key = "BIGSERIAL PRIMARY KEY"

    def binding(
        self, url: DatabaseURL, options: ConnectOptions
    ) -> tuple[type[DBAPIProvider], dict[str, Any]]:
        import uniqueid.database.dialects.postgresql_provider as provider

        return provider.PostgreSQLProvider, {
            **provider.arguments(url, options),
            "attempt": provider.attempt(url, options, self.is_rejected),
            "set_up_session": lambda cursor: options.durability.report(self.set_up_session(cursor)),
        }

    def cause_of(self, error: BaseException) -> Cause | None:
        if not type(error).__module__.startswith(self.drivers):
            return None
        if type(error).__name__ == "InterfaceError":
            return Cause.CONNECTION
        state = getattr(error, "pgcode", None)
        # The client library has no SQLSTATE of its own: what it finds is a broken connection.
        if state is None:
            return Cause.CONNECTION
        return _CAUSES.get(state) or _CAUSES_OF_CLASSES.get(state[:2], Cause.OTHER)

    def is_rejected(self, error: BaseException) -> bool:
        return self._matches(error, _REJECTED)

    def is_connection_limit(self, error: BaseException) -> bool:
        return self._matches(error, _CONNECTION_LIMIT)

    def _matches(self, error: BaseException, message: re.Pattern[str]) -> bool:
        is_driver = type(error).__module__.startswith(self.drivers)
        return is_driver and message.search(str(error)) is not None

    def set_up_session(self, cursor: Any) -> list[DurabilityProblem]:
        # In one round trip.
        return self._check(cursor, _SET + _CHECK)

    def check_session(self, cursor: Any) -> list[DurabilityProblem]:
        return self._check(cursor, _CHECK)

    def _check(self, cursor: Any, sql: str) -> list[DurabilityProblem]:
        cursor.execute(sql)
        isolation, synchronous_commit, *server = cursor.fetchone()
        verify("default_transaction_isolation", isolation, "serializable")
        verify("synchronous_commit", synchronous_commit, "on", "remote_apply")
        return [
            DurabilityProblem(
                variable,
                value,
                "on",
                f"ALTER SYSTEM SET {variable} = on, then SELECT pg_reload_conf()",
            )
            for variable, value in zip(("fsync", "full_page_writes"), server, strict=True)
            if value != "on"
        ]

    def describe(self, select: Select, name: str) -> Table | None:
        found = select(_TABLE, {"name": name})
        if not found:
            return None
        columns = select(_COLUMNS, {"name": name})
        keys = select(_KEYS, {"name": name})
        return Table(
            name,
            {column: type for column, _not_null, type in columns},
            nullable=frozenset(column for column, not_null, _type in columns if not not_null),
            unique_keys=unique_keys((index, column) for index, _primary, column in keys),
            has_primary_key=any(primary for _index, primary, _column in keys),
            problems=tuple(_table_problems(name, *found[0])),
        )

    def is_wide_integer(self, type: str) -> bool:
        return type == "bigint"

    def is_narrow_integer(self, type: str) -> bool:
        return type in ("smallint", "integer")

    def is_text(self, type: str) -> bool:
        # Not name, which is shortened, and not character, which is padded.
        return type in ("character varying", "text") or type.rpartition(".")[2] == "citext"


def _table_problems(
    name: str, kind: str, persistence: str, row_security: bool, has_children: bool,
    others: str | None, qualified: str,
) -> list[TableProblem]:  # fmt: skip
    problems = []
    if others:
        problems.append(
            TableProblem(
                f"the search_path leads to several tables {name}: {qualified} and {others}",
                "rename those that are not the service's, or set the search_path of the service's"
                " role to one schema",
            )
        )
    if kind != "r":
        problems.append(
            TableProblem(
                f"{qualified} is {_KINDS.get(kind, 'no table')}, not a plain table",
                f"rename it and put the table {name} in its place",
            )
        )
    if persistence != "p":
        what = "an unlogged" if persistence == "u" else "a temporary"
        problems.append(
            TableProblem(
                f"{qualified} is {what} table, which a crash empties",
                f"convert it: ALTER TABLE {qualified} SET LOGGED"
                if persistence == "u"
                else "drop it in the session that has made it",
            )
        )
    if row_security:
        problems.append(
            TableProblem(
                f"row-level security hides rows of {qualified} from the service's role",
                f"ALTER TABLE {qualified} DISABLE ROW LEVEL SECURITY",
            )
        )
    if has_children:
        problems.append(
            TableProblem(
                f"other tables inherit from {qualified}, and their rows show in it",
                f"detach them: ALTER TABLE child NO INHERIT {qualified}",
            )
        )
    return problems
