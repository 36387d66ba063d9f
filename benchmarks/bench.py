"""CPU time per request and requests per second of the service and its peers, measured in one run.

Before it is measured, every contestant serves the same number of clients and each answer is
checked; the number of IDs that were returned twice is printed next to the speed. The rounds
alternate between the contestants, so that other work on the machine affects all of them. Only
ratios within one run are compared, each with its lowest and highest round.

The first figure is the CPU time of the server per request. A rate compares servers only where the
server's CPU is the limit; on a machine with two CPUs, the limit is often the load generator. The
busy share of the server's CPU is printed next to each rate, with a mark if it is below `SATURATED`.

All contestants except the legacy service, which runs as its documentation starts it, are pinned to
one CPU and use the service's uWSGI settings. The load generator and the databases have the other
CPUs. The databases run with their default durability: a commit is on disk when it is acknowledged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import raw
from peers import Ours, Redis, SameFront, Upstream, pinned, place, servers

HERE = Path(__file__).resolve().parent
TARGET = "/getid?range=1&mode=file"

OURS = "this service"
BARE = "bare WSGI callable (in memory)"
BOTTLE = "Bottle handler (in memory)"
ONE = "this store (transaction per request)"
PLAIN = "plain Pony transaction per request"
UPSTREAM = "pacifica-uniqueid 0.5.1"
FLICKR = "Flickr's ticket table"
NEXTVAL = "PostgreSQL's nextval"
REDIS = "Redis INCRBY"

SATURATED = 0.9
"""The busy share of the server's CPU above which this CPU limits the rate."""

LEGEND = f"""
CPU us    user and system time of the server's processes per request, in microseconds
database  the same of the database server's processes
busy      CPU time of the server per second, the share of its CPU that it used
load      CPU time of the load generator per second and thread
*         busy is below {SATURATED}: this rate is not limited by the server's CPU, but by the load
          generator, by waiting (round trips, locks, the disk) or by other processes"""

Server = servers.Service | Upstream


@dataclass
class Load:
    """The result of one round of load."""

    rate: float
    """Requests per second."""
    p50: float
    p99: float
    """Milliseconds."""
    errors: int
    cpu: float
    """User and system time of the server's processes, in microseconds per request."""
    database_cpu: float
    """The same of the database server's processes; 0 where there are none."""
    busy: float
    """CPU time of the server per second: the share of its CPU that it used."""
    generator_busy: float
    """CPU time of the load generator per second and thread."""


