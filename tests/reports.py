"""What tests have measured, printed once at the end, whichever process they ran in.

It goes with each test's report, as its `user_properties`: those reports are what all processes of
pytest-xdist send to the one that prints.
"""

from __future__ import annotations

from typing import Any

import pytest
from caches import report as caches
from chaos import report as chaos


def summarise(terminalreporter: pytest.TerminalReporter) -> None:
    """Print a section for each kind of measurement of which there is any."""
    recorded = Recorded(terminalreporter)

    def section(title: str, lines: list[str]) -> None:
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)

    section("the image", recorded["image"])
    rows = recorded["cache"]
    if rows:
        section("answers used twice, of 20 + 20 identical requests", list(caches.lines(rows)))
    notes, results = recorded["fault note"], recorded["fault"]
    section("the same ID twice?", notes + (list(chaos.lines(results)) if results else []))


class Recorded:
    """What was recorded under a name, in the order in which the tests stand in their files."""

    def __init__(self, terminalreporter: pytest.TerminalReporter) -> None:
        # The report of a test's teardown is its last and has all that the test recorded.
        self.reports = [
            report
            for reports in terminalreporter.stats.values()
            for report in reports
            if getattr(report, "when", None) == "teardown" and report.user_properties
        ]
        self.reports.sort(key=lambda report: (report.location[:2], report.nodeid))

    def __getitem__(self, name: str) -> list[Any]:
        properties = [pair for report in self.reports for pair in report.user_properties]
        return [value for recorded, value in properties if recorded == name]
