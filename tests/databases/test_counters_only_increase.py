"""Invariant: a counter only ever increases. A trigger in the database rejects anything else."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import servers

from uniqueid.allocation.allocator import Allocator
from uniqueid.fence.store import FencedStore

from .direct import Direct, lower, run_sql
from .records import entry

TRIGGERS = {
    "sqlite": [
        (
            'CREATE TRIGGER lowered BEFORE UPDATE ON uniqueindex WHEN NEW."index" < OLD."index"'
            " BEGIN SELECT RAISE(ABORT, 'a counter was lowered'); END"
        ),
        (
            "CREATE TRIGGER deleted BEFORE DELETE ON uniqueindex"
            " BEGIN SELECT RAISE(ABORT, 'a counter was deleted'); END"
        ),
    ],
    "mariadb": [
        (
            "CREATE TRIGGER lowered BEFORE UPDATE ON uniqueindex FOR EACH ROW"
            " IF NEW.`index` < OLD.`index` THEN"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a counter was lowered'; END IF"
        ),
        (
            "CREATE TRIGGER deleted BEFORE DELETE ON uniqueindex FOR EACH ROW"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a counter was deleted'"
        ),
    ],
    "postgresql": [
        (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN RAISE EXCEPTION ''a counter was lowered''; END'"
        ),
        (
            "CREATE TRIGGER lowered BEFORE UPDATE ON uniqueindex FOR EACH ROW"
            ' WHEN (NEW."index" < OLD."index") EXECUTE FUNCTION refuse()'
        ),
        (
            "CREATE TRIGGER deleted BEFORE DELETE ON uniqueindex FOR EACH ROW"
            " EXECUTE FUNCTION refuse()"
        ),
    ],
}


@pytest.mark.parametrize("fenced", [False, True], ids=["", "fence"])
def test_a_counter_only_ever_increases(
    make_store: Callable[..., Direct], kind: str, fenced: bool, tmp_path: Path
) -> None:
    """Two services on one database: ranges, keys, replays, rejected requests, advance and stops."""
    operator = make_store()
    run_sql(operator, *TRIGGERS[servers.sql_of(kind)])
    operator.first("file", 5)
    with pytest.raises(Exception, match="a counter was lowered"):
        lower(operator, "file", 3)
    failures: list[Exception] = []
    allocated = 0

    def call(allocator: Allocator, seed: int) -> int:
        choose = random.Random(seed)
        mode = choose.choice(("file", "other", f"own{seed % 4}"))
        key = f"key {seed % 7} of {mode}" if choose.random() < 0.3 else None
        size = 3 if key else choose.randint(1, 20)
        try:
            allocator.allocate(mode, size, entry(mode, size, key) if key else None)
        except Exception as error:
            failures.append(error)
            return 0
        return size

    for round_ in range(2):
        allocators = [
            Allocator(store, request_timeout=30)
            for number in range(2)
            for store in (
                FencedStore(make_store().store, str(tmp_path / f"fence{number}"), window=10)
                if fenced
                else make_store().store,
            )
        ]
        if fenced and not round_:
            # A fence file is created next to an empty database only, or adopted.
            for number in range(2):
                (tmp_path / f"fence{number}").write_bytes(
                    b'{"format": "pacifica-uniqueid fence", "version": 1, "count": 0,'
                    b' "counters": {\n\n}}\n'
                )
        with ThreadPoolExecutor(16) as pool:
            calls = [
                pool.submit(call, allocators[seed % 2], 1000 * round_ + seed) for seed in range(400)
            ]
            for at in range(1, 20):
                operator.advance({"file": 0}, {"file": at * 50})
            allocated += sum(each.result(60) for each in calls)
        for allocator in allocators:
            assert allocator.close(30)
    assert not failures
    assert allocated > 0
