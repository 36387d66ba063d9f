"""Pony's provider for PostgreSQL through psycopg2; apart from the dialect since the driver is an
extra."""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pony.orm.dbapiprovider import wrap_dbapi_exceptions
from pony.orm.dbproviders import postgres
from psycopg2 import OperationalError, extensions

from uniqueid.database.dialects.base import ConnectOptions
from uniqueid.database.dialects.provider import is_single_statement, keep_connection
from uniqueid.database_url import Address, DatabaseURL

log = logging.getLogger(__name__)

_MIN_SHARE = 1.0
"""Seconds for an address, however many there are."""


@dataclass(frozen=True)
class Attempt:
    """Where to connect, and for how long."""

    addresses: tuple[Address, ...]
    total: float
    """Seconds for all addresses, shared out among them."""
    each: float | None
    """Seconds for an address instead, as libpq's `connect_timeout`."""
    answer_timeout: float
    """Seconds for each answer of the server on a session."""
    is_rejected: Callable[[BaseException], bool]
    """Whether an error says that the server has rejected the user, password or database."""

    def places(self) -> Iterator[tuple[dict[str, Any], float]]:
        """The parameters of each address in turn, and the seconds that it has.

        A name is resolved here and not by libpq, which goes on to a name's next address, or the
        next host, only when the one before has failed: packets that are dropped fail after minutes,
        and libpq's own `connect_timeout` counts for blocking connections alone.
        """
        share = self.total / len(self.addresses)
        for host, port in self.addresses:
            place: dict[str, Any] = {} if host is None else {"host": host}
            if port is not None:
                place["port"] = port
            resolved: list[dict[str, Any]] = [{}]
            if host is not None and not host.startswith(("/", "@")):
                try:
                    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                except (OSError, UnicodeError) as error:
                    # libpq says so in words of its own.
                    log.debug("the host %s has no address: %s", host, error)
                else:
                    resolved = [{"hostaddr": address[0]} for *_rest, address in found]
            for address in resolved:
                seconds = self.each or max(_MIN_SHARE, share / len(resolved))
                yield {**place, **address}, seconds


def arguments(url: DatabaseURL, options: ConnectOptions) -> dict[str, Any]:
    """What `psycopg2.connect` is called with (libpq's manual, parameter key words), apart from the
    address."""
    given = dict(url.options)
    given.pop("connect_timeout", None)
    named = {"user": url.user, "password": url.password}
    return {
        # A server that vanished without a word is noticed after about 11 seconds.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 11_000,
        "application_name": "pacifica-uniqueid",
        **{name: value for name, value in named.items() if value is not None},
        **given,
        "dbname": url.database,
    }


def attempt(
    url: DatabaseURL, options: ConnectOptions, is_rejected: Callable[[BaseException], bool]
) -> Attempt:
    """How the addresses of a URL are tried."""
    each = dict(url.options).get("connect_timeout")
    return Attempt(
        url.addresses,
        options.connect_timeout,
        None if each is None else float(each),
        options.answer_timeout,
        is_rejected,
    )


class Connection(extensions.connection):  # type: ignore[misc]
    """A connection that knows how long it may wait."""

    answer_timeout: float | None = None
    """Seconds for the server's next words; None waits forever."""
    connect_timeout: float | None = None
    connect_by: float | None = None
    """Until when, by the monotonic clock, the session has to be open."""


def wait_for_answer(connection: Any) -> None:
    """Wait until the server has answered, but not forever.

    libpq waits for as long as the connection stands, and a stopped server, or a proxy that holds
    it up, stands forever. psycopg2 calls this wherever it would wait, in the whole process
    (psycopg2's manual, "Support for coroutine libraries"), and closes the connection if it raises.

    :raises psycopg2.OperationalError: when nothing came for the connection's time-out.
    """
    timeout = limit = getattr(connection, "answer_timeout", None)
    connect_by = getattr(connection, "connect_by", None)
    if connect_by is not None:
        limit = connection.connect_timeout
    while (state := connection.poll()) != extensions.POLL_OK:
        if connect_by is not None:
            timeout = max(0.0, connect_by - time.monotonic())
        ready = select.poll()
        ready.register(
            connection.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT
        )
        if not ready.poll(None if timeout is None else timeout * 1000):
            raise OperationalError(f"the server did not answer within {limit:g} seconds")


