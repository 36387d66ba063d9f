"""Tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

ID_WIDTH = 19
"""Digits of the highest ID."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str
    width: int = 0
    """Characters, at least."""
    right: bool = False
    """Whether its cells are aligned to the right, as numbers are."""

    def cell(self, value: object) -> str:
        """A value as wide as the column; `-` for None."""
        text = printable("-" if value is None else str(value))
        return text.rjust(self.width) if self.right else text.ljust(self.width)


def mode_column(modes: Iterable[str]) -> Column:
    """A column for the names of counters, as wide as the longest of them."""
    return Column("MODE", max([4, *(len(printable(mode)) for mode in modes)]))


def id_column(heading: str) -> Column:
    """A column for IDs."""
    return Column(heading, ID_WIDTH, right=True)


def write_table(columns: Sequence[Column], rows: Iterable[Sequence[object]], out: TextIO) -> None:
    """Write a heading and a line for each row, which are not kept."""
    out.write(_line(columns, [column.heading for column in columns]))
    for row in rows:
        out.write(_line(columns, row))


def _line(columns: Sequence[Column], cells: Sequence[object]) -> str:
    parts = [column.cell(cell) for column, cell in zip(columns, cells, strict=True)]
    return "  ".join(parts).rstrip() + "\n"


def printable(text: str) -> str:
    """A text that does not upset a terminal: legacy databases may hold such modes."""
    return text if text.isprintable() else repr(text)
