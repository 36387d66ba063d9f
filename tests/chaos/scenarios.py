"""Faults that are tried in several tests: with many clients and with one."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import servers
from fault_proxy import Plan, Proxy, fall_silent
from fault_scenario import FaultScenario, kill_9, processes, runs, worker
from history import is_503, is_regressed
from load import MODES

Server = servers.MariaDB | servers.PostgreSQL
NewURL = Callable[[str], str]
Restore = Callable[[], None]


def wait_until_ready(scenario: FaultScenario) -> None:
    """Wait for readiness, which uses the result of a health check for a second."""
    servers.wait_until(lambda: scenario.service.get("/readyz")[0] == 200, "ready again", timeout=5)


def kill_9_of_the_database(network: str, server: Server) -> None:
    """The service says 503 while it is away and goes on when it is back."""
    url = server.url(server.new_database())
    with FaultScenario("kill -9 of the database", network, url, ambiguous=True) as scenario:
        kill_9(server)
        scenario.load.more(is_503, "a 503")
        assert scenario.service.get("/readyz")[0] == 503
        assert scenario.service.get("/livez")[0] == 200
        server.start()
        scenario.load.more_answers(200)
        wait_until_ready(scenario)


def database_stopped_for_longer_than_the_time_out(network: str, server: Server) -> None:
    """Callers get their 503 in time, and the IDs of what the database does later are a gap."""
    url = server.url(server.new_database())
    with FaultScenario("SIGSTOP of the database", network, url, ambiguous=True) as scenario:
        stopped = processes(server)
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            scenario.load.more(is_503, "a 503")
            scenario.load.more(is_503, "another 503")
        finally:
            for pid in stopped:
                if runs(pid):
                    os.kill(pid, signal.SIGCONT)
        scenario.load.more_answers(200)
        wait_until_ready(scenario)


def cut(scenario: FaultScenario, proxy: Proxy, plan: Plan) -> None:
    """Carry a plan out five times, and see what has become of it."""
    with scenario:
        for shots in (1, 1, 3):
            fired = proxy.fired + shots
            proxy.arm(plan, shots)
            servers.wait_until(lambda: proxy.fired >= fired, "the cut")  # noqa: B023
            scenario.load.more_answers(50)
        assert scenario.service.metric("uniqueid_transaction_retries_total") >= 3
        never_ahead(scenario)
    if not scenario.ambiguous:
        assert scenario.verdict.gaps == 0
    else:
        assert scenario.verdict.gaps > 0


def never_ahead(scenario: FaultScenario) -> None:
    """No response came before its commit: the counter would have regressed."""
    assert scenario.service.metric("uniqueid_counter_regressions_total") == 0


def all_connections_cut_again_and_again(network: str, proxy: Proxy, url: str) -> None:
    """Cuts at any moment, whatever the connection is used for."""
    with FaultScenario("connections reset at random", network, url, ambiguous=True) as scenario:
        for _time in range(20):
            proxy.cut()
            scenario.load.more_answers(20)
        never_ahead(scenario)


def network_holds_everything(network: str, proxy: Proxy, url: str) -> None:
    """What is held for longer than the time-out may arrive later, for no client."""
    with FaultScenario("network holds, then delivers", network, url, ambiguous=True) as scenario:
        proxy.hold()
        scenario.load.more(is_503, "a 503")
        proxy.go_on()
        scenario.load.more_answers(200)


def connection_falls_silent_for_ever(network: str, proxy: Proxy, url: str) -> None:
    """A connection that stands and never answers is given up, and a new one made."""
    with FaultScenario("connection silent forever", network, url, ambiguous=True) as scenario:
        proxy.silence()
        scenario.load.more(is_503, "a 503")
        scenario.load.more_answers(100)
        # And when the silence begins while the service looks whether the database is back.
        fired = proxy.fired + 1
        proxy.arm(fall_silent, 1)
        proxy.silence()
        servers.wait_until(lambda: proxy.fired >= fired, "a sign of life asked for in vain")
        scenario.load.more_answers(100)
        wait_until_ready(scenario)


def kill_9_of_the_worker(kind: str, new_url: NewURL) -> None:
    """uWSGI's master starts another worker, which goes on above everything."""
    with FaultScenario("kill -9 of the worker", kind, new_url(kind), ambiguous=False) as scenario:
        for _time in range(2):
            before = worker(scenario.service)
            os.kill(before, signal.SIGKILL)
            servers.wait_until(lambda: not runs(before), "the worker's end")  # noqa: B023
            scenario.load.more_answers(100)
            assert worker(scenario.service) != before


