"""The connection to one database, with Pony's entities on it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, TypeVar

from pony.orm import Database, PrimaryKey, Required, db_session

from uniqueid.database.dialects import DIALECTS
from uniqueid.database.dialects.base import LOCK_WAIT, ConnectOptions
from uniqueid.database.durability import DurabilityMonitor
from uniqueid.database.errors import TRANSIENT, Cause, classify, is_rejected, unavailable
from uniqueid.database_url import DatabaseURL
from uniqueid.errors import DatabaseUnavailable, UniqueIDError, UnsafeSession

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 5
"""Seconds, at most."""

Answer = TypeVar("Answer")


class Engine:
    """One database, bound to Pony once.

    Any thread may call `open`, and `_opening` guards `_opened`. One thread at a time uses the rest.

    :param url: of the database.
    :param create: whether SQLite may create its file.
    :param timeout: seconds for a connection to be made and for an answer to a statement.
    :param durability: takes the result of the checks in each new session.
    """

    def __init__(
        self,
        url: DatabaseURL,
        *,
        create: bool,
        timeout: float,
        durability: DurabilityMonitor | None,
    ) -> None:
        self.url = url
        self.dialect = DIALECTS[url.kind]
        self.connections = 0
        """How many connections were made so far: a new one may lead to another server."""
        self.connected = False
        """Whether a connection was made and not closed since; any thread may read it."""
        # Longer than a statement may wait for a lock.
        timeout = max(LOCK_WAIT + 1, timeout)
        self._options = ConnectOptions(
            create, min(timeout, _CONNECT_TIMEOUT), timeout, durability or DurabilityMonitor()
        )
        self._opened = False
        self._opening = threading.Lock()
        self.database = Database()

        class Counter(self.database.Entity):  # type: ignore[name-defined, misc]
            """A mode and its next ID, in the table of every release."""

            _table_ = "uniqueindex"
            mode = PrimaryKey(str, 255, column="id", autostrip=False)
            # Volatile: Pony does not see the guarded UPDATE.
            next_id = Required(int, size=64, column="index", volatile=True)

        self.Counter = Counter

        @self.database.on_connect()  # type: ignore[untyped-decorator]
        def count(_database: Any, _connection: Any) -> None:
            self.connections += 1
            self.connected = True

    def open(self) -> None:
        """Bind the entities to the database, which makes a first connection; once is enough.

        :raises DatabaseUnavailable: when it cannot be reached or refuses.
        """
        if self._opened:
            return
        with self._opening:
            if self._opened:
                return
            provider, arguments = self.dialect.binding(self.url, self._options)
            try:
                self.database.bind(provider, **arguments)
            except Exception as error:
                raise unavailable(error) from error
            self.database.generate_mapping(check_tables=False)
            self._opened = True

    def connect(self, attempts: int, wait: float, sleep: Callable[[float], None]) -> None:
        """Open the database, and wait for one that is still starting.

        :param attempts: how often to try; `wait` seconds lie between two.
        :raises DatabaseUnavailable: after the last attempt; at once where the server rejects the
            user, the password or the database's name, and where waiting is of no use.
        :raises SchemaError: when there is no SQLite file.
        """
        self.dialect.check_before_connect(self.url, self._options.create)
        for attempt in range(1, attempts + 1):
            try:
                self.open()
                log.info("database %s reached at attempt %d of %d", self.url, attempt, attempts)
                return
            except UnsafeSession:
                # Waiting changes no variable.
                raise
            except DatabaseUnavailable as error:
                if not self.dialect.may_recover(classify(error.__cause__ or error)):
                    cause = f"{self.url.database} cannot be opened: {error.cause}"
                    raise DatabaseUnavailable(cause) from error
                if error.__cause__ is not None and is_rejected(error.__cause__):
                    cause = f"database {self.url} rejects the connection: {error.cause}"
                    raise DatabaseUnavailable(cause) from error
                log.warning(
                    "database %s not reached at attempt %d of %d: %s",
                    self.url, attempt, attempts, error.cause,
                )  # fmt: skip
                if attempt == attempts:
                    raise
            sleep(wait)

    def disconnect(self) -> None:
        """Close the connection; the next statement makes a new one."""
        self.connected = False
        self.database.disconnect()

    def execute(self, sql: str, values: Sequence[object]) -> Any:
        """Run a statement with the driver's placeholders in the current session; the cursor.

        Unlike Pony's `execute`, which keeps each text forever, it takes texts of any number.
        """
        database = self.database
        cursor = database.get_connection().cursor()
        database.provider.execute(cursor, sql, values)
        return cursor

    def read(self, question: Callable[[], Answer]) -> Answer:
        """Ask, and once more if the connection turns out to have been lost since its last use.

        :param question: makes its own session, and can be repeated.
        :raises DatabaseUnavailable: when the database does not answer.
        """
        self.open()
        for last in (False, True):
            try:
                return question()
            except UniqueIDError:
                raise
            except Exception as error:
                cause = classify(error)
                if cause not in TRANSIENT or cause is Cause.CONNECTION:
                    self.disconnect()
                if cause is Cause.CONNECTION and not last:
                    continue
                raise unavailable(error) from error
        raise AssertionError("unreachable")

    def ping(self) -> None:
        """See that the database would execute a transaction.

        One that conflicts with another shows that it does.
        """
        try:
            with db_session, closing(self.database.get_connection().cursor()) as cursor:
                self.dialect.check_writable(cursor)
        except Exception as error:
            cause = classify(error)
            if cause is Cause.CONNECTION or cause not in TRANSIENT:
                raise

    def check_session(self) -> None:
        """Check the settings of the session, and its server's, again.

        :raises UnsafeSession: when they may not be used.
        """
        with db_session, closing(self.database.get_connection().cursor()) as cursor:
            self._options.durability.report(self.dialect.check_session(cursor))
