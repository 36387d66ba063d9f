"""The benchmarks prove that no ID is returned twice before they print figures."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from servers import CHECKOUT


def test_the_benchmark_runs_and_finds_no_duplicate(tmp_path: Path) -> None:
    """A short run with all contestants: from the service no ID twice and no error."""
    file, picture = tmp_path / "result.json", tmp_path / "plot.png"
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "bench.py"), "--json", str(file)]
    result = subprocess.run(
        [*command, "--plot", str(picture), "--clients=2", "--rounds=1", "--seconds=2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads(file.read_text())["rows"]
    ours = [row for row in rows if row["contestant"].startswith("this service")]
    assert len(ours) == 3
    assert {row["database"] for row in ours} == {"SQLite", "MariaDB", "PostgreSQL"}
    for row in ours:
        assert row["duplicates"] == row["errors"] == 0
        assert row["answers_checked"] > 0
        if row["contestant"] == "this service":
            in_server = row["database"] != "SQLite"
            assert (row["database_cpu_us_per_request"] > 0) == in_server, row
    # The others do run: a peer that answers nothing would be no comparison.
    for row in rows:
        assert row["answers_checked"] > 0, row
        assert row["cpu_us_per_request"] > 0, row
        assert row["busy"] > 0, row
        mark = " " if row["limited_by_server_cpu"] else "*"
        assert f" {row['requests_per_second']}{mark} " in result.stdout, row
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_benchmark_rejects_an_unknown_contestant() -> None:
    """A misspelt name does not make a table without the contestant."""
    result = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / "bench.py"), "--only", "this servise"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "--only this servise: no such contestant. There are: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_interval_of_a_median_is_the_one_of_the_binomial_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ranks 6 and 15 of 20 values, 40 and 61 of 100: as tables of order statistics have them."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    compare = importlib.import_module("compare")
    assert compare.median_interval([float(n) for n in range(20, 0, -1)]) == (6, 15)
    assert compare.median_interval([float(n) for n in range(1, 101)]) == (40, 61)
    assert compare.median_interval([3.0, 1.0, 2.0]) == (1, 3)
    assert compare.median_interval([1.0]) == (1, 1)


@pytest.mark.parametrize(
    ("together", "in_turns", "sentence"),
    [
        ([1.0, 1.04, 1.2], [1.0] * 3, ""),
        ([1.0, 1.06, 1.2], [1.0] * 3, "CPU time per request is 1.060 times"),
        # A noisy median decides nothing, an interval does.
        ([1.0] * 3, [0.9, 1.3, 1.4], ""),
        ([1.0] * 3, [1.1, 1.3, 1.4], "CPU time per request is in turns at least 1.100 times"),
    ],
)
def test_a_comparison_fails_above_the_allowed_ratio(
    monkeypatch: pytest.MonkeyPatch, together: list[float], in_turns: list[float], sentence: str
) -> None:
    """The median of the measurements together decides, or all of the interval in turns."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    compare = importlib.import_module("compare")

    def rounds(ratios: list[float]) -> object:
        loads = [
            compare.Load(
                rate=1, p50=1, p99=1, errors=0, cpu=cpu, database_cpu=0, busy=1, generator_busy=1
            )
            for cpu in [100.0] * len(ratios) + [100 * ratio for ratio in ratios]
        ]
        return compare.Rounds(loads[: len(ratios)], loads[len(ratios) :])

    compared = compare.Comparison("SQLite", 1, rounds(together), rounds(in_turns))
    found = compared.excess(1.05)
    assert found.startswith(f"SQLite, 1 client: {sentence}") if sentence else found == ""


BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CHILD = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {BURN!r}])
print("ended", flush=True)
sys.stdin.read()
"""


def test_cpu_time_includes_ended_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's backends may end within a measurement, and their time counts."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    bench = importlib.import_module("bench")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ended\n"
        assert bench.cpu_seconds(process.pid) >= 0.3
        process.communicate()


SLOW = """
_application = application

def application(environ, start_response):
    sum(range(100_000))
    return _application(environ, start_response)
"""
REPEATS = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [b'{"startIndex": 1, "endIndex": 1}']
"""


class Repository:
    """A copy of the checkout: one git commit, and what a test adds to the working tree."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(CHECKOUT, directory, ignore=ignored)
        self.entry_point = directory / "uniqueid" / "wsgi.py"
        self.original = self.entry_point.read_text()
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "before"]):
            subprocess.run(["git", *command], cwd=directory, check=True)

    def change(self, addition: str) -> None:
        """Add to the application's entry point."""
        self.entry_point.write_text(self.original + addition)

    def compare(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Compare the working tree with the commit."""
        return subprocess.run(
            [sys.executable, "benchmarks/compare.py", "--before=HEAD", "--databases=sqlite"]
            + ["--clients=4", "--rounds=2", "--seconds=1", *options],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


def test_a_comparison_holds_a_revision_to_the_cpu_time_of_another(
    repository: Repository, tmp_path: Path
) -> None:
    """A change that costs CPU time shows as its own, and fails above the allowed ratio."""
    repository.change(SLOW)
    file = tmp_path / "result.json"
    result = repository.compare("--at-most=2", f"--json={file}")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "SQLite, 4 clients: CPU time per request is " in result.stdout, result.stdout
    (row,) = json.loads(file.read_text())
    for before, after in zip(row["before"], row["after"], strict=True):
        assert after["cpu"] > 2 * before["cpu"], row
        assert before["errors"] == after["errors"] == 0, row
    for before, after in zip(*row["cpu_together"], strict=True):
        assert after > 2 * before, row
    allowed = repository.compare("--at-most=100000")
    assert allowed.returncode == 0, allowed.stdout + allowed.stderr


def test_a_comparison_prints_no_figures_of_a_revision_that_repeats_ids(
    repository: Repository,
) -> None:
    """Duplicates end it before anything is measured."""
    repository.change(REPEATS)
    result = repository.compare()
    assert result.returncode == 1, result.stdout + result.stderr
    assert "SQLite, after (.): " in result.stdout
    assert " IDs were returned twice" in result.stdout
    assert "CPU us per request" not in result.stdout


def test_a_comparison_rejects_a_revision_that_does_not_exist() -> None:
    """The message has the name and what is allowed."""
    result = subprocess.run(
        [sys.executable, str(CHECKOUT / "benchmarks" / "compare.py"), "--before=no-such-revision"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "no-such-revision: neither a checkout of the service" in result.stderr
    assert "Traceback" not in result.stderr
