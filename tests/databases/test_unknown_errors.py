"""An error that no table of the dialects lists concerns the request that causes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import servers

from uniqueid.allocation.allocator import Allocator
from uniqueid.database.errors import Cause, classify
from uniqueid.errors import ModeNotStorable, TransactionRejected, UniqueIDError

from .direct import Direct, run_sql

SQLITE = """CREATE TRIGGER refused BEFORE INSERT ON uniqueindex WHEN NEW.id LIKE 'bad%'
    BEGIN SELECT RAISE(ABORT, 'refused by a trigger'); END"""
MARIADB = """CREATE TRIGGER refused BEFORE INSERT ON uniqueindex FOR EACH ROW
    IF NEW.id LIKE 'bad%' THEN
    SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused by a trigger'; END IF"""
POSTGRESQL = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''refused by a trigger''; END';
    CREATE TRIGGER refused BEFORE INSERT ON uniqueindex FOR EACH ROW
    WHEN (NEW.id LIKE 'bad%') EXECUTE FUNCTION refuse()"""
TRIGGER = {"sqlite": SQLITE, "mariadb": MARIADB, "postgresql": POSTGRESQL}
"""Refuses the first use of some modes, as an operator's own trigger would."""


def test_an_unknown_error_fails_one_request_and_no_other(direct: Direct, kind: str) -> None:
    """However the requests share transactions; the service stays available."""
    run_sql(direct, TRIGGER[servers.sql_of(kind)])
    allocator = Allocator(direct.store, request_timeout=60)

    def ask(mode: str) -> Any:
        try:
            return allocator.allocate(mode, 1).first
        except UniqueIDError as error:
            return error

    modes = [f"bad{n}" if n % 16 == 5 else f"good{n % 7}" for n in range(64)]
    with ThreadPoolExecutor(32) as pool:
        results = list(zip(modes, pool.map(ask, modes), strict=True))
    for mode, result in results:
        if mode.startswith("bad"):
            assert isinstance(result, TransactionRejected), result
            assert "refused by a trigger" in str(result)
        else:
            assert isinstance(result, int), (mode, result)
    assert allocator.unavailable is None
    assert allocator.allocate("good0", 1).first == modes.count("good0") + 1
    assert allocator.close(30)


@pytest.mark.parametrize("kind", ["mariadb", "mysql"])
def test_a_mode_that_the_column_cannot_store_is_refused_and_no_other(
    direct: Direct, database_server: servers.MariaDB
) -> None:
    """Each server has its own code for it."""
    name = direct.store.url.database
    for column in ("uniqueindex MODIFY id", "uniqueidjournal MODIFY mode"):
        database_server.sql(
            f"ALTER TABLE {column} VARCHAR(255) CHARACTER SET latin1 NOT NULL", name
        )
    allocator = Allocator(direct.store, request_timeout=60)

    def ask(mode: str) -> Any:
        try:
            return allocator.allocate(mode, 1).first
        except UniqueIDError as error:
            return error

    modes = ["file", "\u6f22\u5b57", "caf\u00e9", "\U0001f600"] * 8
    with ThreadPoolExecutor(32) as pool:
        results = list(zip(modes, pool.map(ask, modes), strict=True))
    for mode, result in results:
        if mode in ("file", "caf\u00e9"):
            assert isinstance(result, int), (mode, result)
        else:
            assert isinstance(result, ModeNotStorable), (mode, result)
    assert allocator.close(30)


def test_what_no_dialect_lists_is_other(direct: Direct) -> None:
    """An error of SQL that the service never sends."""
    with pytest.raises(Exception, match=r".") as caught:
        run_sql(direct, "SELECT no_such_function(1, 2)")
    assert classify(caught.value) is Cause.OTHER
