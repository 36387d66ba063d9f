"""How the cost of a request changes as the work grows.

Requests a second at 64 clients with 1 to 10,000 modes, with counters from 1 to 2^62, and with 1 to
3 services on one database, each against the first of its row in the same rounds; how many requests
share a transaction as clients grow; the time to the first answer, and memory, beside the old
service's.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import memory, wrk
from peers import Ours, Upstream, pinned, place, servers

MODES = (1, 100, 10_000)
COUNTERS = (1, 2**31, 2**62)
ROUNDS = 3
SECONDS = 2
SPREAD = """
local number = NUMBER
local seen = 0
request = function()
    seen = seen + 1
    return wrk.format("GET", "/getid?range=1&mode=mode" .. (seen % number))
end
"""


def rate(text: str) -> float:
    """Requests a second, of a run without errors."""
    assert "Non-2xx" not in text, text
    return float(text.split("Requests/sec:")[1].split()[0])


def compare(title: str, rows: dict[str, list[float]]) -> None:
    """Each against the first of its rounds."""
    first = next(iter(rows.values()))
    print(f"\n{title}")
    for name, rates in rows.items():
        ratios = [one / base for one, base in zip(rates, first, strict=True)]
        print(
            f"  {name:<42} {statistics.median(rates):>8.0f} requests/s"
            f"   {statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})"
        )


def modes(mariadb: servers.MariaDB, cpu: int | None, load: set[int]) -> None:
    """The same load spread over more modes."""
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        script = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "modes.lua"

        def ask(service: Ours, number: int) -> str:
            """Load a service with requests for this many modes in turn; what wrk says."""
            script.write_text(SPREAD.replace("NUMBER", str(number)))
            return wrk(service.url, 64, SECONDS, load, "-s", str(script))

        started = []
        for number in MODES:
            service = Ours(mariadb.url(mariadb.new_database()), cpu, max_modes="20000")
            stack.callback(service.remove)
            service.start()
            # Through all of them, so that none is new in the measurement.
            for _ in range(60):
                ask(service, number)
                if len(json.loads(service.cmd("show", "--json"))["counters"]) >= number:
                    break
            started.append((number, service))
        for _ in range(ROUNDS):
            for there, service in started:
                # The last as well with all requests for one of its many.
                for number in sorted({there, 1 if there == max(MODES) else there}):
                    title = f"MariaDB, {there} modes, {number} asked for"
                    found.setdefault(title, []).append(rate(ask(service, number)))
    compare("Number of modes, 64 clients", found)


def counters(cpu: int | None, load: set[int]) -> None:
    """The same load on counters that are further on."""
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        started = []
        for value in COUNTERS:
            service = Ours(f"sqlite:///{directory}/{value}.sqlite3", cpu)
            stack.callback(service.remove)
            service.start()
            service.allocate("file", 1)
            if value > 1:
                service.cmd("advance", "--mode", "file", "--to", str(value))
            started.append((value, service))
        for _ in range(ROUNDS):
            for value, service in started:
                text = wrk(f"{service.url}/getid?range=1&mode=file", 64, SECONDS, load)
                found.setdefault(f"SQLite, counter from {value}", []).append(rate(text))
    compare("Size of the counter, 64 clients", found)


def replicas(server: servers.MariaDB | servers.PostgreSQL, cpu: int | None, load: set[int]) -> None:
    """Several services on one database and one counter, 64 clients each; the rates are summed."""
    found: dict[str, list[float]] = {}
    kind = type(server).__name__
    for _ in range(ROUNDS):
        for number in (1, 2, 3):
            with ExitStack() as stack:
                url = server.url(server.new_database())
                services = []
                for _replica in range(number):
                    service = Ours(url, cpu)
                    stack.callback(service.remove)
                    service.start()
                    services.append(service)
                where = ["taskset", "-c", ",".join(map(str, sorted(load)))]
                running = [
                    subprocess.Popen(
                        [*where, "wrk", "-t1", "-c64", f"-d{SECONDS}s", "--timeout=10s"]
                        + [f"{service.url}/getid?range=1&mode=file"],
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                    for service in services
                ]
                total = sum(rate(process.communicate()[0]) for process in running)
            found.setdefault(f"{kind}, {number} services", []).append(total)
    compare("Services that share a database, a counter and one CPU, 64 clients each", found)


def batches(mariadb: servers.MariaDB, cpu: int | None, load: set[int]) -> None:
    """Transactions per request as clients grow."""
    print("\nTransactions for each request, MariaDB")
    with ExitStack() as stack:
        service = Ours(mariadb.url(mariadb.new_database()), cpu)
        stack.callback(service.remove)
        service.start()
        for clients in (1, 8, 32, 64, 256):
            before = transactions(service)
            wrk(f"{service.url}/getid?range=1&mode=file", clients, SECONDS, load)
            after = transactions(service)
            share = (after[0] - before[0]) / max(1, after[1] - before[1])
            print(f"  {clients:>4} clients: {share:.3f}")


def transactions(service: Ours) -> tuple[float, float]:
    """Transactions, and requests that they served, so far."""
    with urllib.request.urlopen(service.url + "/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    values = dict(line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return float(values["uniqueid_batch_requests_count"]), float(
        values["uniqueid_batch_requests_sum"]
    )


def starts() -> None:
    """Seconds to the first answer and memory after it, beside the legacy service's."""
    print("\nStart and memory, SQLite")
    with tempfile.TemporaryDirectory() as directory:
        for name, server in (
            ("this service", servers.Service(f"sqlite:///{directory}/new.sqlite3")),
            ("pacifica-uniqueid 0.5.1", Upstream(f"sqliteext:///{directory}/old.sqlite3")),
        ):
            try:
                server.start()
                server.stop()
                took = []
                for _ in range(ROUNDS):
                    began = time.perf_counter()
                    server.launch()
                    servers.wait_until(partial(answers, server.url), "the first answer")
                    took.append(time.perf_counter() - began)
                    assert server.process is not None
                    used = memory(server.process.pid)
                    server.stop()
                print(f"  {name:<26} {statistics.median(took):.2f} s, {used:.0f} MiB")
            finally:
                server.remove()


def answers(url: str) -> bool:
    """Whether an ID comes."""
    try:
        with urllib.request.urlopen(url + "/getid?range=1&mode=file", timeout=5) as response:
            return int(json.load(response)["startIndex"]) > 0
    except OSError:
        return False


def main() -> int:
    """Everything, one after the other."""
    cpu, load = place()
    mariadb, postgresql = servers.MariaDB(), servers.PostgreSQL()
    try:
        with pinned(load):
            mariadb.start()
            postgresql.start()
        batches(mariadb, cpu, load)
        modes(mariadb, cpu, load)
        counters(cpu, load)
        replicas(mariadb, cpu, load)
        replicas(postgresql, cpu, load)
        starts()
    finally:
        mariadb.remove()
        postgresql.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