@dataclass
class Contestant:
    """A running server and what was measured of it."""

    name: str
    database: str
    server: Server
    database_server: servers.Process | None = None
    """Of a database in a server of its own."""
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
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def cpu_seconds(process: int) -> float:
    """Seconds of CPU that a process and those below it have used, ended ones included."""
    ticks = 0
    # Children first: the time of one that has ended meanwhile, as PostgreSQL's workers do, is then
    # in the time that its parent has of ended children.
    for member in reversed(tree(process)):
        with suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{member}/stat").read_text()
            # From the third column of proc(5) on; 14 to 17 are utime, stime, cutime and cstime.
            ticks += sum(map(int, stat.rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def server_cpu_seconds(server: servers.Process | None) -> float:
    """Seconds of CPU that a server has used; 0 of none."""
    if server is None:
        return 0
    assert server.process is not None
    return cpu_seconds(server.process.pid)


def children_cpu_seconds() -> float:
    """Seconds of CPU of the ended children of this process, such as the load generator."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    return subprocess.run(
        [*where, "wrk", f"-t{wrk_threads(clients, load)}", f"-c{clients}", f"-d{seconds}s"]
        + ["--timeout=10s"]
        + ["--latency", *more[:2], url, *more[2:]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def wrk_threads(clients: int, load: Iterable[int]) -> int:
    """The number of the load generator's threads."""
    return min(len(list(load)), clients, 4)


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
    """Run one round of load.

    :param more: arguments of wrk.
    """
    server, database = contestant.server, contestant.database_server
    began = time.monotonic()
    before = server_cpu_seconds(server), server_cpu_seconds(database), children_cpu_seconds()
    text = wrk(server.url + TARGET, clients, seconds, load, *more)
    after = server_cpu_seconds(server), server_cpu_seconds(database), children_cpu_seconds()
    elapsed = time.monotonic() - began
    used, database_used, generator_used = (b - a for a, b in zip(before, after, strict=True))
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
    answered = max(1, int(requests.group(1)))
    contestant.loads.setdefault(clients, []).append(
        Load(
            rate=float(rate.group(1)),
            p50=_milliseconds(text, "50%"),
            p99=_milliseconds(text, "99%"),
            errors=errors,
            cpu=used / answered * 1e6,
            database_cpu=database_used / answered * 1e6,
            busy=used / elapsed,
            generator_busy=generator_used / elapsed / wrk_threads(clients, load),
        )
    )


def _milliseconds(text: str, name: str) -> float:
    found = re.search(rf"{name}\s+([\d.]+)(us|ms|s)\s", text)
    assert found is not None, text
    return float(found.group(1)) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found.group(2)]


def contestants(
    stack: ExitStack, cpu: int | None, load: set[int], only: set[str]
) -> list[Contestant]:
    """Start all that are compared, and their databases."""
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    # Several contestants have a connection for each of their 48 threads.
    mariadb = servers.MariaDB("--max-connections=1000")
    postgresql = servers.PostgreSQL("max_connections=1000")
    redis = Redis()
    for needed in (mariadb, postgresql, redis):
        stack.callback(needed.remove)
        with pinned(load):
            needed.start()
    # The legacy service does not decode what is in its URL.
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
        (BARE, "none", lambda: SameFront("bare_wsgi", sqlite(), cpu)),
        (BOTTLE, "none", lambda: SameFront("bottle_handler", sqlite(), cpu)),
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
            (ONE, database, partial(SameFront, "one_transaction", url(), cpu)),
            (PLAIN, database, partial(SameFront, "plain_pony", url(), cpu)),
        ]
    check_names(only, [name for name, _database, _make in wanted])
    database_servers = {"MariaDB": mariadb, "PostgreSQL": postgresql, "Redis": redis}
    started = []
    for name, database, make in wanted:
        if not only or name in only:
            server = make()
            stack.callback(server.remove)
            server.start()
            started.append(Contestant(name, database, server, database_servers.get(database)))
    order = ["none", "SQLite", "MariaDB", "PostgreSQL", "Redis"]
    return sorted(started, key=lambda item: (order.index(item.database), item.name != OURS))


def check_names(only: set[str], names: list[str]) -> None:
    """End the program if --only has a name of no contestant."""
    if unknown := only - set(names):
        there = ", ".join(dict.fromkeys(names))
        sys.exit(f"--only {', '.join(sorted(unknown))}: no such contestant. There are: {there}")


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}..{max(values):.2f})"


def rows(found: list[Contestant], clients: list[int]) -> list[dict[str, object]]:
    """The numbers, one row for each contestant and number of clients."""
    table: list[dict[str, object]] = []
    for number in clients:
        for item in found:
            loads = item.loads[number]
            rates = item.rates(number)
            busy = statistics.median(load.busy for load in loads)
            row: dict[str, object] = {
                "clients": number,
                "database": item.database,
                "contestant": item.name,
                "cpu_us_per_request": round(statistics.median(load.cpu for load in loads), 1),
                "database_cpu_us_per_request": round(
                    statistics.median(load.database_cpu for load in loads), 1
                ),
                "busy": round(busy, 2),
                "limited_by_server_cpu": busy >= SATURATED,
                "generator_busy": round(
                    statistics.median(load.generator_busy for load in loads), 2
                ),
                "requests_per_second": round(statistics.median(rates)),
                # Each request is for one ID.
                "ids_per_second": round(statistics.median(rates)),
                "p50_ms": round(statistics.median(load.p50 for load in loads), 2),
                "p99_ms": round(statistics.median(load.p99 for load in loads), 2),
                "memory_mib": round(item.memory, 1),
                "answers_checked": item.answers,
                "duplicates": item.duplicates,
                "errors": item.errors,
                "rates": [round(rate) for rate in rates],
            }
            table.append(row)
    return table


def show(table: list[dict[str, object]]) -> None:
    """Print the table."""
    print(
        f"{'clients':>7}  {'database':<10} {'contestant':<36} {'CPU us':>7} {'database':>8}"
        f" {'busy':>5} {'load':>5} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'MiB':>6}"
        f" {'checked':>8} {'duplicates':>10} {'errors':>7}"
    )
    for row in table:
        mark = " " if row["limited_by_server_cpu"] else "*"
        print(
            f"{row['clients']:>7}  {row['database']:<10} {row['contestant']:<36}"
            f" {row['cpu_us_per_request']:>7} {row['database_cpu_us_per_request']:>8}"
            f" {row['busy']:>5} {row['generator_busy']:>5} {row['requests_per_second']:>10}{mark}"
            f" {row['p50_ms']:>8} {row['p99_ms']:>8} {row['memory_mib']:>6}"
            f" {row['answers_checked']:>8} {row['duplicates']:>10} {row['errors']:>7}"
        )
    print(LEGEND)


