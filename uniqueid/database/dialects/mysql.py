"""MySQL and MariaDB, whose tables have to be InnoDB."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from pony.orm.dbapiprovider import Pool, wrap_dbapi_exceptions
from pony.orm.dbproviders import mysql

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
from uniqueid.database.dialects.provider import is_single_statement, keep_connection
from uniqueid.database.durability import DurabilityMonitor, DurabilityProblem
from uniqueid.database_url import DatabaseURL

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

# MySQL's server and client error references, and MariaDB's. What is missing here is `Cause.OTHER`.
_CAUSES = {
    **dict.fromkeys(
        (1040, 1047, 1053, 1077, 1129, 1152, 1158, 1159, 1160, 1161, 1203, 1226, 1317, 1927, 4031),
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
    # files and disk space, memory, privileges, a table that is damaged or is not the service's
    **dict.fromkeys((3, 14, 23, 28, 1021, 1026, 1030, 1037, 1038, 1041, 1114), Cause.REFUSED),
    **dict.fromkeys((1044, 1045, 1049, 1130, 1142, 1143, 1227, 1698, 1820, 3118), Cause.REFUSED),
    **dict.fromkeys((1034, 1036, 1054, 1194, 1195, 1812, 1814, 1932, 3098, 4151), Cause.REFUSED),
    **dict.fromkeys((1264, 1267, 1366, 1406, 3854, 3988), Cause.NOT_STORABLE),
}
_UNKNOWN_VARIABLE = 1193
_REJECTED = frozenset({1044, 1045, 1049, 1130, 1698, 3118, 4151})
"""Access denied, unknown database, host that may not connect, locked account."""
_CONNECTION_LIMIT = frozenset({1040, 1203, 1226})

_SINGLE_STATEMENTS_BEFORE_AUTOCOMMIT = 4
"""In succession: to change a session's autocommit takes a round trip."""


class MySQL(Dialect):
    """Both servers: a variable that one of them does not have is not checked."""

    name = "MySQL or MariaDB"
    drivers = ("pymysql", "MySQLdb")
    quote_character = "`"
    generated_key = "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY"
    exact_text = "VARBINARY"

    def binding(
        self, url: DatabaseURL, options: ConnectOptions
    ) -> tuple[type[MySQLProvider], dict[str, Any]]:
        arguments: dict[str, Any] = _options(dict(url.options))
        named = {"host": url.host, "port": url.port, "user": url.user, "password": url.password}
        arguments |= {name: value for name, value in named.items() if value is not None}
        return MySQLProvider, {
            **arguments,
            # Of a text, PyMySQL makes Latin-1, and an error that shows it where that fails.
            "password": (url.password or "").encode(),
            "database": url.database,
            "charset": "utf8mb4",
            "connect_timeout": float(arguments.get("connect_timeout", options.connect_timeout)),
            "read_timeout": options.answer_timeout,
            "write_timeout": options.answer_timeout,
            "durability": options.durability,
        }

    def cause_of(self, error: BaseException) -> Cause | None:
        if not type(error).__module__.startswith(self.drivers):
            return None
        if type(error).__name__ == "InterfaceError":
            return Cause.CONNECTION
        code = error.args[0] if error.args else None
        return _CAUSES.get(code, Cause.OTHER) if isinstance(code, int) else Cause.CONNECTION

    def is_rejected(self, error: BaseException) -> bool:
        return self._code_of(error) in _REJECTED

    def is_connection_limit(self, error: BaseException) -> bool:
        return self._code_of(error) in _CONNECTION_LIMIT

    def _code_of(self, error: BaseException) -> object:
        is_driver = type(error).__module__.startswith(self.drivers)
        return error.args[0] if is_driver and error.args else None

    def set_up_session(self, cursor: Any) -> list[DurabilityProblem]:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute(
            f"SET SESSION sql_mode = '{SQL_MODE}', innodb_lock_wait_timeout = {LOCK_WAIT}"
        )
        try:
            cursor.execute(f"SET SESSION idle_transaction_timeout = {IDLE_IN_TRANSACTION}")
            cursor.connection.idle_timeout = None
        except mysql.mysql_module.MySQLError as error:
            if self._code_of(error) != _UNKNOWN_VARIABLE:
                raise
            # MySQL: `MySQLProvider` sets wait_timeout, for the length of a transaction.
            cursor.execute("SELECT @@SESSION.wait_timeout")
            (cursor.connection.idle_timeout,) = cursor.fetchone()
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

    def counters_options(self, select: Select) -> str:
        # Each mode is a counter of its own: no collation in which two spellings are equal.
        rows = select(
            "SELECT collation_name, character_set_name FROM information_schema.collations"
            " WHERE collation_name IN ('utf8mb4_nopad_bin', 'utf8mb4_0900_bin', 'utf8mb4_bin')",
            {},
        )
        names = {str(name) for name, _character_set in rows}
        exact = names & {"utf8mb4_nopad_bin", "utf8mb4_0900_bin"} or names
        return f" ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {min(exact)}"

    def mode_type(self, select: Select) -> str:
        ((character_set, collation),) = select(
            "SELECT character_set_name, collation_name FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = 'uniqueindex'"
            " AND column_name = 'id'",
            {},
        )
        return f"VARCHAR(255) CHARACTER SET {character_set} COLLATE {collation}"

    def widen_column(self, table: str, column: str) -> str:
        return f"ALTER TABLE {self.quote(table)} MODIFY {self.quote(column)} BIGINT NOT NULL"

    def create_table(
        self,
        table: str,
        columns: Mapping[str, str],
        indexes: Mapping[str, tuple[bool, Sequence[str]]],
    ) -> list[str]:
        # In one statement: it has no CREATE INDEX IF NOT EXISTS.
        quote = self.quote
        lines = [f"{quote(name)} {type}" for name, type in columns.items()]
        lines += [
            f"{'UNIQUE ' if unique else ''}KEY {quote(name)} ({', '.join(map(quote, parts))})"
            for name, (unique, parts) in indexes.items()
        ]
        end = " ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4"
        return [f"CREATE TABLE IF NOT EXISTS {quote(table)} ({', '.join(lines)}){end}"]

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


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """What PyMySQL takes in the place of the `ssl_mode` of MySQL's own clients.

    Without any of these options it uses TLS where the server offers it.
    """
    mode = options.pop("ssl_mode", None)
    switches: dict[str, Any] = {
        name: options.pop(name) == "true"
        for name in ("ssl_disabled", "ssl_verify_cert", "ssl_verify_identity")
        if name in options
    }
    if mode in ("VERIFY_CA", "VERIFY_IDENTITY"):
        switches["ssl_verify_cert"] = True
    if mode == "VERIFY_IDENTITY":
        switches["ssl_verify_identity"] = True
    encrypts = mode not in (None, "DISABLED") or any(name.startswith("ssl") for name in options)
    if mode == "DISABLED" or ("unix_socket" in options and not encrypts):
        # What does not leave the machine needs no encryption.
        switches["ssl_disabled"] = True
    if mode == "REQUIRED" and not options.keys() & {"ssl_ca", "ssl_cert", "ssl_key"}:
        # Encrypted or not at all, with whichever certificate.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        options["ssl"] = context
    return {**options, **switches}


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