def connect(module: Any, how: Attempt, **parameters: Any) -> Any:
    """A session with the first address that takes one.

    :raises psycopg2.OperationalError: when none does; at once where the server rejects the user,
        the password or the database's name, as libpq does it.
    """
    errors: list[tuple[str, Exception]] = []
    for place, seconds in how.places():
        factory = type(
            "TimedConnection",
            (Connection,),
            {
                "answer_timeout": how.answer_timeout,
                "connect_timeout": seconds,
                "connect_by": time.monotonic() + seconds,
            },
        )
        try:
            connection = module.connect(**parameters, **place, connection_factory=factory)
        except OperationalError as error:
            if how.is_rejected(error):
                raise
            errors.append((str(place.get("hostaddr") or place.get("host") or "localhost"), error))
            continue
        connection.connect_by = None
        _warn_of_plain_text(connection, parameters, place)
        return connection
    try:
        if len(errors) == 1:
            raise errors[0][1]
        raise OperationalError("; ".join(f"{address}: {error}" for address, error in errors))
    finally:
        # An error refers to this frame, and to a socket that would stay open until Python finds the
        # cycle.
        errors.clear()


def _warn_of_plain_text(connection: Any, parameters: dict[str, Any], place: dict[str, Any]) -> None:
    """Report a session that is not encrypted because of this side.

    With the default `sslmode` libpq goes on in plain text where it cannot use the client
    certificate, which it looks for in the home directory.
    """
    if (
        connection.info.ssl_in_use
        or "hostaddr" not in place
        or parameters.get("sslmode") == "disable"
    ):
        return
    file = (
        parameters.get("sslcert")
        or os.environ.get("PGSSLCERT")
        or os.path.expanduser("~/.postgresql/postgresql.crt")
    )
    try:
        with open(file, "rb"):
            reason = "check it and its key"
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        reason = str(error.strerror)
    log.warning(
        "the session with the database %s is not encrypted: the client certificate %s cannot be"
        " used (%s); correct that, or name another with sslcert; sslmode=require makes it an error"
        " and sslmode=disable accepts it",
        place["host"], file, reason,
    )  # fmt: skip


class PostgreSQLPool(postgres.PGPool):  # type: ignore[misc]
    """One connection, serializable from its start.

    :param set_up_session: called with a cursor of each new connection, outside a transaction.
    """

    __slots__ = ("attempt", "con", "pid", "set_up_session")

    def __init__(
        self, set_up_session: Callable[[Any], None], attempt: Attempt, *args: Any, **kwargs: Any
    ) -> None:
        self.set_up_session = set_up_session
        self.attempt = attempt
        keep_connection(self, lambda: super(PostgreSQLPool, self).__init__(*args, **kwargs))

    def _connect(self) -> None:
        try:
            self.con = connect(self.dbapi_module, self.attempt, **self.kwargs)
            self.con.set_client_encoding("UTF8")
            # Not in a transaction, whose end could take the settings back.
            self.con.autocommit = True
            with self.con.cursor() as cursor:
                self.set_up_session(cursor)
            self.con.autocommit = False
        except BaseException:
            # A session that is half set up is not used: Pony would keep it.
            self.disconnect()
            raise

    def release(self, con: Any) -> None:
        if con.status != extensions.STATUS_READY:
            con.rollback()


class PostgreSQLProvider(postgres.PGProvider):  # type: ignore[misc]
    """PostgreSQL without Pony's reconnecting and its DISCARD ALL after each transaction."""

    def should_reconnect(self, exc: BaseException) -> bool:
        return False

    def get_pool(
        self,
        *args: Any,
        set_up_session: Callable[[Any], None],
        attempt: Attempt,
        **kwargs: Any,
    ) -> PostgreSQLPool:
        extensions.set_wait_callback(wait_for_answer)
        return PostgreSQLPool(set_up_session, attempt, self.dbapi_module, *args, **kwargs)

    @wrap_dbapi_exceptions  # type: ignore[untyped-decorator]
    def set_transaction_mode(self, connection: Any, cache: Any) -> None:
        if is_single_statement(cache):
            # No round trip. The session's default is serializable, and psycopg2 sends no COMMIT.
            connection.autocommit = True
            cache.in_transaction = True
            return
        session = cache.db_session
        # DDL would commit step by step without a transaction.
        transaction = session is not None and (session.serializable or session.ddl)
        # No round trip: it is for the next BEGIN.
        connection.autocommit = False
        if transaction:
            connection.isolation_level = extensions.ISOLATION_LEVEL_SERIALIZABLE
        else:
            # A serializable reader of all counters could be refused because of those who write.
            connection.isolation_level = extensions.ISOLATION_LEVEL_READ_COMMITTED
        cache.in_transaction = transaction