def ratios(found: list[Contestant], clients: list[int], commits: dict[str, float]) -> list[str]:
    """What is claimed, each with its lowest and highest round."""

    measured = {(item.name, item.database): item.loads for item in found}

    def loads(name: str, database: str, number: int) -> list[Load]:
        return measured.get((name, database), {}).get(number, [])

    lines = []
    for number in clients:
        for database in ("SQLite", "MariaDB", "PostgreSQL"):
            mine = loads(OURS, database, number)
            for name, where in (
                (BARE, "none"),
                (BOTTLE, "none"),
                (ONE, database),
                (PLAIN, database),
                (UPSTREAM, database),
                (REDIS, "Redis"),
                (FLICKR, "MariaDB"),
                (NEXTVAL, "PostgreSQL"),
            ):
                theirs = loads(name, where, number)
                if mine and theirs:
                    title = f"{number:>4} clients, {database:<10} / {name:<36}"
                    lines.append(f"{title} {compared(mine, theirs)}")
            fewer = loads(OURS, database, 64)
            if number > 64 and mine and fewer:
                title = f"{number:>4} clients, {database:<10} / {'itself with 64 clients':<36}"
                lines.append(f"{title} {compared(mine, fewer)}")
            top = loads(BOTTLE, "none", number)
            if number == 1 and mine and top and database in commits:
                sums = [1 / (1 / load.rate + 1 / commits[database]) for load in top]
                pairs = [load.rate / rate for load, rate in zip(mine, sums, strict=True)]
                lines.append(
                    f"   1 client,  {database:<10} / {BOTTLE}, then the raw driver's commit"
                    f" ({commits[database]:.0f}/s): rate {spread(pairs)}"
                )
    return lines


def compared(mine: list[Load], theirs: list[Load]) -> str:
    """The ratios between the rounds of two contestants, and the busy shares next to the rates'."""
    # In a round without a response there is nothing to compare with.
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if b.rate and b.p99]
    if not pairs:
        return "no response"
    ours, others = (statistics.median(load.busy for load in loads) for loads in (mine, theirs))
    mark = "" if min(ours, others) >= SATURATED else "*"
    return (
        f"CPU {spread([a.cpu / max(b.cpu, 0.1) for a, b in pairs])}"
        f"  rate{mark} {spread([a.rate / b.rate for a, b in pairs])}"
        f"  busy {ours:.2f} / {others:.2f}"
        f"  p99 {spread([a.p99 / b.p99 for a, b in pairs])}"
    )


def main() -> int:
    """Run the comparison; exit 1 when the service itself gave an ID twice or an error."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", default="1,64", help="connections, several with commas (1,64)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each contestant (3)")
    parser.add_argument("--seconds", type=int, default=1, help="seconds a round (1)")
    parser.add_argument("--only", default="", help="names of contestants, with commas (all)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there too")
    parser.add_argument("--plot", metavar="FILE", help="draw them there, as PNG")
    arguments = parser.parse_args()
    clients = [int(number) for number in arguments.clients.split(",")]
    only = {name for name in arguments.only.split(",") if name}
    cpu, load = place()
    with ExitStack() as stack:
        found = contestants(stack, cpu, load, only)
        for item in found:
            prove(item, max(clients), min(2, arguments.seconds), load)
        for _ in range(arguments.rounds):
            for number in clients:
                for item in found:
                    measure(item, number, arguments.seconds, load)
        for item in found:
            assert item.server.process is not None
            item.memory = memory(item.server.process.pid)
        commits = raw.commits_per_second(arguments.seconds, cpu, load) if 1 in clients else {}
    table = rows(found, clients)
    show(table)
    print("\nRatios of this service to its peers, median (lowest..highest round):")
    claims = ratios(found, clients, commits)
    print("\n".join(claims))
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"rows": table, "ratios": claims, "raw_commits": commits}, indent=1) + "\n"
        )
    if arguments.plot:
        import plot

        plot.draw(table, max(n for n in clients if n <= 64), Path(arguments.plot))
    ours = [item for item in found if item.name == OURS]
    return int(any(item.duplicates or item.errors or not item.answers for item in ours))


if __name__ == "__main__":
    sys.exit(main())
