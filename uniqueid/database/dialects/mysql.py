"""MySQL and MariaDB, whose tables have to be InnoDB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uniqueid.database.dialects.base import (
    LOCK_WAIT,
    Select,
    ServerDialect,
    Table,
    TableProblem,
    unique_keys,
    verify,
)
from uniqueid.database.durability import DurabilityProblem

SQL_MODE = "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION"
"""Strict: a value out of range is an error instead of being changed to fit. And no other storage
engine takes the place of InnoDB. Nothing else is inherited from the server."""

_VARIABLES = (
    "tx_isolation",
    "transaction_isolation",
    "sql_mode",
    "innodb_flush_log_at_trx_commit",
    "innodb_flush_method",
    "innodb_doublewrite",
    "log_bin",
    "sync_binlog",
)
_SHOW = "SHOW VARIABLES WHERE Variable_name IN ({})".format(
    ", ".join(f"'{name}'" for name in _VARIABLES)
)
_TEXT_TYPES = frozenset({"varchar", "tinytext", "text", "mediumtext", "longtext"})
_NARROW_TYPES = frozenset({"tinyint", "smallint", "mediumint", "int"})


class MySQL(ServerDialect):
    """Both servers: a variable that one of them does not have is not checked."""

    def set_up_session(self, cursor: Any) -> list[DurabilityProblem]:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute(
            f"SET SESSION sql_mode = '{SQL_MODE}', innodb_lock_wait_timeout = {LOCK_WAIT}"
        )
        return self.check_session(cursor)

    def check_session(self, cursor: Any) -> list[DurabilityProblem]:
        cursor.execute(_SHOW)
        values = {str(name).lower(): str(value) for name, value in cursor.fetchall()}
        # MariaDB before 11.1 has the first, MySQL 8 the second.
        isolation = values.get("tx_isolation") or values.get("transaction_isolation")
        verify("isolation level", isolation, "SERIALIZABLE")
        modes = set(values["sql_mode"].split(","))
        verify("sql_mode", ",".join(sorted(modes)), ",".join(sorted(SQL_MODE.split(","))))
        return _server_problems(values)

    def describe(self, select: Select, name: str) -> Table | None:
        tables = select(
            "SELECT table_name, table_type, engine FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_name = $name",
            {"name": name},
        )
        if not tables:
            return None
        _name, table_type, engine = tables[0]
        columns = select(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = $name",
            {"name": name},
        )
        keys = select(
            "SELECT index_name, column_name, sub_part FROM information_schema.statistics"
            " WHERE table_schema = DATABASE() AND table_name = $name AND non_unique = 0",
            {"name": name},
        )
        return Table(
            name,
            {column: type.lower() for column, type, _nullable in columns},
            nullable=frozenset(column for column, _type, nullable in columns if nullable == "YES"),
            # A key on a prefix covers less than the value; an expression has no column's name.
            unique_keys=unique_keys(
                (index, None if prefix is not None else column) for index, column, prefix in keys
            ),
            has_primary_key=any(index == "PRIMARY" for index, _column, _prefix in keys),
            problems=tuple(_table_problems(name, table_type, engine)),
        )

    def is_wide_integer(self, type: str) -> bool:
        return type == "bigint"

    def is_narrow_integer(self, type: str) -> bool:
        return type in _NARROW_TYPES

    def is_text(self, type: str) -> bool:
        return type in _TEXT_TYPES


def _table_problems(name: str, table_type: str, engine: str | None) -> list[TableProblem]:
    if table_type != "BASE TABLE":
        return [
            TableProblem(
                f"{name} is a {table_type.lower()}, not a plain table",
                f"rename it and put the table {name} in its place",
            )
        ]
    if engine is None or engine.lower() != "innodb":
        return [
            TableProblem(
                f"the table {name} has the storage engine {engine}, which has no durable"
                " transactions",
                f"convert it: ALTER TABLE {name} ENGINE = InnoDB",
            )
        ]
    return []


def _server_problems(values: Mapping[str, str]) -> list[DurabilityProblem]:
    problems = []

    def need(variable: str, wrong: bool, needed: str, *, restart: bool = False) -> None:
        if wrong:
            assignment = f"{variable} = {needed.partition(' ')[0]}"
            how = (
                f"set {assignment} in the server's configuration and restart it"
                if restart
                else f"SET GLOBAL {assignment}, and the same in the server's configuration"
            )
            problems.append(DurabilityProblem(variable, values[variable], needed, how))

    # 3 is MariaDB's, and as safe as 1.
    flush = values.get("innodb_flush_log_at_trx_commit", "1")
    need("innodb_flush_log_at_trx_commit", flush not in ("1", "3"), "1")
    # Transactions that are prepared, and missing from the binary log, are rolled back by recovery.
    logs = values.get("log_bin", "OFF").upper() in ("ON", "1")
    need("sync_binlog", logs and values.get("sync_binlog", "1") != "1", "1")
    doublewrite = values.get("innodb_doublewrite", "ON").upper()
    need("innodb_doublewrite", doublewrite in ("OFF", "0", "DETECT_ONLY"), "ON", restart=True)
    method = values.get("innodb_flush_method", "fsync").lower()
    need("innodb_flush_method", method in ("nosync", "littlesync"), "fsync", restart=True)
    return problems
