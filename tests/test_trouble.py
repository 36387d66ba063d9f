"""One line for the beginning of trouble and one for its end, whoever finds them."""

from __future__ import annotations

import pytest

from uniqueid.monitoring.incidents import Trouble


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_first_tells_the_beginning_and_the_last_the_end(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Both find it again and again, and each sees its end once or more."""
    trouble = Trouble("gone: %s", "back")
    first, last = order
    for _round in range(2):
        caplog.clear()
        for by in (first, last, first, last):
            trouble.found(by, f"says {by}")
        trouble.ended(first)
        trouble.ended(first)
        trouble.found(last, "still")
        assert [record.getMessage() for record in caplog.records] == [f"gone: says {first}"]
        trouble.ended(last)
        trouble.ended(last)
        assert caplog.records[1].getMessage() == "back"
        assert len(caplog.records) == 2


def test_who_has_met_nothing_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else's connection is well: that says nothing of the one that is lost."""
    trouble = Trouble("gone: %s", "back")
    trouble.ended("b")
    trouble.found("a", "x")
    trouble.ended("b")
    assert len(caplog.records) == 1
