"""The files for a machine without Kubernetes: systemd unit, nginx and compose."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import servers
import yaml
from servers import BIN, CHECKOUT, Service

from uniqueid import __version__

UNIT = (CHECKOUT / "deploy/uniqueid.service").read_text()


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """With uWSGI where this machine has it; no line is unknown or ignored."""
    unit = tmp_path / "uniqueid.service"
    unit.write_text(UNIT.replace("/opt/uniqueid/bin", str(BIN)))
    command = [servers.sbin("systemd-analyze"), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "uniqueid.service" not in done.stderr


def test_the_unit_is_hardened(tmp_path: Path) -> None:
    """By systemd's own measure, of 0 (best) to 10."""
    unit = tmp_path / "uniqueid.service"
    unit.write_text(UNIT)
    command = [servers.sbin("systemd-analyze"), "security", "--offline=yes", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < 3


class Nginx(servers.Process):
    """deploy/nginx.conf in front of a service, on a port of its own."""

    def __init__(self, service: Service, timeout: str = "10s") -> None:
        super().__init__()
        main, http = servers.nginx_lines(self.directory)
        text = (CHECKOUT / "deploy/nginx.conf").read_text()
        assert "listen 80;" in text
        assert "127.0.0.1:8051;" in text
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("127.0.0.1:8051;", f"127.0.0.1:{service.port};")
        text = text.replace("_timeout 10s;", f"_timeout {timeout};")
        self.configuration = self.directory / "nginx.conf"
        self.configuration.write_text(
            f"{main} events {{ worker_connections 512; }} http {{ {http}\n{text}\n}}"
        )

    def command(self) -> list[str]:
        nginx = [servers.sbin("nginx"), "-p", str(self.directory), "-e", "stderr"]
        return [*nginx, "-c", str(self.configuration)]

    def get(self, target: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{target}", timeout=30) as answer:
            return json.load(answer)


def test_nginx_stores_nothing_and_passes_everything_on(service: Service) -> None:
    """Identical requests, sequential and concurrent, get ranges of their own."""
    with Nginx(service) as nginx, ThreadPoolExecutor(8) as pool:
        assert isinstance(nginx, Nginx)
        answers = list(pool.map(lambda _number: nginx.get("/getid?range=2&mode=n"), range(64)))
        assert sorted(answer["startIndex"] for answer in answers) == list(range(1, 129, 2))
        probe = [str(BIN / "pacifica-uniqueid-client"), "probe", "--url"]
        done = subprocess.run([*probe, f"http://127.0.0.1:{nginx.port}"], check=False)
        assert done.returncode == 0


def test_slow_clients_occupy_nginx_and_not_the_service(service: Service) -> None:
    """More of them than the service has threads; the others are served meanwhile."""
    with Nginx(service, timeout="3s") as nginx:
        assert isinstance(nginx, Nginx)
        slow = [socket.create_connection(("127.0.0.1", nginx.port)) for _number in range(64)]
        try:
            for number, client in enumerate(slow):
                head = "POST /getid HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n"
                client.sendall((head + ("\r\nrange=1" if number % 2 else "")).encode())
            assert nginx.get("/getid?range=1&mode=slow")["startIndex"] == 1
            for client in slow:
                client.settimeout(servers.START_TIMEOUT)
                # nginx ends them: with a 408, or without a word.
                while client.recv(4096):
                    pass
        finally:
            for client in slow:
                client.close()
        assert nginx.get("/getid?range=1&mode=slow")["startIndex"] == 2


@pytest.fixture
def compose() -> dict[str, Any]:
    """The services of compose.yaml."""
    services: dict[str, Any] = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())["services"]
    return services


def test_compose_starts_the_service_after_the_tables(compose: dict[str, Any]) -> None:
    """Database, dbsync, service; each waits for the one before, and the image is this release's."""
    waits = {name: one.get("depends_on", {}) for name, one in compose.items()}
    assert waits["dbsync"] == {"database": {"condition": "service_healthy"}}
    assert waits["uniqueid"] == {"dbsync": {"condition": "service_completed_successfully"}}
    for name in ("dbsync", "uniqueid"):
        assert compose[name]["image"] == f"pacifica/uniqueid:{__version__}"
        assert compose[name]["build"] == "."
    assert "healthcheck" in compose["database"]
    health = compose["uniqueid"]["healthcheck"]["test"][1:]
    dockerfile = (CHECKOUT / "Dockerfile").read_text()
    assert json.dumps(health) in dockerfile


def test_compose_gives_the_password_as_a_file(compose: dict[str, Any], tmp_path: Path) -> None:
    """The only variables besides the image's own; the database reads the same file."""
    file = tmp_path / "database_password"
    file.write_text("secret\n")
    mounted = f"/run/secrets/{file.name}"
    for name in ("dbsync", "uniqueid"):
        environment = compose[name]["environment"]
        assert mounted in environment.values()
        environment = {name: text.replace(mounted, str(file)) for name, text in environment.items()}
        done = servers.run_cmd("config", **environment)
        assert "mysql://uniqueid:***@database:3306/uniqueid" in done.stdout
    assert compose["database"]["environment"]["MARIADB_PASSWORD_FILE"] == mounted
    for service in compose.values():
        assert service["secrets"] == [file.name]
    whole = yaml.safe_load((CHECKOUT / "compose.yaml").read_text())
    assert list(whole["secrets"]) == [file.name]


def test_the_unit_can_pass_a_credential(tmp_path: Path) -> None:
    """The lines that are commented out are ones that systemd accepts, with a variable of the
    service."""
    lines = re.findall(r"^#((?:LoadCredential|Environment)=.*)$", UNIT, re.MULTILINE)
    assert lines[0] == "LoadCredential=database_password:/etc/uniqueid/database_password"
    assert lines[1] == "Environment=UNIQUEID_DATABASE_PASSWORD_FILE=%d/database_password"
    unit = tmp_path / "uniqueid.service"
    text = UNIT.replace("/opt/uniqueid/bin", str(BIN))
    for line in lines:
        text = text.replace(f"#{line}", line)
    unit.write_text(text)
    command = [servers.sbin("systemd-analyze"), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "uniqueid.service" not in done.stderr


def test_the_workflow_runs_the_suites() -> None:
    """On each Python of the classifiers."""
    text = (CHECKOUT / ".github/workflows/ci.yml").read_text()
    job = yaml.safe_load(text)["jobs"]["test"]
    metadata = (CHECKOUT / "pyproject.toml").read_text()
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", metadata)
    assert job["strategy"]["matrix"]["python"] == versions
    assert ".ci/run" in text
    assert os.access(CHECKOUT / ".ci/run", os.X_OK)
    for file in (CHECKOUT / ".github/ISSUE_TEMPLATE").iterdir():
        assert isinstance(yaml.safe_load(file.read_text()), dict)
