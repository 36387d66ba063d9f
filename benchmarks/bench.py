"""Requests a second of the service and of what it is compared with, side by side.

Each contestant is first asked for ranges by as many clients as in the measurement, and every answer
is checked: a number is printed only for one that gave no ID twice. The rounds alternate, so that
what else the machine does falls on all of them; what is claimed is the ratio within one run.
"""

from __future__ import annotations

import argparse
import json
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

TARGET = "/getid?range=1&mode=file"


class OneTransaction(servers.Service):
    """The service's own store, but each request a transaction of its own."""

    module = "one_transaction"

    def command(self) -> list[str]:
        return [*super().command(), "--pythonpath", str(HERE), "--module", self.module]


class PlainPony(OneTransaction):
    """A route that bumps a counter in a transaction of Pony's."""

    module = "plain_pony"


OURS = "group commit"
BASE = "plain Pony, one transaction"
CONTESTANTS = {
    OURS: servers.Service,
    "this store, one transaction": OneTransaction,
    BASE: PlainPony,
}
"""Behind the same HTTP and the same uWSGI settings."""


@dataclass
class Contestant:
    """A running server and what was measured of it."""

    name: str
    database: str
    service: servers.Service
    answers: int = 0
    duplicates: int = 0
    errors: int = 0
    rates: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def prove(contestant: Contestant, clients: int, seconds: int) -> None:
    """Record every answer for a while and count what was given twice."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["wrk", "-t2", f"-c{clients}", f"-d{seconds}", "-s", str(HERE / "record.lua")]
            + [contestant.service.url + TARGET, "--", directory],
            check=True,
            capture_output=True,
        )
        lines = [line for file in Path(directory).iterdir() for line in file.open()]
    ranges = []
    for line in lines:
        if line.startswith("status"):
            contestant.errors += 1
        else:
            start, stop = line.split()
            ranges.append((int(start), int(stop)))
    ranges.sort()
    end = 0
    for first, last in ranges:
        contestant.duplicates += max(0, end - first + 1)
        end = max(end, last)
    contestant.answers = len(ranges)


def measure(contestant: Contestant, clients: int, seconds: int, *options: str) -> None:
    """One round of load, with more options of wrk."""
    text = subprocess.run(
        ["wrk", f"-t{min(2, clients)}", f"-c{clients}", f"-d{seconds}", "--latency", *options]
        + [contestant.service.url + TARGET],
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


def main() -> int:
    """Run the comparison; exit 1 when the service itself gave an ID twice or an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64, help="connections (64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contestant (3)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds a round (5)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    arguments = parser.parse_args()
    contestants: list[Contestant] = []
    with ExitStack() as stack:
        mariadb = servers.MariaDB()
        stack.callback(mariadb.remove)
        mariadb.start()
        postgresql = servers.PostgreSQL()
        stack.callback(postgresql.remove)
        postgresql.start()
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        for number, (name, make) in enumerate(CONTESTANTS.items()):
            urls = {
                "SQLite": f"sqlite:///{directory}/{number}.sqlite3",
                "MariaDB": mariadb.url(mariadb.new_database()),
                "PostgreSQL": postgresql.url(postgresql.new_database()),
            }
            for database, url in urls.items():
                service = make(url)
                stack.callback(service.remove)
                service.start()
                contestants.append(Contestant(name, database, service))
        contestants.sort(key=lambda item: item.database)
        for contestant in contestants:
            prove(contestant, arguments.clients, arguments.seconds)
        for _ in range(arguments.rounds):
            for contestant in contestants:
                measure(contestant, arguments.clients, arguments.seconds)
    return report(contestants, arguments.json)


def report(contestants: list[Contestant], file: str | None) -> int:
    """Print the table; the exit status."""
    base = {
        item.database: statistics.median(item.rates) for item in contestants if item.name == BASE
    }
    rows = []
    print(
        f"{'database':<11} {'contestant':<28} {'requests/s':>10} {'ratio':>6} {'spread':>13}",
        end="",
    )
    print(f" {'p99 ms':>7} {'proved':>8} {'duplicates':>10} {'errors':>7}")
    for item in contestants:
        ratios = [rate / base[item.database] for rate in item.rates]
        row = {
            "database": item.database,
            "contestant": item.name,
            "requests_per_second": round(statistics.median(item.rates)),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_lowest": round(min(ratios), 2),
            "ratio_highest": round(max(ratios), 2),
            "p99_ms": round(statistics.median(item.p99), 1),
            "answers_checked": item.answers,
            "duplicates": item.duplicates,
            "errors": item.errors,
        }
        rows.append(row)
        spread = f"{row['ratio_lowest']}..{row['ratio_highest']}"
        print(
            f"{item.database:<11} {item.name:<28} {row['requests_per_second']:>10}"
            f" {row['ratio']:>6} {spread:>13} {row['p99_ms']:>7} {item.answers:>8}"
            f" {item.duplicates:>10} {item.errors:>7}"
        )
    if file:
        Path(file).write_text(json.dumps(rows, indent=1) + "\n")
    ours = [item for item in contestants if item.name == OURS]
    return int(any(item.duplicates or item.errors or not item.answers for item in ours))


if __name__ == "__main__":
    sys.exit(main())
