"""What the TLS options of a MySQL or MariaDB URL verify, on a real server with an own CA."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers

from uniqueid.errors import DatabaseUnavailable

from .direct import cipher


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA with a server's certificate, and another CA."""
    directory = tmp_path_factory.mktemp("tls")
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    for name in ("ca", "other"):
        openssl(
            directory, *new, "-x509", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
    openssl(directory, *new[:-2], "-subj", "/CN=server", "-keyout", "key.pem", "-out", "csr.pem")
    openssl(
        directory, "x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-days", "2", "-out", "cert.pem",
    )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def tls_server(certificates: Path) -> Iterator[servers.MariaDB]:
    options = (f"--ssl-{name}={certificates}/{name}.pem" for name in ("ca", "cert", "key"))
    with servers.running(servers.MariaDB(*options)) as server:
        yield server


@pytest.mark.parametrize("authority", ["ca", "other"])
def test_ssl_ca_alone_encrypts_and_verifies_nothing(
    tls_server: servers.MariaDB, certificates: Path, authority: str
) -> None:
    """As docs/configuration.md says."""
    url = tls_server.url(tls_server.new_database())
    assert cipher(f"{url}?ssl_ca={certificates}/{authority}.pem")


def test_ssl_verify_cert_verifies_the_authority(
    tls_server: servers.MariaDB, certificates: Path
) -> None:
    """The name in the certificate is not verified."""
    url = tls_server.url(tls_server.new_database())
    assert cipher(f"{url}?ssl_ca={certificates}/ca.pem&ssl_verify_cert=true")
    with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
        cipher(f"{url}?ssl_ca={certificates}/other.pem&ssl_verify_cert=true")