class MySQLPool(Pool):  # type: ignore[misc]
    """One connection, serializable and strict from its start.

    :param durability: takes the result of the checks in each new session.
    """

    __slots__ = ("con", "durability", "pid")

    def __init__(self, durability: DurabilityMonitor, *args: Any, **kwargs: Any) -> None:
        self.durability = durability
        keep_connection(self, lambda: super(MySQLPool, self).__init__(*args, **kwargs))

    def _connect(self) -> None:
        super()._connect()
        try:
            with self.con.cursor() as cursor:
                self.durability.report(MySQL().set_up_session(cursor))
        except BaseException:
            # A session that is half set up is not used: Pony would keep it.
            self.drop(self.con)
            raise

    def release(self, con: Any) -> None:
        if con.server_status & mysql.mysql_module.constants.SERVER_STATUS.SERVER_STATUS_IN_TRANS:
            super().release(con)
        if getattr(con, "idle_timeout_reduced", False):
            con.query(f"SET SESSION wait_timeout = {con.idle_timeout}")
            con.idle_timeout_reduced = False


class MySQLProvider(mysql.MySQLProvider):  # type: ignore[misc]
    """MySQL and MariaDB through PyMySQL."""

    _single_statements = 0
    """Sessions of a single statement in succession."""

    def should_reconnect(self, exc: BaseException) -> bool:
        return False

    def get_pool(self, *args: Any, durability: DurabilityMonitor, **kwargs: Any) -> MySQLPool:
        pool = super().get_pool(*args, **kwargs)
        return MySQLPool(durability, pool.dbapi_module, *pool.args, **pool.kwargs)

    @wrap_dbapi_exceptions  # type: ignore[untyped-decorator]
    def set_transaction_mode(self, connection: Any, cache: Any) -> None:
        cache.immediate = True
        if is_single_statement(cache):
            self._single_statements += 1
            if (
                self._single_statements >= _SINGLE_STATEMENTS_BEFORE_AUTOCOMMIT
                or connection.idle_timeout is not None
            ):
                connection.autocommit(True)
            # Otherwise it is an ordinary transaction with its COMMIT.
            cache.in_transaction = True
            return
        self._single_statements = 0
        serializable = cache.db_session is not None and cache.db_session.serializable
        if serializable and connection.idle_timeout is not None:
            connection.query(
                f"SET SESSION autocommit = 0, SESSION wait_timeout = {IDLE_IN_TRANSACTION}"
            )
            connection.idle_timeout_reduced = True
            cache.in_transaction = True
            return
        # A round trip if the last statement was committed automatically.
        connection.autocommit(False)
        if serializable:
            cache.in_transaction = True
        else:
            # A plain SELECT of a serializable InnoDB session locks the rows it reads.
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def commit(self, connection: Any, cache: Any = None) -> None:
        if _is_autocommitted(connection, cache):
            cache.in_transaction = False
        else:
            super().commit(connection, cache)

    def rollback(self, connection: Any, cache: Any = None) -> None:
        if _is_autocommitted(connection, cache):
            cache.in_transaction = False
        else:
            super().rollback(connection, cache)


def _is_autocommitted(connection: Any, cache: Any) -> bool:
    return cache is not None and is_single_statement(cache) and connection.get_autocommit()
