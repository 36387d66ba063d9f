"""How many commits a second one thread gets out of each database with its driver alone.

The least that a durable counter costs: one UPDATE of one row, and a COMMIT that is on disk.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
from peers import pinned, servers

UPDATE = "UPDATE counter SET next_id = next_id + 1 WHERE mode = 'file'"
TABLE = "CREATE TABLE counter (mode VARCHAR(255) PRIMARY KEY, next_id BIGINT NOT NULL)"
ROW = "INSERT INTO counter VALUES ('file', 1)"


def loop(connection: Any, seconds: float) -> float:
    """Commits a second."""
    cursor = connection.cursor()
    cursor.execute(TABLE)
    cursor.execute(ROW)
    connection.commit()
    number = 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        cursor.execute(UPDATE)
        connection.commit()
        number += 1
    return number / (time.perf_counter() - began)


def connect(kind: str, where: str) -> Any:
    """A connection with the durability of the service's own."""
    if kind == "SQLite":
        connection = sqlite3.connect(where)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = WAL")
        return connection
    if kind == "MariaDB":
        port, database = where.split("/")
        return pymysql.connect(
            host="127.0.0.1",
            port=int(port),
            user=servers.MariaDB.USER,
            password=servers.MariaDB.PASSWORD,
            database=database,
            ssl_disabled=True,
        )
    return psycopg2.connect(where)


def commits_per_second(seconds: int, cpu: int | None, load: set[int]) -> dict[str, float]:
    """Measure each database, by a process that is pinned to the contestants' CPU."""
    place = [] if cpu is None else ["taskset", "-c", str(cpu)]
    found = {}
    mariadb, postgresql = servers.MariaDB(), servers.PostgreSQL()
    with tempfile.TemporaryDirectory() as directory:
        try:
            with pinned(load):
                mariadb.start()
                postgresql.start()
            wheres: dict[str, Callable[[], str]] = {
                "SQLite": lambda: f"{directory}/raw.sqlite3",
                "MariaDB": lambda: f"{mariadb.port}/{mariadb.new_database()}",
                "PostgreSQL": lambda: postgresql.url(postgresql.new_database()),
            }
            for kind, where in wheres.items():
                program = [sys.executable, str(Path(__file__)), kind, where(), str(seconds)]
                text = subprocess.run(
                    [*place, *program], check=True, capture_output=True, text=True
                ).stdout
                found[kind] = float(json.loads(text))
        finally:
            mariadb.remove()
            postgresql.remove()
    return found


if __name__ == "__main__":
    os.environ.pop("PGOPTIONS", None)
    with closing(connect(sys.argv[1], sys.argv[2])) as opened:
        print(json.dumps(loop(opened, float(sys.argv[3]))))
