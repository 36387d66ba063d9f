"""What several processes of tests share: the ports, and the report at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest
import reports
import servers


def test_a_port_is_given_to_one_process_only() -> None:
    """Before anything listens there, and again after it has ended."""
    port = servers.free_port()
    assert not servers.listens(port)
    program = "import servers, sys; print(servers.reserve(int(sys.argv[1])))"

    def reserved_elsewhere() -> str:
        return subprocess.run(
            [sys.executable, "-c", program, str(port)],
            check=True,
            capture_output=True,
            text=True,
            cwd=servers.HERE,
        ).stdout

    assert reserved_elsewhere() == "False\n"
    servers.release(port)
    assert reserved_elsewhere() == "True\n"


class Terminal:
    """What pytest writes its summary with, and the reports of tests that it has got."""

    def __init__(self, *tests: tuple[str, int, list[tuple[str, object]]]) -> None:
        self.lines: list[str] = []
        self.stats: dict[str, list[pytest.TestReport]] = {"passed": [], "": []}
        for file, line, properties in tests:
            for when in ("setup", "call", "teardown"):
                report = pytest.TestReport(
                    nodeid=f"{file}::test_{line}",
                    location=(file, line, f"test_{line}"),
                    keywords={},
                    outcome="passed",
                    longrepr=None,
                    when=when,  # type: ignore[arg-type]
                    user_properties=properties,
                )
                self.stats["passed" if when == "call" else ""].append(report)

    def section(self, title: str) -> None:
        self.lines.append(f"= {title}")

    def write_line(self, line: str) -> None:
        self.lines.append(" ".join(line.split()))


def test_what_was_measured_is_printed_once_and_in_the_order_of_the_files() -> None:
    """Whenever the tests ended, and however many reports pytest has of each."""
    numbers = {"calls": 7, "answers": 5, "unanswered": 2, "refused": 0, "gaps": 1, "duplicates": 0}
    fault = ("fault", {"fault": "kill -9", "database": "sqlite", **numbers})
    terminal = Terminal(
        ("tests/chaos/b.py", 1, [("fault note", "memory"), fault]),
        ("tests/chaos/a.py", 9, [fault, ("fault note", "threads")]),
        ("tests/chaos/a.py", 2, [("fault note", "bad input"), ("unknown", "x")]),
        ("tests/chart/c.py", 5, [("image", "31 MiB")]),
        ("tests/caches/d.py", 5, [("cache", ["nginx", "honest", "19", *["0"] * 4, "gets them"])]),
        ("tests/other.py", 3, []),
    )
    reports.summarise(terminal)  # type: ignore[arg-type]
    assert terminal.lines == [
        "= the image",
        "31 MiB",
        "= answers used twice, of 20 + 20 identical requests",
        "proxy | settings | other service | GET | POST | errors | client | the client",
        "nginx | honest | 19 | 0 | 0 | 0 | 0 | gets them",
        "= the same ID twice?",
        "bad input",
        "threads",
        "memory",
        "fault database calls answers unanswered refused gaps duplicates",
        "kill -9 sqlite 14 10 4 0 2 0",
        "2 runs of 1 scenarios 14 10 4 0 2 0",
    ]


def test_without_anything_measured_nothing_is_printed() -> None:
    """No empty table, no heading."""
    terminal = Terminal(("tests/other.py", 3, []))
    reports.summarise(terminal)  # type: ignore[arg-type]
    assert terminal.lines == []
