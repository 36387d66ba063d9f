"""Several modes at once: one exhausted, one new, one locked by another transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from cell import Cell, connect
from checker import MAX_ID
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
    with Cell(
        "one mode exhausted, one new, one locked",
        kind,
        url,
        ambiguous=False,
        # One alone would be held up by the mode that is locked.
        clients=CLIENTS,
        modes=("file", "nearly", "upload_job", "locked"),
        initial={"nearly": start},
        prepare=lambda service: service.cmd("advance", "--mode", "nearly", "--to", str(start)),
    ) as cell:
        cell.load.more(lambda call: call.status == 409, "the end of a counter")
        cell.load.more_answers(10, "locked")
        with locked(url, "locked"):
            if kind == "sqlite":
                # It locks all of its modes at once.
                cell.load.more(is_503, "a 503")
            else:
                cell.load.more(lambda call: call.mode == "locked" and is_503(call), "a 503")
                cell.load.more_answers(3, "file")
                assert cell.service.allocate("new meanwhile", 5) == (1, 5)
                cell.load.more_answers(3, "upload_job")
        cell.load.more_answers(10, "locked")
        if kind == "sqlite":
            assert cell.service.allocate("new meanwhile", 5) == (1, 5)
        # Noted by hand, since no client of the load asked.
        cell.initial["new meanwhile"] = 6
        status, problem = cell.service.get(f"/getid?mode=nearly&range={LEFT + 1}")
        assert (status, problem["type"]) == (409, "counter-exhausted")
    assert cell.verdict.refused > 0
    assert cell.final["nearly"] > start
    statuses = {call.status for call in cell.load.history.calls if call.mode == "nearly"}
    assert 409 in statuses
