"""The picture of a benchmark's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

_COLOURS = {
    "this service": "#1f6feb",
    "bare WSGI callable (in memory)": "#8b949e",
    "Bottle handler (in memory)": "#8b949e",
}
_PEER = "#d0a25c"


def draw(table: list[dict[str, Any]], clients: int, file: Path) -> None:
    """Requests per second of each contestant, with its CPU time per request and its duplicates."""
    rows = [row for row in table if row["clients"] == clients]
    rows.sort(key=lambda row: row["requests_per_second"])
    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(rows) + 1.2), dpi=120)
    for place, row in enumerate(rows):
        rate = row["requests_per_second"]
        axes.barh(place, rate, color=_COLOURS.get(row["contestant"], _PEER))
        errors = f", {row['errors']} errors" if row["errors"] else ""
        low, high = min(row["rates"]), max(row["rates"])
        cpu = f"CPU {row['cpu_us_per_request']:.0f} us, {row['busy']:.2f} busy"
        text = f"  {rate:,}   {cpu}   IDs twice: {row['duplicates']}{errors}"
        axes.text(high, place, text, va="center", fontsize=8)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    labels = [
        row["contestant"] + ("" if row["database"] in ("none", "Redis") else f", {row['database']}")
        for row in rows
    ]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_xlim(0, 1.6 * max(row["requests_per_second"] for row in rows))
    axes.set_xlabel(
        f"requests/s at {clients} clients: median, and lowest to highest round", fontsize=8
    )
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file)
