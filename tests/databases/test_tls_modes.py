"""The TLS modes of a URL on real servers with an own CA, and through a proxy that strips TLS."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from pony.orm import db_session
from servers import BIN

from uniqueid.database.store import Store
from uniqueid.database_url import parse
from uniqueid.errors import DatabaseUnavailable


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with the certificate of a server that is called localhost, and another CA."""
    directory = tmp_path_factory.mktemp("tls")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    for name in ("ca", "other"):
        openssl(
            directory, *new, "-x509", "-days", "2", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    openssl(directory, *new, "-subj", "/CN=server", "-keyout", "key.pem", "-out", "csr.pem")
    (directory / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        directory, "x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "cert.pem",
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def encrypted_mariadb(certificates: Path) -> Iterator[servers.MariaDB]:
    options = (f"--ssl-{name}={certificates}/{name}.pem" for name in ("ca", "cert", "key"))
    with servers.running(servers.MariaDB(*options)) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted_postgresql(certificates: Path) -> Iterator[servers.PostgreSQL]:
    server = servers.PostgreSQL()
    for name in ("cert.pem", "key.pem"):
        file = server.directory / name
        shutil.copy(certificates / name, file)
        file.chmod(0o600)
        if server.user() is not None:
            shutil.chown(file, server.user())
    server.options = (
        "ssl=on",
        f"ssl_cert_file={server.directory}/cert.pem",
        f"ssl_key_file={server.directory}/key.pem",
    )
    with servers.running(server):
        yield server


Server = servers.MariaDB | servers.PostgreSQL


@pytest.fixture(params=["mysql", "postgresql"])
def encrypted(
    request: pytest.FixtureRequest,
) -> Server:
    """Each server, which offers TLS."""
    name = "encrypted_mariadb" if request.param == "mysql" else "encrypted_postgresql"
    server: Server = request.getfixturevalue(name)
    return server


def is_encrypted(url: str) -> bool:
    """Whether a session of the service is."""
    parsed = parse(url, "url", "test")
    store = Store(parsed)
    queries = {
        "mysql": "SHOW SESSION STATUS LIKE 'Ssl_cipher'",
        "postgresql": "SELECT 'ssl', CASE WHEN ssl THEN 'yes' ELSE '' END FROM pg_stat_ssl"
        " WHERE pid = pg_backend_pid()",
    }
    try:
        store.open()
        with db_session:
            row = store.database.execute(queries[parsed.kind]).fetchone()
        return bool(row[1])
    finally:
        store.disconnect()


def refused(url: str) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        is_encrypted(url)
    return str(caught.value)


MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")


def with_mode(url: str, mode: str, authority: Path) -> str:
    return f"{url}?ssl_mode={mode}&ssl_ca={authority}"


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_with_the_right_authority_and_name(
    encrypted: Server, certificates: Path, mode: str
) -> None:
    """All connect; all but DISABLED encrypt."""
    url = encrypted.url(encrypted.new_database()).replace("127.0.0.1", "localhost")
    assert is_encrypted(with_mode(url, mode, certificates / "ca.pem")) is (mode != "DISABLED")


def test_tls_is_preferred_without_an_option(encrypted: Server) -> None:
    """On loopback too, where it cannot be seen from here whether a proxy leads away."""
    assert is_encrypted(encrypted.url(encrypted.new_database()))


def test_required_needs_no_authority(encrypted: Server) -> None:
    """It verifies nothing, as in the databases' own clients."""
    assert is_encrypted(f"{encrypted.url(encrypted.new_database())}?ssl-mode=REQUIRED")


@pytest.mark.parametrize("mode", ["VERIFY_CA", "VERIFY_IDENTITY"])
def test_a_certificate_of_another_authority_is_refused(
    encrypted: Server, certificates: Path, mode: str
) -> None:
    """Whatever its name."""
    url = encrypted.url(encrypted.new_database()).replace("127.0.0.1", "localhost")
    message = refused(with_mode(url, mode, certificates / "other.pem"))
    assert "certificate verify failed" in message


def test_a_certificate_with_another_name_is_refused_by_verify_identity(
    encrypted: Server, certificates: Path
) -> None:
    """VERIFY_CA does not look at the name."""
    url = encrypted.url(encrypted.new_database())
    assert "127.0.0.1" in url
    assert is_encrypted(with_mode(url, "VERIFY_CA", certificates / "ca.pem"))
    message = refused(with_mode(url, "VERIFY_IDENTITY", certificates / "ca.pem"))
    assert "127.0.0.1" in message


def test_ssl_verify_identity_verifies_the_name(
    encrypted_mariadb: servers.MariaDB, certificates: Path
) -> None:
    """PyMySQL's own option."""
    url = encrypted_mariadb.url(encrypted_mariadb.new_database())
    options = f"?ssl_verify_identity=true&ssl_ca={certificates}/ca.pem"
    assert is_encrypted(url.replace("127.0.0.1", "localhost") + options)
    assert "127.0.0.1" in refused(url + options)


class Stripper:
    """A proxy on the way that takes the offer of TLS out of what the server says."""

    def __init__(self, kind: str, port: int) -> None:
        self.kind = kind
        self.target = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.threads = [threading.Thread(target=self.accept)]
        self.sockets = [self.listener]
        self.threads[0].start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _address = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self.sockets += [client, server]
                self.strip(client, server)
                for pair in ((client, server), (server, client)):
                    self.threads.append(threading.Thread(target=self.pump, args=pair))
                    self.threads[-1].start()

    def strip(self, client: socket.socket, server: socket.socket) -> None:
        if self.kind == "mysql":
            greeting = bytearray(server.recv(4096))
            # Protocol 10: version, zero, connection, 8 bytes of salt, filler, capabilities.
            place = greeting.index(0, 5) + 1 + 4 + 8 + 1
            greeting[place + 1] &= ~0x08
            client.sendall(greeting)
            return
        # SSLRequest: 8 bytes, answered with S or N.
        first = client.recv(4096)
        if first[4:8] == (80877103).to_bytes(4, "big"):
            client.sendall(b"N")
        else:
            server.sendall(first)

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("mode", MODES)
def test_a_proxy_that_strips_tls_is_noticed_by_every_mode_that_asks_for_tls(
    encrypted: Server, certificates: Path, mode: str
) -> None:
    """Those that do not go on in plain text."""
    kind = "mysql" if isinstance(encrypted, servers.MariaDB) else "postgresql"
    stripper = Stripper(kind, encrypted.port)
    try:
        url = encrypted.url(encrypted.new_database()).replace("127.0.0.1", "localhost")
        url = url.replace(str(encrypted.port), str(stripper.port))
        if mode in ("DISABLED", "PREFERRED"):
            assert not is_encrypted(f"{url}?ssl_mode={mode}")
        else:
            message = refused(with_mode(url, mode, certificates / "ca.pem"))
            assert "SSL" in message
    finally:
        stripper.close()


# -- the client certificate -----------------------------------------------------------------------


def dbsync(url: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run it as a user who may not read everything."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.getuid() == 0 else []
    return subprocess.run(
        [*drop, BIN / "pacifica-uniqueid-cmd", "dbsync"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "UNIQUEID_DATABASE_URL": url,
            "UNIQUEID_CONNECT_ATTEMPTS": "1",
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """A home directory whose client certificates may not be read."""
    place = tmp_path / ".postgresql"
    place.mkdir()
    place.chmod(0)
    yield tmp_path
    place.chmod(0o700)


def test_certificates_that_may_not_be_read_are_reported_where_libpq_goes_on_in_plain_text(
    encrypted_postgresql: servers.PostgreSQL, unreadable: Path
) -> None:
    """With the default `sslmode`; the administrator wanted TLS, the server has it."""
    url = encrypted_postgresql.url(encrypted_postgresql.new_database())
    for mode in ("", "?sslmode=prefer"):
        done = dbsync(url + mode, unreadable)
        assert done.returncode == 0, done.stderr
        warnings = [line for line in done.stderr.splitlines() if "not encrypted" in line]
        assert warnings
        assert all("level=warning" in line for line in warnings)
        assert f"{unreadable}/.postgresql/postgresql.crt" in warnings[0]
        assert "Permission denied" in warnings[0]
    done = dbsync(f"{url}?sslmode=disable", unreadable)
    assert done.returncode == 0
    assert "not encrypted" not in done.stderr


def test_certificates_that_may_not_be_read_are_an_error_where_tls_is_asked_for(
    encrypted_postgresql: servers.PostgreSQL, unreadable: Path
) -> None:
    """One line, with the file."""
    url = encrypted_postgresql.url(encrypted_postgresql.new_database())
    for mode in ("require", "verify-full"):
        done = dbsync(f"{url}?sslmode={mode}", unreadable)
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert ".postgresql/" in last
        assert "Traceback" not in done.stderr


def test_a_home_without_certificates_is_no_reason_for_a_warning(
    encrypted_postgresql: servers.PostgreSQL, postgresql: servers.PostgreSQL, tmp_path: Path
) -> None:
    """Neither with TLS nor with a server that has none."""
    for server in (encrypted_postgresql, postgresql):
        done = dbsync(server.url(server.new_database()), tmp_path)
        assert done.returncode == 0, done.stderr
        assert "not encrypted" not in done.stderr


@pytest.mark.parametrize("option", ["ssl_ca", "ssl_cert"])
def test_a_file_of_mysql_that_may_not_be_read_is_one_line(
    encrypted_mariadb: servers.MariaDB, certificates: Path, option: str, tmp_path: Path
) -> None:
    """And never a session in plain text."""
    file = tmp_path / "file.pem"
    shutil.copy(certificates / "ca.pem", file)
    file.chmod(0)
    done = dbsync(
        f"{encrypted_mariadb.url(encrypted_mariadb.new_database())}?{option}={file}", tmp_path
    )
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


# -- passwords ------------------------------------------------------------------------------------


def test_a_password_of_any_characters_is_sent_to_mariadb(mariadb: servers.MariaDB) -> None:
    """Also of those that Latin-1 does not have; a wrong one is in no message."""
    name = mariadb.new_database()
    mariadb.sql(
        "SET NAMES utf8mb4; CREATE USER any_characters IDENTIFIED BY 'p\u00e4\u20ac\u4f60 [';"
        f"GRANT ALL ON {name}.* TO any_characters"
    )
    place = f"127.0.0.1:{mariadb.port}/{name}"
    escaped = servers.quote("p\u00e4\u20ac\u4f60 [", safe="")
    assert is_encrypted(f"mysql://any_characters:{escaped}@{place}") in (True, False)
    message = refused(f"mysql://any_characters:{escaped}x@{place}")
    assert "\u20ac" not in message
    assert "Access denied" in message
