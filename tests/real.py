"""The real service and the faulty proxy in front of it, for the tests here and of the client."""

from __future__ import annotations

from collections.abc import Iterator

import faulty_proxy
import pytest
import servers


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Service]:
    """The real service, for all tests of a module."""
    server = servers.Service(f"sqlite:///{tmp_path_factory.mktemp('db')}/db.sqlite3")
    with servers.running(server):
        yield server


@pytest.fixture
def proxy(service: servers.Service) -> Iterator[faulty_proxy.Proxy]:
    """A faulty proxy in front of it."""
    with faulty_proxy.Proxy(service.port) as proxy:
        yield proxy
