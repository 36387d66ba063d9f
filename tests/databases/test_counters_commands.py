"""advance and show on each of the databases, and beside a running allocator."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import BIN, CHECKOUT

from .direct import Direct


def cmd(url: str, *arguments: str) -> str:
    """Run the installed command on a database; what it prints."""
    return subprocess.run(
        [str(BIN / "pacifica-uniqueid-cmd"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"HOME": ".", "PATH": str(BIN), "UNIQUEID_DATABASE_URL": url, "LC_ALL": "C.UTF-8"},
        check=True,
    ).stdout


def shown(url: str) -> dict[str, int]:
    return {c["mode"]: c["next_id"] for c in json.loads(cmd(url, "show", "--json"))["counters"]}


def test_advance_and_show(direct: Direct) -> None:
    """Old and new value are told; the next allocation starts there."""
    direct.first("file", 10)
    assert cmd(direct.url, "advance", "--mode", "file", "--to", "500") == "file: 11 -> 500\n"
    assert cmd(direct.url, "advance", "--mode", "file", "--to", "20").startswith("file: 500 -> 500")
    assert cmd(direct.url, "advance", "--mode", "ñ ☃", "--to", "7") == "ñ ☃: 1 -> 7\n"
    assert cmd(direct.url, "advance", "--all", "--by", "3") == "file: 500 -> 503\nñ ☃: 7 -> 10\n"
    assert shown(direct.url) == {"file": 503, "ñ ☃": 10}
    assert direct.first("file") == 503


def test_advance_beside_allocations(make_store: Callable[..., Direct]) -> None:
    """Neither undoes the other: what is skipped is allocated to no client."""
    direct = make_store()
    direct.first("m")
    with ThreadPoolExecutor(1) as pool:
        skipping = [
            pool.submit(cmd, direct.url, "advance", "--mode", "m", "--by", "1000") for _ in range(5)
        ]
        firsts = []
        while not all(future.done() for future in skipping):
            firsts.append(direct.first("m", 10))
    told = [future.result() for future in skipping]
    assert firsts == sorted(set(firsts))
    assert shown(direct.url)["m"] == 2 + 10 * len(firsts) + 5 * 1000
    taken = [range(first, first + 10) for first in firsts]
    for line in told:
        found = re.fullmatch(r"m: (\d+) -> (\d+)\n", line)
        assert found is not None
        old, new = map(int, found.groups())
        assert new - old == 1000
        assert not any(old < ids.stop and ids.start < new for ids in taken)


@pytest.mark.parametrize("kind", ["mariadb"])
def test_advance_knows_a_counter_by_another_spelling(kind: str, bare: Direct) -> None:
    """Where letters' case does not count, as in tables of the legacy service."""
    bare.store.open()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cmd, bare.url, "dbsync").result()
    cmd_sql = "ALTER TABLE uniqueindex CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
    from pony.orm import db_session

    with db_session:
        bare.store.database.execute(cmd_sql)
    bare.store.disconnect()
    bare.first("file", 10)
    assert cmd(bare.url, "advance", "--mode", "FILE", "--to", "500") == "FILE: 11 -> 500\n"
    assert cmd(bare.url, "advance", "--mode", "File", "--by", "5") == "File: 500 -> 505\n"


def test_counters_move_to_another_database_as_documented(
    direct: Direct, new_url: Callable[[str], str], tmp_path: Path
) -> None:
    """The runbook's own commands take every counter along, from each database to SQLite."""
    for mode, count in (("file", 10), ('it\'s "q" $x', 3), ("-dash", 4), ("ñ ☃", 5)):
        direct.first(mode, count)
    Path("old.cfg").write_text(f"[database]\nurl = {direct.url}\n")
    Path("new.cfg").write_text(f"[database]\nurl = {new_url('sqlite')}\n")
    text = (CHECKOUT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text[text.index("## Moving to another database") :]
    block = re.search(r"```console\n(.*?)```", section, re.DOTALL)
    assert block is not None
    subprocess.run(
        ["sh", "-eu", "-c", block[1]],
        check=True,
        timeout=120,
        env={"HOME": ".", "PATH": f"{BIN}:{Path(sys.executable).parent}:/usr/bin:/bin",
             "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    url = Path("new.cfg").read_text().split("url = ")[1].strip()
    assert shown(url) == direct.store.counters()
    assert shown(url) == {"file": 11, 'it\'s "q" $x': 4, "-dash": 5, "ñ ☃": 6}
