"""Only an installation creates tables: what each release of the chart has dbsync do, and the same
command run against real databases.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cases
import helm
import pytest
import servers
from helm_user import User
from servers import BIN

NO_CREATE = ["pacifica-uniqueid-cmd", "dbsync", "--no-create"]
MYSQL = {
    "database": {"type": "mysql", "host": "db.example.com", "password": "p"},
}


def dbsync(pod: dict[str, Any]) -> list[str]:
    (container,) = [one for one in pod["initContainers"] if one["name"] == "dbsync"]
    arguments: list[str] = container["args"]
    return arguments


def run(arguments: list[str], url: str) -> subprocess.CompletedProcess[str]:
    """Run what dbsync's container runs, here."""
    return subprocess.run(
        [BIN / arguments[0], *arguments[1:]],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "UNIQUEID_DATABASE_URL": url},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 1
    assert "database.initialize=true" in result.stderr
    assert "Moving to another database" in result.stderr
    assert "Traceback" not in result.stderr


def deadline(arguments: list[str]) -> datetime:
    assert arguments[:3] == ["pacifica-uniqueid-cmd", "dbsync", "--create-until"]
    return datetime.fromisoformat(arguments[3])


def test_an_installation_may_create_tables_for_an_hour(user: User, tmp_path: Path) -> None:
    """And says so at WARNING; after the hour it refuses the same empty database."""
    user.install()
    arguments = dbsync(user.template()["spec"])
    left = deadline(arguments) - datetime.now(UTC)
    assert timedelta(minutes=55) < left <= timedelta(hours=1)
    path = tmp_path / "db.sqlite3"
    created = run(arguments, f"sqlite:///{path}")
    assert created.returncode == 0, created.stderr
    assert "level=warning" in created.stderr
    assert "new counters created, every mode starts at 1" in created.stderr
    path.unlink()
    # A volume that was emptied, and a rollback to the first revision, with the hour over.
    refused(run([*arguments[:3], "2026-01-31T12:00:00Z"], f"sqlite:///{path}"))
    assert not path.exists()


@pytest.mark.parametrize("option", ["", "--reuse-values", "--reset-values"])
def test_no_upgrade_may(user: User, option: str, tmp_path: Path) -> None:
    """Whatever happens to the values, and whatever database they lead to."""
    user.install(values=MYSQL)
    arguments = ["upgrade", "uniqueid", str(helm.CHART), "--set", "image.pullPolicy=IfNotPresent"]
    user.helm(*arguments, *([option] if option else []))
    assert dbsync(user.template()["spec"]) == NO_CREATE
    refused(run(NO_CREATE, f"sqlite:///{tmp_path}/db.sqlite3"))
    assert not list(tmp_path.glob("db.sqlite3*"))


def test_a_release_that_moves_to_another_database_is_refused(
    user: User, mariadb: servers.MariaDB
) -> None:
    """From SQLite to a new MariaDB: the counters have to be moved, or started deliberately."""
    user.install()
    user.install("upgrade", MYSQL)
    arguments = dbsync(user.template()["spec"])
    assert arguments == NO_CREATE
    name = mariadb.new_database()
    refused(run(arguments, mariadb.url(name)))
    assert mariadb.sql("SHOW TABLES", name) == ""
    deliberate = {"database": {**MYSQL["database"], "initialize": True}}
    user.install("upgrade", deliberate)
    assert run(dbsync(user.template()["spec"]), mariadb.url(name)).returncode == 0
    user.install("upgrade", MYSQL)
    assert run(dbsync(user.template()["spec"]), mariadb.url(name)).returncode == 0


@pytest.mark.parametrize("override", ["nameOverride", "fullnameOverride"])
def test_other_names_on_an_upgrade_start_no_counters(user: User, override: str) -> None:
    """The claims are new and empty, and dbsync refuses them."""
    user.install()
    user.install("upgrade", {override: "renamed"})
    (deployment,) = [
        one
        for one in user.cluster.objects.values()
        if one["kind"] == "Deployment" and "renamed" in one["metadata"]["name"]
    ]
    assert dbsync(deployment["spec"]["template"]["spec"]) == NO_CREATE


def test_a_rollback_to_the_first_revision_has_its_deadline(user: User) -> None:
    """The permission is not given again."""
    user.install()
    first = dbsync(user.template()["spec"])
    user.install("upgrade", {"settings": {"max_range": 5}})
    user.helm("rollback", "uniqueid", "1")
    assert dbsync(user.template()["spec"]) == first


def test_a_first_installation_that_an_upgrade_repairs(user: User, mariadb: servers.MariaDB) -> None:
    """With a wrong password nothing was created: the value for a deliberate start does it."""
    user.install(values=MYSQL)
    name = mariadb.new_database()
    wrong = mariadb.url(name).replace(mariadb.USER, "stranger", 1) + "?"
    result = subprocess.run(
        [BIN / "pacifica-uniqueid-cmd", *dbsync(user.template()["spec"])[1:]],
        env={
            "PATH": os.environ["PATH"],
            "UNIQUEID_DATABASE_URL": wrong,
            "DATABASE_CONNECT_ATTEMPTS": "1",
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    user.install("upgrade", MYSQL)
    refused(run(dbsync(user.template()["spec"]), mariadb.url(name)))
    user.install("upgrade", {"database": {**MYSQL["database"], "initialize": True}})
    created = run(dbsync(user.template()["spec"]), mariadb.url(name))
    assert created.returncode == 0, created.stderr
    assert "new counters created" in created.stderr


@pytest.mark.parametrize("mode", ["initContainer", "hook"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, []), ("true", []), (False, ["--no-create"]), ("false", ["--no-create"])],
    ids=str,
)
def test_a_chart_that_is_rendered_without_a_cluster_is_told(
    mode: str, value: object, expected: list[str]
) -> None:
    """Argo CD and `helm template` render the same each time."""
    values = helm.merge(cases.POSTGRESQL, {"dbsync": {"mode": mode}})
    manifests = helm.render(helm.merge(values, {"database": {"initialize": value}}))
    if mode == "hook":
        pod = helm.one(manifests, "Job", "uniqueid-dbsync")["spec"]["template"]["spec"]
        arguments = pod["containers"][0]["args"]
    else:
        arguments = dbsync(helm.service_pod(manifests))
    assert arguments == ["pacifica-uniqueid-cmd", "dbsync", *expected]


def test_existing_tables_are_brought_up_to_date_without_a_word(tmp_path: Path) -> None:
    """As an upgrade of the chart does it with tables of the legacy service."""
    path = tmp_path / "db.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            'CREATE TABLE uniqueindex (id VARCHAR(255) PRIMARY KEY, "index" BIGINT NOT NULL)'
        )
        connection.execute("INSERT INTO uniqueindex VALUES ('file', 42)")
        connection.commit()
    result = run(NO_CREATE, f"sqlite:///{path}")
    assert result.returncode == 0, result.stderr
    assert "new counters created" not in result.stderr
    shown = run(["pacifica-uniqueid-cmd", "show"], f"sqlite:///{path}")
    assert "42" in shown.stdout
