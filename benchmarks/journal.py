"""What idempotency keys and the journal cost: requests a second with and without, side by side.

Run it with ``.venv/bin/python benchmarks/journal.py``. The rounds alternate; what is claimed is the
ratio within one run. Afterwards each journal is compared with its counters: every ID that was taken
must be in exactly one row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack

from bench import HERE, Contestant, measure
from peers import servers

from uniqueid import database_url
from uniqueid.database.store import Store

OFF, KEYS, ON = "neither", "a key with each request", "journal = on"


def recorded(url: str) -> tuple[int, int]:
    """How many IDs are below the counter, and how many are in the journal, each counted once."""
    store = Store(database_url.parse(url, "url", "benchmark"))
    taken = store.counters().get("file", 1) - 1
    store.need_journal()
    reach = ids = 0
    for row in store.journal.rows(mode="file"):
        ids += max(0, row.last - max(row.first, reach + 1) + 1)
        reach = max(reach, row.last)
    store.disconnect()
    return taken, ids


def main() -> int:
    """Measure; exit 1 where a journal and its counter do not agree, or an answer was no 200."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64, help="connections (64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (3)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds a round (5)")
    arguments = parser.parse_args()
    load = os.sched_getaffinity(0)
    wrong = False
    with ExitStack() as stack:
        mariadb = servers.MariaDB()
        stack.callback(mariadb.remove)
        mariadb.start()
        postgresql = servers.PostgreSQL()
        stack.callback(postgresql.remove)
        postgresql.start()
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        made: dict[tuple[str, str], Contestant] = {}
        urls: dict[tuple[str, str], str] = {}
        for name in (OFF, KEYS, ON):
            for database, url in {
                "SQLite": f"sqlite:///{directory}/{len(made)}.sqlite3",
                "MariaDB": mariadb.url(mariadb.new_database()),
                "PostgreSQL": postgresql.url(postgresql.new_database()),
            }.items():
                settings = {"journal": "on"} if name == ON else {}
                service = servers.Service(url, **settings)
                stack.callback(service.remove)
                service.start()
                made[database, name] = Contestant(name, database, service)
                urls[database, name] = url
        order = sorted(made)
        for _round in range(arguments.rounds):
            for key in order:
                script = ["-s", str(HERE / "key.lua")] if key[1] == KEYS else []
                measure(made[key], arguments.clients, arguments.seconds, load, *script)
        print(f"{'database':<11} {'':<24} {'requests/s':>10} {'ratio':>6} {'spread':>11}", end="")
        print(f" {'p99 ms':>7} {'IDs':>8} {'recorded':>8}")
        for key in order:
            item = made[key]
            rates = item.rates(arguments.clients)
            base = made[key[0], OFF].rates(arguments.clients)
            ratios = [rate / reference for rate, reference in zip(rates, base, strict=True)]
            p99 = statistics.median(one.p99 for one in item.loads[arguments.clients])
            taken, ids = recorded(urls[key])
            wrong |= bool(item.errors) or (key[1] != OFF and taken != ids)
            spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
            print(
                f"{item.database:<11} {item.name:<24} {statistics.median(rates):>10.0f}"
                f" {statistics.median(ratios):>6.2f} {spread:>11}"
                f" {p99:>7.1f} {taken:>8} {ids:>8}"
            )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
