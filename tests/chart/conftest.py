"""The image, made once for all tests, and a user of the chart."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import cluster
import containers
import helm
from helm_user import User


@pytest.fixture(scope="session")
def image() -> Iterator[dict[str, object]]:
    """The image as `make image` makes it; what podman knows of it."""
    started = time.monotonic()
    containers.build()
    facts = containers.inspect()
    facts["Seconds"] = time.monotonic() - started
    yield facts
    containers.clean_up()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A volume that the image's user may write to."""
    directory = tmp_path / "data"
    directory.mkdir()
    os.chown(directory, 10001, 10001)
    return directory


@pytest.fixture(params=helm.MAJORS, ids=["helm3", "helm4"])
def user(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[User]:
    """A user of each version of Helm with an empty cluster."""
    with cluster.Cluster() as empty:
        yield User(empty, tmp_path, request.param)
