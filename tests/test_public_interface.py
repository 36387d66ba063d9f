"""The public interface is what the snapshot says. What changes it on purpose writes a new one:

python tests/public_interface.py --write
"""

from __future__ import annotations

import json
import sys
from typing import Any

import public_interface
import pytest

RECORDED_WITH = (3, 11)
"""The version of Python whose argparse has laid out the recorded help."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    collected: dict[str, Any] = json.loads(public_interface.render(public_interface.collect()))
    return collected


SNAPSHOT = json.loads(public_interface.SNAPSHOT.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", sorted(SNAPSHOT))
def test_the_public_interface_is_as_recorded(found: dict[str, Any], part: str) -> None:
    """Each part of it, and no part more."""
    if part == "commands" and sys.version_info[:2] != RECORDED_WITH:
        assert public_interface.options(found[part]) == public_interface.options(SNAPSHOT[part])
    else:
        assert found[part] == SNAPSHOT[part]
    assert set(found) == set(SNAPSHOT)
