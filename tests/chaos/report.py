"""What the clients saw, a line for each fault on each database; repeated scenarios are added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

COLUMNS = ("calls", "answers", "unanswered", "refused", "gaps", "duplicates")


def lines(results: Sequence[Mapping[str, str | int]]) -> Iterator[str]:
    """The table of results, each with its fault, its database and a number for each column."""
    rows: dict[tuple[str | int, str | int], dict[str, int]] = {}
    for result in results:
        scenario = result["fault"], result["database"]
        row = rows.setdefault(scenario, dict.fromkeys(COLUMNS, 0))
        for column in COLUMNS:
            row[column] += int(result[column])
    ended = f"{len(results)} runs of {len(rows)} scenarios"
    width = max(len(str(text)) for text in (ended, *(fault for fault, _database in rows)))

    def line(fault: object, database: object, numbers: Sequence[object]) -> str:
        return f"{fault:{width}}  {database:10}" + "".join(f"{number:>12}" for number in numbers)

    yield line("fault", "database", COLUMNS)
    for (fault, database), row in rows.items():
        yield line(fault, database, list(row.values()))
    totals = [sum(row[column] for row in rows.values()) for column in COLUMNS]
    yield line(ended, "", totals)
