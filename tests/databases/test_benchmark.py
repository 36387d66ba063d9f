"""The benchmark proves before it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from servers import CHECKOUT


def test_the_benchmark_runs_and_finds_no_duplicate(tmp_path: Path) -> None:
    """A short run: no ID twice and no error from the service, on any database."""
    file = tmp_path / "result.json"
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "bench.py"), "--json", str(file)]
    result = subprocess.run(
        [*command, "--clients=16", "--rounds=1", "--seconds=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [row for row in json.loads(file.read_text()) if row["contestant"] == "group commit"]
    assert {row["database"] for row in rows} == {"SQLite", "MariaDB", "PostgreSQL"}
    for row in rows:
        assert row["duplicates"] == row["errors"] == 0
        assert row["answers_checked"] > 0
