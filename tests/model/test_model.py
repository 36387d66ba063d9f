"""What docs/guarantees.md says of each fault and protection, checked in every interleaving."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import CHECKOUT

MODEL = Path(__file__).with_name("allocation.pml")
PROTECTIONS = {
    "counter alone": {"GUARD": 0, "FENCE": 0},
    "with the guard": {"GUARD": 1, "FENCE": 0},
    "with guard and fence": {"GUARD": 1, "FENCE": 1},
}
"""The columns of the table, as the documentation calls them."""


def rows() -> list[dict[str, str]]:
    """The rows of the table which name their model, each cell by its column's head."""
    heads: list[str] = []
    found = []
    for line in (CHECKOUT / "docs/guarantees.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "Model" in cells:
            heads = cells
        elif len(cells) == len(heads) and "CRASH=" in cells[heads.index("Model")]:
            found.append(dict(zip(heads, cells, strict=True)))
        elif not line.startswith("|"):
            heads = []
    return found


def verdict(directory: Path, *definitions: str) -> str:
    """Search all states: "kept", or "broken" with a trail that leads to an ID answered twice."""
    directory.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("spin", *(f"-D{definition}" for definition in definitions), "-a", str(MODEL))
    run("gcc", "-O1", "-w", "-DSAFETY", "-o", "pan", "pan.c")
    # -m: steps on the longest way; the search says so if they do not suffice.
    said = run("./pan", "-E", "-m200000")
    assert "max search depth too small" not in said
    (errors,) = re.findall(r"errors: (\d+)", said)
    trail = directory / f"{MODEL.name}.trail"
    if errors == "0":
        assert "Search not completed" not in said
        assert not trail.exists()
        return "kept"
    assert re.search(r"assertion violated +!\(given", said), said
    assert trail.exists()
    return "broken"


def verdicts(directory: Path, definitions: dict[str, list[str]]) -> dict[str, str]:
    """Several searches side by side."""
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(
            lambda item: verdict(directory / str(item[0]), *item[1]),
            enumerate(definitions.values()),
        )
        return dict(zip(definitions, found, strict=True))


def test_the_table_is_found() -> None:
    """With one and two services, and each way in which counters regress."""
    models = {(row["Services"], row["Model"].strip("`")[-1]) for row in rows()}
    assert models >= {("1", "0"), ("1", "1"), ("1", "2"), ("1", "3"), ("2", "0"), ("2", "2")}
    assert all(set(PROTECTIONS) <= set(row) for row in rows())


@pytest.mark.parametrize(
    "row", rows(), ids=lambda row: f"{row['Services']} {row['Model'].strip('`')}"
)
def test_every_cell_of_the_table_is_what_the_model_says(
    row: dict[str, str], tmp_path: Path
) -> None:
    """Kept: no interleaving answers an ID twice. Broken: one that does is found."""
    model = [f"REPLICAS={row['Services']}", *row["Model"].strip("`").split()]
    searches = {
        column: [*model, *(f"{name}={value}" for name, value in chosen.items())]
        for column, chosen in PROTECTIONS.items()
    }
    assert verdicts(tmp_path, searches) == {column: row[column].strip("*") for column in searches}


def test_mistakes_in_the_protocol_are_found(tmp_path: Path) -> None:
    """Each is found where the protocol without it keeps the promise, so the model can tell."""
    fenced = ["REPLICAS=1", "GUARD=1", "FENCE=1", "CRASH=1", "ROLLBACK=3"]
    shared = ["REPLICAS=2", "GUARD=1", "FENCE=0", "CRASH=1", "ROLLBACK=0"]
    searches = {
        "BLIND_UPDATE": [*shared, "BLIND_UPDATE"],
        "ANSWER_FIRST": [*fenced, "ANSWER_FIRST"],
        "FENCE_EXACT": [*fenced, "FENCE_EXACT"],
    }
    assert verdicts(tmp_path, searches) == dict.fromkeys(searches, "broken")