def end_and_start(scenario: FaultScenario, times: int) -> None:
    """End the service of a scenario in an orderly way, and start it again, some times."""
    with scenario:
        for _time in range(times):
            before = worker(scenario.service)
            scenario.service.signal(signal.SIGTERM)
            assert scenario.service.wait() == 0
            assert not runs(before)
            # What uWSGI says when it kills a worker that does not end in time.
            assert "NO MERCY" not in scenario.service.log.read_text()
            scenario.service.start()
            scenario.load.more_answers(100)
    assert scenario.verdict.gaps == 0


def share(scenario: FaultScenario) -> None:
    """Have the services of a scenario serve at the same time, and kill the last."""
    with scenario:
        scenario.load.more_answers(600)
        os.kill(worker(scenario.services[-1]), signal.SIGKILL)
        scenario.load.more_answers(300)


def make_scenario(
    fault: str, kind: str, url: str, policy: str, initial: dict[str, int] | None = None
) -> FaultScenario:
    """A scenario with one of the two settings of on_regression."""
    settings = {"on_regression": policy}
    return FaultScenario(
        f"{fault} ({policy})", kind, url, ambiguous=True, settings=settings, initial=initial
    )


def check_report_and_repair(scenario: FaultScenario, policy: str) -> None:
    """The log, the metric and `/readyz` say what happened; under `stop` an operator repairs it."""
    service = scenario.service
    if policy == "stop":
        scenario.load.more(is_regressed, "a refusal since a counter regressed")
        status, document = service.get("/readyz")
        assert status == 503
        told = document["checks"]["counters"]
        found = re.findall(
            r"the counter of mode '(.+?)' has regressed: .*? advance it to (\d+)", told
        )
        assert found, told
        since = time.monotonic()
        scenario.load.more(is_regressed, "a further refusal")
        assert not any(
            call.answered and call.begin > since for call in scenario.load.history.calls
        ), "answered before the operator's command"
        for mode, expected in found:
            said = service.cmd("advance", "--mode", mode, "--to", expected)
            assert re.fullmatch(rf"{re.escape(mode)}: \d+ -> {expected}\n", said)
    scenario.load.more_answers(200)
    servers.wait_until(lambda: service.get("/readyz")[0] == 200, "the service being ready again")
    assert service.metric("uniqueid_counter_regressions_total") >= 1
    log = service.log.read_text()
    assert "counter regression detected" in log
    if policy == "stop":
        assert "counter regression resolved" in log


