"""What idempotency keys and the journal cost: requests a second with and without, side by side.

Run it with ``.venv/bin/python benchmarks/journal.py``. The rounds alternate; what is claimed is the
ratio within one run. Afterwards each journal is compared with its counters: every ID that was taken
must be in exactly one row.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import servers  # noqa: E402

from uniqueid import database_url  # noqa: E402
from uniqueid.store import Store  # noqa: E402

OFF, KEYS, ON = "neither", "a key with each request", "journal = on"


@dataclass
class Contestant:
    """A running service and what was measured of it."""

    name: str
    database: str
    service: servers.Service
    errors: int = 0
    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def measure(contestant: Contestant, clients: int, seconds: int) -> None:
    """One round of load."""
    script = ["-s", str(HERE / "key.lua")] if contestant.name == KEYS else []
    text = subprocess.run(
        ["wrk", f"-t{min(2, clients)}", f"-c{clients}", f"-d{seconds}", "--latency", *script]
        + [contestant.service.url + "/getid?range=1&mode=file"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    tail = re.search(r"99%\s+([\d.]+)(us|ms|s)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    assert rate is not None, text
    assert tail is not None, text
    contestant.errors += int(refused.group(1)) if refused else 0
    contestant.rates.append(float(rate.group(1)))
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}[tail.group(2)]
    contestant.p99.append(float(tail.group(1)) * unit)


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
        order = sorted(made)
        for _round in range(arguments.rounds):
            for key in order:
                measure(made[key], arguments.clients, arguments.seconds)
        print(f"{'database':<11} {'':<24} {'requests/s':>10} {'ratio':>6} {'spread':>11}", end="")
        print(f" {'p99 ms':>7} {'IDs':>8} {'recorded':>8}")
        for key in order:
            item, base = made[key], made[key[0], OFF]
            ratios = [
                rate / reference for rate, reference in zip(item.rates, base.rates, strict=True)
            ]
            taken, ids = recorded(item.service.database_url)
            wrong |= bool(item.errors) or (key[1] != OFF and taken != ids)
            spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
            print(
                f"{item.database:<11} {item.name:<24} {statistics.median(item.rates):>10.0f}"
                f" {statistics.median(ratios):>6.2f} {spread:>11}"
                f" {statistics.median(item.p99):>7.1f} {taken:>8} {ids:>8}"
            )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
