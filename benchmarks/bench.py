"""Requests a second of the service and of what it is compared with, side by side in one run.

Each contestant is first asked for ranges by as many clients as in the measurement, and every answer
is checked: how many IDs were given twice is printed beside its speed. The rounds alternate between
the contestants, so that what else the machine does falls on all of them; what is claimed is a ratio
within one run, with its lowest and highest round.

All contestants but the old service, which runs as its documentation starts it, are kept on one CPU
and stand behind the service's own uWSGI settings; the load comes from the other CPUs. Databases run
with the durability that they are shipped with: a commit is on disk when it is answered.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import raw
from peers import Ours, Redis, SameFront, Upstream, place, servers

HERE = Path(__file__).resolve().parent
TARGET = "/getid?range=1&mode=file"

OURS = "this service"
RESERVED = "this service (reserve = 1000)"
CEILING = "the ceiling: a counter in memory"
ONE = "this store, a transaction each"
PLAIN = "plain Pony, a transaction each"
UPSTREAM = "pacifica-uniqueid 0.5.1"
FLICKR = "Flickr's ticket table"
NEXTVAL = "PostgreSQL's nextval"
REDIS = "Redis INCRBY"


Server = servers.Service | Upstream


@dataclass
class Load:
    """What one round of load showed."""

    rate: float
    """Requests a second."""
    p50: float
    p99: float
    """Milliseconds."""
    errors: int
    cpu: float
    """Microseconds of the server's own processes a request; the database's are not in it."""


@dataclass
class Contestant:
    """A running server and what was measured of it."""

    name: str
    database: str
    server: Server
    answers: int = 0
    duplicates: int = 0
    errors: int = 0
    memory: float = 0
    """MiB, of its processes, shared pages counted once."""
    loads: dict[int, list[Load]] = field(default_factory=dict)
    """By number of clients."""

    def rates(self, clients: int) -> list[float]:
        return [load.rate for load in self.loads[clients]]


def tree(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(process: int) -> float:
    """Seconds of CPU that a process and those below it have used."""
    ticks = 0
    for member in tree(process):
        columns = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        ticks += int(columns[11]) + int(columns[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(process: int) -> float:
    """MiB of a process and those below it."""
    total = 0
    for member in tree(process):
        text = Path(f"/proc/{member}/smaps_rollup").read_text()
        total += sum(int(number) for number in re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE))
    return total / 1024


def wrk(url: str, clients: int, seconds: int, load: Iterable[int], *more: str) -> str:
    """Run the load and return what it says."""
    where = ["taskset", "-c", ",".join(map(str, sorted(load)))]
    threads = min(len(list(load)), clients, 4)
    return subprocess.run(
        [*where, "wrk", f"-t{threads}", f"-c{clients}", f"-d{seconds}s", "--timeout=10s"]
        + ["--latency", *more[:2], url, *more[2:]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def prove(contestant: Contestant, clients: int, seconds: int, load: Iterable[int]) -> None:
    """Record every answer for a while and count what was given twice."""
    url = contestant.server.url + TARGET
    with tempfile.TemporaryDirectory() as directory:
        wrk(url, clients, seconds, load, "-s", str(HERE / "record.lua"), "--", directory)
        settle(contestant.server)
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
        contestant.duplicates += max(0, min(end, last) - first + 1)
        end = max(end, last)
    contestant.answers = len(ranges)


def settle(server: Server) -> None:
    """Wait until a server has worked off what its clients have left behind, for 20 s at most.

    Some have hundreds of transactions in their queue then, which would be the next one's burden.
    """
    assert server.process is not None
    quiet = 0
    used = cpu_seconds(server.process.pid)
    for _ in range(200):
        time.sleep(0.1)
        before, used = used, cpu_seconds(server.process.pid)
        quiet = quiet + 1 if used == before else 0
        if quiet == 3:
            break


def measure(
    contestant: Contestant, clients: int, seconds: int, load: Iterable[int], *more: str
) -> None:
    """One round of load; what is more goes to wrk."""
    server = contestant.server
    assert server.process is not None
    before = cpu_seconds(server.process.pid)
    text = wrk(server.url + TARGET, clients, seconds, load, *more)
    used = cpu_seconds(server.process.pid) - before
    settle(server)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    assert rate is not None, text
    assert requests is not None, text
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    errors = int(refused.group(1)) if refused else 0
    errors += sum(map(int, broken.groups())) if broken else 0
    contestant.errors += errors
    contestant.loads.setdefault(clients, []).append(
        Load(
            rate=float(rate.group(1)),
            p50=_milliseconds(text, "50%"),
            p99=_milliseconds(text, "99%"),
            errors=errors,
            cpu=used / max(1, int(requests.group(1))) * 1e6,
        )
    )


def _milliseconds(text: str, name: str) -> float:
    found = re.search(rf"{name}\s+([\d.]+)(us|ms|s)\s", text)
    assert found is not None, text
    return float(found.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found.group(2)]


def contestants(stack: ExitStack, cpu: int | None, only: set[str]) -> list[Contestant]:
    """Start all that are compared, and their databases."""
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    # Several contestants have a connection for each of their 48 threads.
    mariadb = servers.MariaDB("--max-connections=1000")
    postgresql = servers.PostgreSQL("max_connections=1000")
    redis = Redis()
    for needed in (mariadb, postgresql, redis):
        stack.callback(needed.remove)
        needed.start()
    # The old service does not decode what is in its URL.
    mariadb.sql("CREATE USER plain IDENTIFIED BY 'plain'; GRANT ALL ON `test_%`.* TO plain")
    numbers = iter(range(100))

    def sqlite() -> str:
        return f"sqlite:///{directory}/{next(numbers)}.sqlite3"

    def maria() -> str:
        return mariadb.url(mariadb.new_database())

    def postgres() -> str:
        return postgresql.url(postgresql.new_database())

    def plain_maria() -> str:
        name = mariadb.new_database("CHARACTER SET utf8mb4")
        return f"mysql://plain:plain@127.0.0.1:{mariadb.port}/{name}"

    databases = {"SQLite": sqlite, "MariaDB": maria, "PostgreSQL": postgres}
    wanted: list[tuple[str, str, Callable[[], Server]]] = [
        (CEILING, "none", lambda: SameFront("ceiling", sqlite(), cpu)),
        (FLICKR, "MariaDB", lambda: SameFront("flickr", maria(), cpu)),
        (NEXTVAL, "PostgreSQL", lambda: SameFront("nextval", postgres(), cpu)),
        (
            REDIS,
            "Redis",
            lambda: SameFront("redis_incrby", sqlite(), cpu, REDIS_PORT=str(redis.port)),
        ),
        (UPSTREAM, "SQLite", lambda: Upstream(sqlite().replace("sqlite", "sqliteext", 1))),
        (UPSTREAM, "MariaDB", lambda: Upstream(plain_maria())),
        (UPSTREAM, "PostgreSQL", lambda: Upstream(postgres())),
    ]
    for database, url in databases.items():
        wanted += [
            (OURS, database, partial(Ours, url(), cpu)),
            (RESERVED, database, partial(Ours, url(), cpu, reserve="1000")),
            (ONE, database, partial(SameFront, "one_transaction", url(), cpu)),
            (PLAIN, database, partial(SameFront, "plain_pony", url(), cpu)),
        ]
    started = []
    for name, database, make in wanted:
        if not only or name in only:
            server = make()
            stack.callback(server.remove)
            server.start()
            started.append(Contestant(name, database, server))
    order = ["none", "SQLite", "MariaDB", "PostgreSQL", "Redis"]
    return sorted(
        started, key=lambda item: (order.index(item.database), item.name not in (OURS, RESERVED))
    )


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def rows(found: list[Contestant], clients: list[int]) -> list[dict[str, object]]:
    """The numbers, one row for each contestant and number of clients."""
    ceiling = next((item for item in found if item.name == CEILING), None)
    table: list[dict[str, object]] = []
    for number in clients:
        for item in found:
            loads = item.loads[number]
            rates = item.rates(number)
            row: dict[str, object] = {
                "clients": number,
                "database": item.database,
                "contestant": item.name,
                "requests_per_second": round(statistics.median(rates)),
                # Each request is for one ID.
                "ids_per_second": round(statistics.median(rates)),
                "p50_ms": round(statistics.median(load.p50 for load in loads), 2),
                "p99_ms": round(statistics.median(load.p99 for load in loads), 2),
                "cpu_us_per_request": round(statistics.median(load.cpu for load in loads), 1),
                "memory_mib": round(item.memory, 1),
                "answers_checked": item.answers,
                "duplicates": item.duplicates,
                "errors": item.errors,
                "rates": [round(rate) for rate in rates],
            }
            if ceiling is not None:
                pairs = zip(rates, ceiling.rates(number), strict=True)
                row["of_the_ceiling"] = [round(rate / top, 3) for rate, top in pairs]
            table.append(row)
    return table


def show(table: list[dict[str, object]]) -> None:
    """Print the table."""
    print(
        f"{'clients':>7}  {'database':<10} {'contestant':<33} {'requests/s':>10}"
        f" {'of the ceiling':>20} {'p50 ms':>8} {'p99 ms':>8} {'CPU us':>7} {'MiB':>6}"
        f" {'checked':>8} {'duplicates':>10} {'errors':>7}"
    )
    for row in table:
        ratios = row.get("of_the_ceiling")
        print(
            f"{row['clients']:>7}  {row['database']:<10} {row['contestant']:<33}"
            f" {row['requests_per_second']:>10}"
            f" {spread(ratios) if isinstance(ratios, list) else '':>20}"
            f" {row['p50_ms']:>8} {row['p99_ms']:>8} {row['cpu_us_per_request']:>7}"
            f" {row['memory_mib']:>6} {row['answers_checked']:>8} {row['duplicates']:>10}"
            f" {row['errors']:>7}"
        )


def ratios(found: list[Contestant], clients: list[int], commits: dict[str, float]) -> list[str]:
    """What is claimed, each with its lowest and highest round."""

    measured = {(item.name, item.database): item.loads for item in found}

    def loads(name: str, database: str, number: int) -> list[Load]:
        return measured.get((name, database), {}).get(number, [])

    def rates(name: str, database: str, number: int) -> list[float]:
        return [load.rate for load in loads(name, database, number)]

    lines = []
    for number in clients:
        for database in ("SQLite", "MariaDB", "PostgreSQL"):
            mine = rates(OURS, database, number)
            for own, what, name, where in (
                (OURS, "", CEILING, "none"),
                (OURS, "", ONE, database),
                (OURS, "", PLAIN, database),
                (OURS, "", UPSTREAM, database),
                (OURS, "", REDIS, "Redis"),
                (OURS, "", FLICKR, "MariaDB"),
                (OURS, "", NEXTVAL, "PostgreSQL"),
                (RESERVED, ", reserved", OURS, database),
                (RESERVED, ", reserved", CEILING, "none"),
            ):
                ahead, theirs = rates(own, database, number), rates(name, where, number)
                if ahead and theirs:
                    pairs = [one / other for one, other in zip(ahead, theirs, strict=True)]
                    lines.append(
                        f"{number:>4} clients, {database:<10}{what} / {name:<33} {spread(pairs)}"
                    )
            waits = zip(loads(OURS, database, number), loads(CEILING, "none", number), strict=False)
            if times := [one.p99 / other.p99 for one, other in waits]:
                lines.append(
                    f"{number:>4} clients, {database:<10} / the ceiling's p99"
                    f"{'':<18} {spread(times)} times as long"
                )
            fewer = rates(OURS, database, 64)
            if number > 64 and mine and fewer:
                pairs = [one / other for one, other in zip(mine, fewer, strict=True)]
                lines.append(
                    f"{number:>4} clients, {database:<10} / itself with 64 clients"
                    f"{'':<11} {spread(pairs)}"
                )
            top = rates(CEILING, "none", number)
            if number == 1 and mine and top and database in commits:
                one_after_the_other = [1 / (1 / rate + 1 / commits[database]) for rate in top]
                pairs = [a / b for a, b in zip(mine, one_after_the_other, strict=True)]
                lines.append(
                    f"   1 client,  {database:<10} / the ceiling, then the raw driver's commit"
                    f" ({commits[database]:.0f}/s): {spread(pairs)}"
                )
    return lines


def main() -> int:
    """Run the comparison; exit 1 when the service itself gave an ID twice or an error."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", default="1,64", help="connections, several with commas (1,64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contestant (3)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds a round (2)")
    parser.add_argument("--only", default="", help="names of contestants, with commas (all)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--plot", metavar="FILE", help="draw them there, as PNG")
    arguments = parser.parse_args()
    clients = [int(number) for number in arguments.clients.split(",")]
    only = {name for name in arguments.only.split(",") if name}
    cpu, load = place()
    with ExitStack() as stack:
        found = contestants(stack, cpu, only)
        for item in found:
            prove(item, max(clients), min(2, arguments.seconds), load)
        for _ in range(arguments.rounds):
            for number in clients:
                for item in found:
                    measure(item, number, arguments.seconds, load)
        for item in found:
            assert item.server.process is not None
            item.memory = memory(item.server.process.pid)
        commits = raw.commits_per_second(arguments.seconds, cpu) if 1 in clients else {}
    table = rows(found, clients)
    show(table)
    print("\nHow many times as fast, in the median round (lowest..highest):")
    claims = ratios(found, clients, commits)
    print("\n".join(claims))
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"rows": table, "ratios": claims, "raw_commits": commits}, indent=1) + "\n"
        )
    if arguments.plot:
        import plot

        plot.draw(table, max(n for n in clients if n <= 64), Path(arguments.plot))
    ours = [item for item in found if item.name in (OURS, RESERVED)]
    return int(any(item.duplicates or item.errors or not item.answers for item in ours))


if __name__ == "__main__":
    sys.exit(main())
