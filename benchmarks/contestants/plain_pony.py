"""What one writes first: a route that bumps a counter in a serializable Pony transaction.

Pony's own providers, its entities and its retries, behind the service's HTTP and uWSGI settings.
"""

from __future__ import annotations

from typing import Any

from pony.orm import Database, PrimaryKey, Required, db_session

from uniqueid import config, service
from uniqueid.database import schema
from uniqueid.model import Allocation
from uniqueid.web.app import make_app
from uniqueid.web.parameters import Limits

_configuration = config.load()
_store = service.make_store(_configuration)
schema.require(_store)
_store.disconnect()

database = Database()


class Counter(database.Entity):  # type: ignore[name-defined, misc]
    """A mode and its next ID."""

    _table_ = "uniqueindex"
    mode = PrimaryKey(str, 255, column="id", autostrip=False)
    next_id = Required(int, size=64, column="index")


def _bind() -> None:
    url = _configuration.database
    if url.kind == "sqlite":
        database.bind("sqlite", url.database, timeout=30)
    else:
        database.bind(
            {"mysql": "mysql", "postgresql": "postgres"}[url.kind],
            host=url.host,
            port=url.port,
            user=url.user,
            password=url.password or "",
            **{"db" if url.kind == "mysql" else "dbname": url.database},
        )
    database.generate_mapping(check_tables=False)
    database.disconnect()


class PlainPony:
    """An allocator that is the route's own transaction."""

    def allocate(self, mode: str, count: int, record: object = None) -> Allocation:
        """A range of `count` IDs."""
        return Allocation(int(self._bump(mode, count)), 1)

    @staticmethod
    @db_session(serializable=True, retry=20)  # type: ignore[untyped-decorator]
    def _bump(mode: str, count: int) -> Any:
        counter = Counter.get_for_update(mode=mode)
        if counter is None:
            counter = Counter(mode=mode, next_id=1)
        first = counter.next_id
        counter.next_id = first + count
        return first


_bind()
application = make_app(PlainPony(), Limits())
