"""What is counted, and that documentation, dashboard and alerts name nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeAllocator
from prometheus_client.parser import text_string_to_metric_families
from servers import CHECKOUT
from web import call

from uniqueid.database.errors import Cause
from uniqueid.errors import MAX_ID, Overloaded
from uniqueid.monitoring.metrics import MODE_LABELS, Metrics, State
from uniqueid.web.app import make_app
from uniqueid.web.parameters import Limits

CHART = CHECKOUT / "charts" / "uniqueid"


def used() -> Metrics:
    """Metrics to which everything has happened once."""
    metrics = Metrics("sqlite")
    metrics.state = lambda: State(
        waiting=3, reconnects=2, checks={"database": True}, counters={"file": 11, "idle": 5}
    )
    metrics.committed(2, 0.003)
    metrics.allocated("file", 2, 10, 11)
    metrics.regressed("file")
    metrics.replayed(2)
    metrics.pruned(5)
    metrics.retried(Cause.DEADLOCK)
    app = make_app(FakeAllocator(Overloaded(5)), Limits(), metrics=metrics)
    call(app, "GET", "/getid?range=1&mode=file")
    call(app, "GET", "/nothing")
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Value by name and labels, as Prometheus reads them."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def exposed(metrics: Metrics) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels by name, with `_total` where Prometheus has it."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples, family
        found[name] = (family.type, frozenset(labels))
    return found


def test_what_happened_is_what_is_shown() -> None:
    """In numbers."""
    found = samples(used())
    for name, labels, value in [
        ("uniqueid_allocations_total", ("file",), 2),
        ("uniqueid_ids_total", ("file",), 10),
        ("uniqueid_next_id", ("file",), 11),
        ("uniqueid_next_id", ("idle",), 5),
        ("uniqueid_space_used_ratio", ("file",), 10 / MAX_ID),
        ("uniqueid_modes", (), 2),
        ("uniqueid_transactions_total", (), 1),
        ("uniqueid_transaction_retries_total", (Cause.DEADLOCK.value,), 1),
        ("uniqueid_batch_requests_sum", (), 2),
        ("uniqueid_commit_duration_seconds_sum", (), 0.003),
        ("uniqueid_counter_regressions_total", ("file",), 1),
        ("uniqueid_database_reconnects_total", (), 2),
        ("uniqueid_queue_requests", (), 3),
        ("uniqueid_check_ok", ("database",), 1),
        ("uniqueid_ready", (), 1),
        ("uniqueid_refused_total", ("overloaded",), 1),
        ("uniqueid_http_requests_total", ("/getid", "503"), 1),
        ("uniqueid_http_requests_total", ("other", "404"), 1),
        ("uniqueid_http_request_duration_seconds_count", ("/getid",), 1),
    ]:
        assert found[name, labels] == value, name


def test_the_labels_of_modes_are_bounded() -> None:
    """However many modes clients say, and however many the database has."""
    metrics = Metrics()
    for number in range(3 * MODE_LABELS):
        metrics.allocated(f"mode{number}", 1, 10, 11)
        metrics.regressed(f"mode{number}")
    metrics.state = lambda: State(counters={f"idle{number}": 5 for number in range(1000)})
    found = samples(metrics)
    for name in ("uniqueid_ids_total", "uniqueid_next_id", "uniqueid_counter_regressions_total"):
        assert len([key for key in found if key[0] == name]) <= MODE_LABELS + 1, name
    assert found["uniqueid_ids_total", ("other",)] == 10 * 2 * MODE_LABELS
    assert sum(v for (name, _), v in found.items() if name == "uniqueid_ids_total") == (
        10 * 3 * MODE_LABELS
    )


def test_the_documentation_lists_what_is_shown_and_nothing_else() -> None:
    """With type and labels."""
    text = (CHECKOUT / "docs" / "metrics.md").read_text()
    documented = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\|", text, re.M)
    }
    assert documented == exposed(used())


def test_an_operator_is_told_what_each_metric_is_for() -> None:
    """In the first column of a table, and no metric that there is not."""
    text = (CHECKOUT / "docs" / "operating.md").read_text()
    first = re.findall(r"^\| (`uniqueid_.*?) \|", text, re.M)
    told = {name for cell in first for name in re.findall(r"`(uniqueid_\w+)`", cell)}
    assert told == {name for name in exposed(used()) if name.startswith("uniqueid_")}


def names_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression."""
    return set(re.findall(r"\b(?:uniqueid|process)_\w+", expression))


def series(metrics: Metrics) -> set[str]:
    return {name for name, _ in samples(metrics)}


def expressions(node: Any) -> Iterator[str]:
    """Every PromQL expression of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition"):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for item in node:
            yield from expressions(item)


def labels_in(expression: str) -> set[str]:
    """Labels that an expression groups by or selects."""
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
    selected = re.findall(r"(\w+)=~?\"", expression)
    return {label.strip() for group in grouped for label in group.split(",")} | set(selected)


FROM_PROMETHEUS = {"job", "instance", "le"}


def test_the_dashboard_shows_metrics_that_exist() -> None:
    """Each panel at a place of its own, with a title and a source that can be chosen."""
    dashboard = json.loads((CHART / "dashboards" / "uniqueid.json").read_text())
    there = series(used())
    labels = {label for _, names in exposed(used()).values() for label in names}
    found = list(expressions(dashboard))
    assert len(found) > 20
    for expression in found:
        assert names_in(expression), expression
        assert names_in(expression) <= there, expression
        assert labels_in(expression) <= labels | FROM_PROMETHEUS, expression
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels)
    assert [annotation["name"] for annotation in dashboard["annotations"]["list"]] == [
        "Restarts",
        "Counter regressions",
    ]
    assert {variable["name"] for variable in dashboard["templating"]["list"]} == {
        "datasource",
        "job",
        "instance",
    }


@pytest.fixture
def alerts() -> str:
    return (CHART / "alerts.yaml").read_text()


def test_the_alerts_ask_for_metrics_that_exist_and_are_documented(alerts: str) -> None:
    """What an alert means and what to do about it stands in the documentation."""
    assert names_in(alerts) <= series(used()) | set(exposed(used()))
    names = re.findall(r"- alert: (\w+)", alerts)
    assert len(names) == len(set(names)) >= 5
    text = Path(CHECKOUT / "docs" / "runbook.md").read_text()
    assert re.findall(r"^## (UniqueID\w+)$", text, re.M) == names
