"""A database with several addresses, some of which do not answer, in a network of its own."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import network
import pytest
import servers
from servers import BIN

DROPPED, DROPPED_TOO = "127.0.0.3", "127.0.0.4"
"""Addresses to which every packet is dropped."""


class InNetwork(servers.PostgreSQL):
    """A server that listens in a network namespace only."""

    def __init__(self, namespace: network.Network, *options: str) -> None:
        super().__init__(*options)
        self.namespace = namespace
        self.started_by = self.user()

    def command(self) -> list[str]:
        drop = [] if self.started_by is None else ["setpriv", f"--reuid={self.started_by}"]
        drop += ["--clear-groups"] if drop else []
        return [*self.namespace.prefix, *drop, *super().command()]

    def user(self) -> str | None:
        # To enter the namespace takes root.
        return None if hasattr(self, "started_by") else super().user()


@pytest.fixture(scope="module")
def namespace() -> Iterator[network.Network]:
    """A network that drops every packet to some addresses."""
    with network.Network() as made:
        assert made.prefix, "the kernel grants no network namespace"
        for address in (DROPPED, DROPPED_TOO):
            rule = ["-A", "OUTPUT", "-d", address, "-j", "DROP"]
            subprocess.run([*made.prefix, servers.sbin("iptables"), *rule], check=True)
        yield made


@pytest.fixture(scope="module")
def primary(namespace: network.Network) -> Iterator[servers.PostgreSQL]:
    with servers.running(InNetwork(namespace)) as server:
        yield server


@pytest.fixture(scope="module")
def read_only(namespace: network.Network) -> Iterator[servers.PostgreSQL]:
    """A server that takes no writes, as a standby."""
    server = InNetwork(namespace, "default_transaction_read_only=on")
    with servers.running(server):
        yield server


class Outcome:
    """Of a command in the network."""

    def __init__(
        self, namespace: network.Network, url: str, directory: Path, hosts: str = ""
    ) -> None:
        file = directory / "hosts"
        file.write_text(hosts or "127.0.0.1 localhost\n")
        mount = f"mount --bind {file} /etc/hosts && exec {BIN}/pacifica-uniqueid-cmd dbsync"
        began = time.monotonic()
        done = subprocess.run(
            [*namespace.prefix, "unshare", "--mount", "sh", "-ec", mount],
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "UNIQUEID_DATABASE_URL": url,
                "UNIQUEID_CONNECT_ATTEMPTS": "1",
            },
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        self.seconds = time.monotonic() - began
        self.status = done.returncode
        self.errors = done.stderr
        assert "Traceback" not in done.stderr


def url_of(server: servers.PostgreSQL, hosts: str, options: str = "") -> str:
    return f"postgresql://{server.USER}@{hosts}/{server.new_database()}{options}"


def test_an_address_that_drops_packets_is_left_for_the_next(
    namespace: network.Network,
    primary: servers.PostgreSQL,
    tmp_path: Path,
    record_property: pytest.RecordProperty,
) -> None:
    """Within the five seconds of a connection, which they share."""
    outcome = Outcome(namespace, url_of(primary, f"{DROPPED},127.0.0.1:{primary.port}"), tmp_path)
    assert outcome.status == 0, outcome.errors
    record_property("seconds of dbsync, the first of two addresses dropped", outcome.seconds)


@pytest.mark.parametrize(
    "hosts", ["{0},{1},127.0.0.1:{port}", "{0}:{port},127.0.0.1", "[2001:db8::1],127.0.0.1:{port}"]
)
def test_every_spelling_of_several_hosts(
    namespace: network.Network, primary: servers.PostgreSQL, hosts: str, tmp_path: Path
) -> None:
    """With ports of their own or one in an option, and of both families."""
    text = hosts.format(DROPPED, DROPPED_TOO, port=primary.port)
    options = "" if text.endswith(str(primary.port)) else f"?port={primary.port}"
    outcome = Outcome(namespace, url_of(primary, text, options), tmp_path)
    assert outcome.status == 0, outcome.errors


def test_hosts_of_the_option(
    namespace: network.Network, primary: servers.PostgreSQL, tmp_path: Path
) -> None:
    """`?host=`, with a socket's directory as the second."""
    options = f"?host={DROPPED},{primary.directory}&port={primary.port}"
    assert Outcome(namespace, url_of(primary, "", options), tmp_path).status == 0


