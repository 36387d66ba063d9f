"""Sites of the legacy service whose package is swapped, and swapped back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymysql
import pytest
import servers
from servers import BIN

from compatibility import upstream
from compatibility.conftest import PLAIN, OldDatabase, mariadb_database
from compatibility.upstream import Site
from uniqueid import database_url
from uniqueid.database.store import Store
from uniqueid.model import CounterUpdate

MakeSite = Callable[[str, Path], Site]
MODES = ("file", "upload_job", "päth ☃", "a'; DROP TABLE uniqueindex; --")


class Ledger:
    """Every range that was allocated, by whichever service."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[tuple[int, int]]] = {}

    def allocate(self, site: Site, rounds: int = 2) -> None:
        """Let one client take ranges of several sizes of every mode."""
        for size in range(1, rounds + 1):
            for mode in MODES:
                self.add(mode, site.allocate(mode, size))

    def allocate_at_once(self, site: Site, clients: int = 8) -> None:
        """Let several clients take ranges at the same time."""

        def client(number: int) -> list[tuple[str, tuple[int, int]]]:
            return [(mode, site.allocate(mode, number + 1)) for mode in MODES * 3]

        with ThreadPoolExecutor(clients) as pool:
            for taken in pool.map(client, range(clients)):
                for mode, numbers in taken:
                    self.add(mode, numbers)

    def add(self, mode: str, numbers: tuple[int, int]) -> None:
        self.ranges.setdefault(mode, []).append(numbers)

    def next_ids(self) -> dict[str, int]:
        """Each mode's next ID; everything before it was allocated once, and nothing twice."""
        found = {}
        for mode, ranges in self.ranges.items():
            expected = 1
            for first, last in sorted(ranges):
                assert first == expected, (mode, sorted(ranges))
                expected = last + 1
            found[mode] = expected
        return found


def in_order(site: Site, command: str) -> str:
    """What a command prints, which must succeed."""
    ended = site.run(command)
    assert ended.returncode == 0, ended
    return ended.stdout


def step_back(site: Site) -> None:
    """What docs/migrating.md has to be done before the old dbsync, which fails without it."""
    assert site.run("pacifica-uniqueid-cmd dbsync").returncode != 0
    package, site.package = site.package, BIN
    for _time in range(2):
        assert in_order(site, "pacifica-uniqueid-cmd dbsync --to 1.0") == (
            "the schema has version 1.0\n"
        )
    assert site.run("pacifica-uniqueid-cmd dbchk --equal").returncode == 1
    site.package = package


@pytest.mark.parametrize("version", ["0.5.1", "0.2.1"])
def test_the_package_is_swapped_under_a_site_and_back(
    version: str, old_database: OldDatabase, make_site: MakeSite
) -> None:
    """Each service continues where the other ended; values and tables stay as they are."""
    package = upstream.old(version)
    site = make_site(old_database.peewee_url, package)
    ledger = Ledger()
    if version == "0.5.1":
        in_order(site, "pacifica-uniqueid-cmd dbsync")
    site.start()
    ledger.allocate(site)
    site.stop()
    counters, tables = old_database.counters(), old_database.tables()
    assert counters == ledger.next_ids()

    site.package = BIN
    if version == "0.2.1":
        refused = site.run("pacifica-uniqueid-cmd dbchk")
        assert refused.returncode != 0
        assert "pacifica-uniqueid-cmd dbsync" in refused.stderr
    for _time in range(2):
        in_order(site, "pacifica-uniqueid-cmd dbsync")
        in_order(site, "pacifica-uniqueid-cmd dbchk --equal")
        assert old_database.counters() == counters
        ours = old_database.tables()
        assert ours["uniqueindex"] == tables["uniqueindex"]
        assert ours["uniqueindexsystem"] == tables.get("uniqueindexsystem") or version == "0.2.1"

    for package_now in (BIN, package, BIN, package):
        site.swap(package_now)
        ledger.allocate(site)
        if package_now == BIN:
            ledger.allocate_at_once(site)
        assert old_database.counters() == ledger.next_ids()
        assert old_database.tables() == ours
    if version == "0.5.1":
        site.stop()
        step_back(site)
        in_order(site, "pacifica-uniqueid-cmd dbsync")
        in_order(site, "pacifica-uniqueid-cmd dbchk --equal")
        assert old_database.counters() == ledger.next_ids()
        assert old_database.tables() == ours


def test_the_old_service_starts_from_tables_that_this_one_made(
    old_database: OldDatabase, make_site: MakeSite
) -> None:
    """A site which began with this service can go to the old one."""
    site = make_site(old_database.peewee_url, BIN)
    ledger = Ledger()
    in_order(site, "pacifica-uniqueid-cmd dbsync")
    tables = old_database.tables()
    for package in (BIN, upstream.old("0.5.1"), BIN):
        site.swap(package)
        ledger.allocate(site)
        if package != BIN:
            in_order(site, "pacifica-uniqueid-cmd dbchk")
            step_back(site)
        in_order(site, "pacifica-uniqueid-cmd dbsync")
    assert old_database.counters() == ledger.next_ids()
    assert old_database.tables() == tables


