"""Several modes at once: one exhausted, one new, one locked by another transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from checker import MAX_ID
from fault_scenario import FaultScenario, connect
from history import is_503
from load import CLIENTS

LEFT = 2000
"""IDs that the nearly exhausted mode still has: fewer than some requests ask for."""


@contextmanager
def locked(url: str, mode: str) -> Iterator[None]:
    """Another program's transaction holds the counter, or the whole of an SQLite database."""
    with closing(connect(url)) as connection:
        cursor = connection.cursor()
        if url.startswith("sqlite"):
            cursor.execute("BEGIN IMMEDIATE")
        else:
            cursor.execute("SELECT * FROM uniqueindex WHERE id = %s FOR UPDATE", (mode,))
            assert len(cursor.fetchall()) == 1
        yield
        connection.rollback()


def test_exhausted_new_and_locked_modes_beside_others(
    kind: str, new_url: Callable[[str], str]
) -> None:
    """What is wrong with one mode is a matter for those who ask for it."""
    url = new_url(kind)
    start = MAX_ID + 1 - LEFT
    with FaultScenario(
        "one mode exhausted, one new, one locked",
        kind,
        url,
        ambiguous=False,
        # One alone would be held up by the mode that is locked.
        clients=CLIENTS,
        modes=("file", "nearly", "upload_job", "locked"),
        initial={"nearly": start},
        prepare=lambda service: service.cmd("advance", "--mode", "nearly", "--to", str(start)),
    ) as scenario:
        scenario.load.more(lambda call: call.status == 409, "the end of a counter")
        scenario.load.more_answers(10, "locked")
        with locked(url, "locked"):
            if kind == "sqlite":
                # It locks all of its modes at once.
                scenario.load.more(is_503, "a 503")
            else:
                scenario.load.more(lambda call: call.mode == "locked" and is_503(call), "a 503")
                scenario.load.more_answers(3, "file")
                assert scenario.service.allocate("new meanwhile", 5) == (1, 5)
                scenario.load.more_answers(3, "upload_job")
        scenario.load.more_answers(10, "locked")
        if kind == "sqlite":
            assert scenario.service.allocate("new meanwhile", 5) == (1, 5)
        # Noted by hand, since no client of the load asked.
        scenario.initial["new meanwhile"] = 6
        status, problem = scenario.service.get(f"/getid?mode=nearly&range={LEFT + 1}")
        assert (status, problem["type"]) == (409, "counter-exhausted")
    assert scenario.verdict.refused > 0
    assert scenario.final["nearly"] > start
    statuses = {call.status for call in scenario.load.history.calls if call.mode == "nearly"}
    assert 409 in statuses
