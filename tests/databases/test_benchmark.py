"""The benchmark proves before it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from servers import CHECKOUT


def test_the_benchmark_runs_and_finds_no_duplicate(tmp_path: Path) -> None:
    """A short run with all contestants: from the service no ID twice and no error."""
    file, picture = tmp_path / "result.json", tmp_path / "plot.png"
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "bench.py"), "--json", str(file)]
    result = subprocess.run(
        [*command, "--plot", str(picture), "--clients=16", "--rounds=1", "--seconds=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(file.read_text())["rows"]
    ours = [row for row in rows if row["contestant"].startswith("this service")]
    assert len(ours) == 6
    assert {row["database"] for row in ours} == {"SQLite", "MariaDB", "PostgreSQL"}
    for row in ours:
        assert row["duplicates"] == row["errors"] == 0
        assert row["answers_checked"] > 0
        assert str(row["requests_per_second"]) in result.stdout
    # The others do run: a peer that answers nothing would be no comparison.
    for row in rows:
        assert row["answers_checked"] > 0, row
    assert picture.read_bytes().startswith(b"\x89PNG")
