"""One line for the beginning of an incident and one for its end, whichever thread reports it."""

from __future__ import annotations

import pytest

from uniqueid.monitoring.incidents import Incident


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_the_first_tells_the_beginning_and_the_last_the_end(
    order: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Both find it again and again, and each sees its end once or more."""
    incident = Incident("gone", "back")
    first, last = order
    for _round in range(2):
        caplog.clear()
        for by in (first, last, first, last):
            incident.report(by, f"says {by}")
        incident.resolve(first)
        incident.resolve(first)
        incident.report(last, "still")
        assert [record.getMessage() for record in caplog.records] == [f'gone cause="says {first}"']
        incident.resolve(last)
        incident.resolve(last)
        assert caplog.records[1].getMessage() == "back"
        assert len(caplog.records) == 2


def test_who_has_met_nothing_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Another connection works: that is no sign of the one that is lost."""
    incident = Incident("gone", "back")
    incident.resolve("b")
    incident.report("a", "x")
    incident.resolve("b")
    assert len(caplog.records) == 1