def failover_to_a_lagging_replica(primary: servers.MariaDB, replica: servers.MariaDB) -> None:
    """Replication stops, the primary goes on, the older replica is promoted; then the way back to
    the old primary, which has not seen what happened since: once with each setting."""
    database = primary.new_database()
    replica.sql(
        f"CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={primary.port},"
        " MASTER_USER='root', MASTER_USE_GTID=slave_pos; START SLAVE"
    )

    def replicated() -> bool:
        if "uniqueindex\n" not in replica.sql("SHOW TABLES", database):
            return False
        return int(replica.sql("SELECT count(*) FROM uniqueindex", database)) == len(MODES)

    with Proxy(primary.port) as proxy:
        url = primary.url(database, proxy.port)
        with make_scenario("failover to a lagging replica", "mariadb", url, "advance") as scenario:
            servers.wait_until(replicated, "the replica following")
            replica.sql("STOP SLAVE")
            scenario.load.more_answers(200)
            proxy.point_at(replica.port)
            scenario.load.more(is_503, "a 503, since the replica takes no writes")
            replica.sql("RESET SLAVE ALL; SET GLOBAL read_only = 0")
            check_report_and_repair(scenario, "advance")
        initial = scenario.final
        with make_scenario(
            "failover to a lagging replica", "mariadb", url, "stop", initial
        ) as scenario:
            scenario.load.more_answers(200)
            proxy.point_at(primary.port)
            check_report_and_repair(scenario, "stop")


def sqlite_file_replaced_by_an_older_copy(policy: str, new_url: Callable[[str], str]) -> None:
    """A copy made with SQLite's backup takes the place of the file under the running service."""
    url = new_url("sqlite")
    path = Path(url.removeprefix("sqlite:///"))
    with make_scenario("file replaced", "sqlite", url, policy) as scenario:
        copy = path.with_name("copy.sqlite3")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        scenario.load.more_answers(200)
        os.replace(copy, path)
        check_report_and_repair(scenario, policy)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def fence_settings(fence: Path, **more: str) -> dict[str, str]:
    """Settings of a service with a fence."""
    return {"fence_path": str(fence), **more}


def backup(kind: str, url: str, request: pytest.FixtureRequest) -> Restore:
    """A backup of the database as it is now; what is returned puts it back."""
    if kind == "sqlite":
        path = Path(url.removeprefix("sqlite:///"))
        copy = path.with_name("copy.sqlite3")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)

        def restore() -> None:
            # As docs/operating.md has it.
            for name in (path, f"{path}-wal", f"{path}-shm"):
                Path(name).unlink(missing_ok=True)
            path.write_bytes(copy.read_bytes())

        return restore
    server = request.getfixturevalue(f"hurt_{kind}")
    database = url.rpartition("/")[2]
    if servers.sql_of(kind) == "mariadb":
        dump = server.sql("SELECT id, `index` FROM uniqueindex", database).splitlines()
        rows = [line.rsplit("\t", 1) for line in dump]

        def restore() -> None:
            values = ", ".join(f"('{mode}', {next_id})" for mode, next_id in rows)
            server.sql(
                f"SET NAMES utf8mb4; START TRANSACTION; DELETE FROM uniqueindex;"
                f" INSERT INTO uniqueindex VALUES {values}; COMMIT",
                database,
            )

        return restore
    text = server.dump(database)

    def restore() -> None:
        server.sql(f"DROP DATABASE {database} WITH (FORCE)")
        server.sql(f"CREATE DATABASE {database}")
        server.sql(f"BEGIN;\n{text}\nCOMMIT;", database)

    return restore


def end(service: servers.Service, *, cleanly: bool) -> None:
    """SIGTERM, or kill -9 of the master, which takes the worker along."""
    serving = worker(service)
    if cleanly:
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
    else:
        service.kill()
    servers.wait_until(lambda: not runs(serving), "the worker's end")


def a_backup_is_restored_while_the_service_is_down(
    kind: str, policy: str, fence: Path, new_url: NewURL, request: pytest.FixtureRequest
) -> None:
    """After a clean stop and after kill -9: the fence knows what the database has lost."""
    url = new_url(kind)
    chosen = fence_settings(fence, on_regression=policy)
    with FaultScenario(
        f"restored while down, fence ({policy})", kind, url, ambiguous=True, settings=chosen
    ) as scenario:
        restore = backup(kind, url, request)
        for cleanly in (True, False):
            scenario.load.more_answers(200)
            end(scenario.service, cleanly=cleanly)
            restore()
            scenario.service.start()
            check_report_and_repair(scenario, policy)
