"""What MySQL has and MariaDB has not: TLS and caching_sha2_password by default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import servers

from uniqueid.database import schema
from uniqueid.errors import DatabaseUnavailable

from .direct import Direct, cipher


@pytest.fixture
def own_mysql() -> Iterator[servers.MySQL]:
    """A server that may be restarted."""
    with servers.running(servers.MySQL()) as server:
        yield server


def test_tls_is_used_wherever_the_server_offers_it(mysql: servers.MySQL) -> None:
    """On loopback too, unless it is switched off; over the socket where it is asked for."""
    url = mysql.url(mysql.new_database())
    over_socket = url.replace(f"127.0.0.1:{mysql.port}", "localhost")
    assert cipher(url)
    assert cipher(f"{over_socket}?unix_socket={mysql.socket}&ssl_mode=REQUIRED")
    assert not cipher(f"{over_socket}?unix_socket={mysql.socket}")
    assert not cipher(f"{url}?ssl_disabled=true")
    assert cipher(f"{url}?ssl_disabled=false")


def test_a_user_with_require_ssl_is_served_on_loopback(mysql: servers.MySQL) -> None:
    name = mysql.new_database()
    mysql.sql(
        "CREATE USER IF NOT EXISTS only_tls IDENTIFIED BY 'secret' REQUIRE SSL;"
        f"GRANT ALL ON {name}.* TO only_tls"
    )
    url = f"mysql://only_tls:secret@127.0.0.1:{mysql.port}/{name}"
    assert cipher(url)
    with pytest.raises(DatabaseUnavailable, match="Access denied"):
        cipher(f"{url}?ssl_disabled=true")


@pytest.mark.parametrize("options", ["", "?ssl_disabled=true"], ids=["tls", "plain"])
def test_a_service_survives_a_restart_of_the_server(own_mysql: servers.MySQL, options: str) -> None:
    """Which empties its cache of passwords: each user has to authenticate in full again."""
    service = servers.Service(own_mysql.url(own_mysql.new_database()) + options)
    with servers.running(service):
        assert service.allocate("file", 5) == (1, 5)
        own_mysql.stop()
        assert service.get("/getid?range=1&mode=file")[0] == 503
        own_mysql.start()
        servers.wait_until(lambda: service.get("/readyz")[0] == 200, "ready again")
        assert service.allocate("file", 1) == (6, 6)
        assert "Traceback" not in service.log.read_text()


def test_an_error_of_any_class_from_the_driver_is_an_unavailable_database(
    own_mysql: servers.MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyMySQL's RuntimeError without the package cryptography; it recovers without a restart."""
    direct = Direct(own_mysql.url(own_mysql.new_database()) + "?ssl_disabled=true")
    schema.sync(direct.store)
    assert direct.first("file") == 1
    own_mysql.stop()
    own_mysql.start()
    direct.store.disconnect()
    with monkeypatch.context() as patch:
        patch.setattr("pymysql._auth._have_cryptography", False)
        with pytest.raises(DatabaseUnavailable, match="RuntimeError: 'cryptography' package"):
            direct.advance({"file": 1}, deadline=0)
        with pytest.raises(DatabaseUnavailable, match="RuntimeError: 'cryptography' package"):
            direct.store.ping()
    assert direct.first("file") == 2
    direct.store.disconnect()
