"""What differs between the databases: one module each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uniqueid.database.dialects.base import Dialect
from uniqueid.database.dialects.mysql import MySQL
from uniqueid.database.dialects.postgresql import PostgreSQL
from uniqueid.database.dialects.sqlite import SQLite

if TYPE_CHECKING:
    from uniqueid.database_url import Kind

DIALECTS: dict[Kind, Dialect] = {
    "sqlite": SQLite(),
    "mysql": MySQL(),
    "postgresql": PostgreSQL(),
}
