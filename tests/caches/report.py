"""One line of the table for each proxy with each of its settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass
class Row:
    """What one proxy with one setting did; counts of answers that were used twice."""

    proxy: str
    settings: str
    control: int
    """Of the origin which does not forbid it."""
    get: int = 0
    get_concurrent: int = 0
    post: int = 0
    post_concurrent: int = 0
    errors: int = 0
    client: int = 0
    """IDs that a user of the client got twice."""
    outcome: str = ""
    """What the client did."""

    def cells(self) -> list[str]:
        return [
            self.proxy,
            self.settings,
            str(self.control),
            f"{self.get} + {self.get_concurrent}",
            f"{self.post} + {self.post_concurrent}",
            str(self.errors),
            str(self.client),
            self.outcome,
        ]


HEADINGS = [
    "proxy",
    "settings",
    "other service",
    "GET",
    "POST",
    "errors",
    "client",
    "the client",
]


def lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The table of rows, each as its cells."""
    table = [HEADINGS, *rows]
    widths = [max(len(line[place]) for line in table) for place in range(len(HEADINGS))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield " | ".join(cells).rstrip()
