"""The image, made once for all tests."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import containers


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
