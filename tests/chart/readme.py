"""The table of values in the chart's README, made from the comments in values.yaml.

`python tests/chart/readme.py` writes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts/uniqueid"
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"


def described() -> dict[str, str]:
    """The text of every value that has a `# --` comment, by its path."""
    texts: dict[str, str] = {}
    path: list[str] = []
    text: str | None = None
    for line in (CHART / "values.yaml").read_text().splitlines():
        comment = re.fullmatch(r"\s*# (-- )?(.*)", line)
        if comment:
            if comment[1]:
                text = comment[2]
            elif text is not None:
                text += " " + comment[2]
            continue
        key = re.match(r"( *)([A-Za-z]\w*):", line)
        if key and len(key[1]) % 2 == 0:
            path[len(key[1]) // 2 :] = [key[2]]
            if text is not None:
                texts[".".join(path)] = text
        text = None
    return texts


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The paths of all values which are no mappings, and of empty mappings."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def table() -> str:
    """The table, in the order of the file."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = ["| Value | Default | Meaning |", "| --- | --- | --- |"]
    for path, text in described().items():
        value = values
        for key in path.split("."):
            value = value[key]
        shown = json.dumps(value).replace("|", "\\|")
        lines.append(f"| `{path}` | `{shown}` | {text} |".replace("`[{", "`[{"))
    return "\n".join(lines) + "\n"


def written(readme: str) -> str:
    """A README with the table in its place."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    file = CHART / "README.md"
    file.write_text(written(file.read_text()))