def test_a_name_with_several_addresses(
    namespace: network.Network, primary: servers.PostgreSQL, tmp_path: Path
) -> None:
    """The first drops packets: libpq alone would wait for minutes."""
    hosts = f"{DROPPED} db.test\n127.0.0.1 db.test\n"
    outcome = Outcome(namespace, url_of(primary, f"db.test:{primary.port}"), tmp_path, hosts)
    assert outcome.status == 0, outcome.errors


def test_a_name_that_is_unknown_is_left_for_the_next(
    namespace: network.Network, primary: servers.PostgreSQL, tmp_path: Path
) -> None:
    """As one whose server is down."""
    for first in ("no-such-host.invalid", "127.0.0.1:1"):
        hosts = f"{first},127.0.0.1:{primary.port}"
        assert Outcome(namespace, url_of(primary, hosts), tmp_path).status == 0


def test_connect_timeout_is_that_of_each_address(
    namespace: network.Network, primary: servers.PostgreSQL, tmp_path: Path
) -> None:
    """As in libpq; the message names each address."""
    url = url_of(primary, f"{DROPPED},{DROPPED_TOO}", "?connect_timeout=2")
    outcome = Outcome(namespace, url, tmp_path)
    assert outcome.status == 1
    assert 4 <= outcome.seconds < 30
    last = outcome.errors.splitlines()[-1]
    for address in (DROPPED, DROPPED_TOO):
        assert f"{address}: the server did not answer within 2 seconds" in last


def test_without_an_answer_from_any_the_attempt_ends_in_time(
    namespace: network.Network, primary: servers.PostgreSQL, tmp_path: Path
) -> None:
    """Five seconds are shared out."""
    url = url_of(primary, f"{DROPPED},{DROPPED_TOO}")
    outcome = Outcome(namespace, url, tmp_path)
    assert outcome.status == 1
    assert len(re.findall("did not answer within 2.5 seconds", outcome.errors)) >= 2


def test_a_server_that_takes_no_writes_is_left_for_the_primary(
    namespace: network.Network,
    primary: servers.PostgreSQL,
    read_only: servers.PostgreSQL,
    tmp_path: Path,
) -> None:
    """Without an option, and with libpq's; an address alone is taken as it is."""
    name = primary.new_database()
    read_only.sql(f"SET default_transaction_read_only = off; CREATE DATABASE {name}")
    hosts = f"127.0.0.1:{read_only.port},127.0.0.1:{primary.port}"
    for options in ("", "?target_session_attrs=read-write"):
        url = f"postgresql://{primary.USER}@{hosts}/{name}{options}"
        outcome = Outcome(namespace, url, tmp_path)
        assert outcome.status == 0, outcome.errors
    assert primary.sql("SELECT count(*) FROM uniqueindex", name).strip() == "0"


def test_a_rejected_password_is_not_tried_elsewhere(
    namespace: network.Network, primary: servers.PostgreSQL, tmp_path: Path
) -> None:
    """As in libpq: the start ends at once."""
    place = f"127.0.0.1:{primary.port}"
    url = f"postgresql://no_such_user@{place},{DROPPED}/postgres"
    outcome = Outcome(namespace, url, tmp_path)
    assert outcome.status == 1
    assert "rejects the connection" in outcome.errors
    assert DROPPED not in outcome.errors.splitlines()[-1].partition("rejects")[2]


def test_directories_of_sockets(postgresql: servers.PostgreSQL, tmp_path: Path) -> None:
    """In the host's place, escaped, and as an option."""
    escaped = servers.quote(str(postgresql.directory), safe="")
    for place, options in (
        (f"{escaped}:{postgresql.port}", ""),
        ("", f"?host={postgresql.directory}&port={postgresql.port}"),
    ):
        url = f"postgresql://{postgresql.USER}@{place}/{postgresql.new_database()}{options}"
        done = servers.run_cmd("dbsync", UNIQUEID_DATABASE_URL=url)
        assert done.returncode == 0, done.stderr


def test_a_socket_of_mariadb(mariadb: servers.MariaDB) -> None:
    """In the host's place as well."""
    escaped = servers.quote(mariadb.socket, safe="")
    user = f"{mariadb.USER}:{servers.quote(mariadb.PASSWORD, safe='')}"
    url = f"mysql://{user}@{escaped}/{mariadb.new_database()}"
    done = servers.run_cmd("dbsync", UNIQUEID_DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
