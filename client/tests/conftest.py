"""Fixtures of the client's tests, which run against the real service of this checkout."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uniqueid_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from real import proxy, service

__all__ = ["proxy", "service"]


class Impatient(threading.Event):
    """Notes how long it was to wait, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return self.is_set()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads the settings of the machine it runs on."""
    for name in ("UNIQUEID_URL", "UNIQUEID_TOKEN_FILE", "UNIQUEID_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """A mode that no other test uses."""
    return f"mode of {request.node.name}"


@pytest.fixture
def new_client() -> Iterator[Callable[..., Client]]:
    """Makes clients that do not wait between attempts, and closes them."""
    made = []

    def make(url: str, **options: object) -> Client:
        client = Client(url, **options)  # type: ignore[arg-type]
        client._connections.get().closing = Impatient()
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()
