"""Tokens on the running service: client, commands and rotation."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from servers import BIN, Service, wait_until

from uniqueid_client import Client, RequestRefused, read_token


def write(file: Path, *tokens: str) -> None:
    """Replace a file of tokens, as a mounted secret is."""
    lines = [f"{t[:3]} {hashlib.sha256(t.encode()).hexdigest()}\n" for t in tokens]
    file.with_suffix(".new").write_text("".join(lines))
    os.replace(file.with_suffix(".new"), file)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    write(file, "old-token")
    return file


@pytest.fixture
def service(tokens: Path, tmp_path: Path) -> Iterator[Service]:
    url = f"sqlite:///{tmp_path}/db.sqlite3"
    with servers.running(Service(url, auth_tokens_file=str(tokens), access_log="1")) as service:
        assert isinstance(service, Service)
        yield service


def command(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "pacifica-uniqueid-client"), arguments[0], "--url", service.url, *arguments[1:]],
        capture_output=True, text=True, timeout=120, check=False,
        env={**service.environment(), "NO_PROXY": "*"},
    )  # fmt: skip


def test_tokens_are_replaced_under_the_running_service(service: Service, tokens: Path) -> None:
    """Both count for a while, then only the new one; a client whose token is a function follows."""
    told = tokens.with_name("token")
    told.write_text("old-token\n")
    with Client(service.url, token=lambda: read_token(str(told)), attempts=1) as client:
        assert client.get_range("file", 1).first == 1
        write(tokens, "old-token", "new-token")
        assert client.get_range("file", 1).first == 2
        write(tokens, "new-token")

        def refused() -> bool:
            try:
                client.get_range("file", 1)
            except RequestRefused as error:
                return error.status == 401
            return False

        wait_until(refused, "the old token refused")
        told.write_text("new-token\n")
        assert client.get_range("file", 1).first > 2
    log = service.log.read_text()
    assert "token=new" in log
    assert "old-token" not in log
    assert "new-token" not in log


def test_the_commands_send_a_token_from_a_file(service: Service, tmp_path: Path) -> None:
    """Without one they say what is missing."""
    file = tmp_path / "token"
    file.write_text("old-token\n")
    ask = ("get", "--mode", "file", "--range", "2")
    assert command(service, *ask, "--token-file", str(file)).stdout == "1 2\n"
    refused = command(service, *ask)
    assert refused.returncode == 1
    assert "Bearer" in refused.stderr
    assert "Traceback" not in refused.stderr
    missing = command(service, *ask, "--token-file", "/nothing")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)
    assert "No such file" in missing.stderr
    probed = command(service, "probe", "--requests", "3", "--token-file", str(file))
    assert probed.returncode == 0, probed.stdout + probed.stderr


def test_a_broken_file_of_tokens_ends_the_start(tmp_path: Path) -> None:
    """Rather than accept every client, or none."""
    service = Service(f"sqlite:///{tmp_path}/db.sqlite3", auth_tokens_file="/nothing")
    service.cmd("dbsync")
    try:
        service.launch()
        assert service.wait() != 0
        log = service.log.read_text()
    finally:
        service.remove()
    assert "auth_tokens_file" in log
    assert "Traceback" not in log
