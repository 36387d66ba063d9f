"""The public interface is what the snapshot says. What changes it on purpose writes a new one:

python tests/public_interface.py --write
"""

from __future__ import annotations

import json

import public_interface
import pytest


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    collected: dict[str, object] = json.loads(public_interface.render(public_interface.collect()))
    return collected


SNAPSHOT = json.loads(public_interface.SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", sorted(SNAPSHOT))
def test_the_public_interface_is_as_recorded(found: dict[str, object], part: str) -> None:
    """Each part of it, and no part more."""
    assert found[part] == SNAPSHOT[part]
    assert set(found) == set(SNAPSHOT)