def test_a_32_bit_column_of_old_releases_is_widened(
    old_database: OldDatabase, make_site: MakeSite
) -> None:
    """dbsync keeps the values, and the counter passes the 32 bits; the legacy service follows."""
    key = '"index"' if old_database.kind != "mariadb" else "`index`"
    old_database.sql(
        f"CREATE TABLE uniqueindex (id VARCHAR(255) NOT NULL PRIMARY KEY, {key} INTEGER NOT NULL)"
    )
    package = upstream.old("0.2.1")
    site = make_site(old_database.peewee_url, package)
    site.start()
    assert site.allocate("file", 2**31 - 10) == (1, 2**31 - 10)
    site.stop()
    site.package = BIN
    refused = site.run("pacifica-uniqueid")
    assert refused.returncode != 0
    assert "pacifica-uniqueid-cmd dbsync" in refused.stderr.splitlines()[-1]
    done = in_order(site, "pacifica-uniqueid-cmd dbsync")
    assert ("widen the counters to 64 bits" in done) == (old_database.kind != "sqlite")
    assert old_database.counters() == {"file": 2**31 - 9}
    site.start()
    assert site.allocate("file", 100) == (2**31 - 9, 2**31 + 90)
    site.swap(package)
    assert site.allocate("file", 5) == (2**31 + 91, 2**31 + 95)


# -- MariaDB, where the collation says what is one and the same -----------------------------------

COLLATIONS = (
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
    "CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    "CHARACTER SET latin1 COLLATE latin1_swedish_ci",
)
SPELLINGS = ("file", "FILE", "file ", "File")


@pytest.mark.parametrize("options", COLLATIONS)
def test_spellings_of_one_counter_stay_unique_across_a_swap(
    options: str, mariadb: servers.MariaDB, make_site: MakeSite
) -> None:
    """Where letters' case does not count, file and FILE share a counter in both services."""
    database = mariadb_database(mariadb, options)
    package = upstream.old("0.5.1")
    site = make_site(database.peewee_url, package)
    ledger = Ledger()
    in_order(site, "pacifica-uniqueid-cmd dbsync")
    for package_now in (package, BIN, package, BIN):
        site.swap(package_now)
        if package_now == BIN:
            in_order(site, "pacifica-uniqueid-cmd dbsync")
        for size, spelling in enumerate(SPELLINGS, start=1):
            ledger.add("file", site.allocate(spelling, size))
        assert list(database.counters().values()) == [ledger.next_ids()["file"]]


@pytest.mark.parametrize("options", COLLATIONS)
def test_spellings_of_one_counter_stay_unique_in_one_batch(
    options: str, mariadb: servers.MariaDB, make_site: MakeSite
) -> None:
    """Requests for several spellings which wait together share one transaction, and no ID."""
    database = mariadb_database(mariadb, options)
    in_order(make_site(database.peewee_url, upstream.old("0.5.1")), "pacifica-uniqueid-cmd dbsync")
    service = servers.Service(database.peewee_url, request_timeout="50")
    ledger = Ledger()
    with servers.running(service), ThreadPoolExecutor(24) as pool:
        ledger.add("file", service.allocate("File", 1))
        lock = pymysql.connect(
            host="127.0.0.1", port=mariadb.port, user=PLAIN, password=PLAIN,
            database=database.peewee_url.rpartition("/")[2],
        )  # fmt: skip
        with lock, lock.cursor() as cursor:
            cursor.execute("SELECT * FROM uniqueindex WHERE id = 'file' FOR UPDATE")
            answers = [
                pool.submit(service.allocate, SPELLINGS[number % 4], 1 + number)
                for number in range(24)
            ]
            servers.wait_until(
                lambda: sum(servers.connections(service, of) for of in children(service)) >= 24,
                "24 requests in the service",
            )
        for answer in answers:
            ledger.add("file", answer.result(servers.START_TIMEOUT))
        # What the old table's character set has no place for is refused, not bent.
        status, _problem = service.get("/getid?range=0&mode=%E2%98%83")
        assert status == 200
        status, _problem = service.get("/getid?range=1&mode=%E2%98%83")
        assert status == (400 if "latin1" in options else 200)
    assert ledger.next_ids() == {"file": 2 + sum(range(1, 25))}
    assert database.counters()["File"] == ledger.next_ids()["file"]
    assert not {"file", "FILE", "file "} & set(database.counters())


@pytest.mark.parametrize("options", COLLATIONS)
def test_a_counter_is_made_by_the_first_of_its_spellings_in_a_transaction(
    options: str, mariadb: servers.MariaDB, make_site: MakeSite
) -> None:
    """A transaction which needs a new counter under several names makes one, and slices it."""
    database = mariadb_database(mariadb, options)
    in_order(make_site(database.peewee_url, upstream.old("0.5.1")), "pacifica-uniqueid-cmd dbsync")
    store = Store(database_url.parse(database.peewee_url, "url", "test"))
    ledger = Ledger()
    try:
        for _time in range(2):
            counts = {spelling: 1 + size for size, spelling in enumerate(SPELLINGS)}
            done = store.advance(counts, {}, deadline=time.monotonic() + servers.START_TIMEOUT)
            for spelling, count in counts.items():
                outcome = done[spelling]
                assert isinstance(outcome, CounterUpdate)
                ledger.add("file", (outcome.first, outcome.first + count - 1))
    finally:
        store.disconnect()
    assert list(database.counters().values()) == [ledger.next_ids()["file"]]


def children(service: servers.Process) -> list[int]:
    """The processes that a server has started."""
    assert service.process is not None
    number = service.process.pid
    return [
        int(text) for text in Path(f"/proc/{number}/task/{number}/children").read_text().split()
    ]
