"""The alert rules under Prometheus' own tool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from servers import CHECKOUT

RULES = CHECKOUT / "charts" / "uniqueid" / "alerts.yaml"


def promtool(*arguments: str) -> str:
    result = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_prometheus_takes_the_rules() -> None:
    """promtool checks syntax, expressions and templates."""
    assert "rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


# A counter that rises by a hundred a minute, beside what each alert is about.
CASES = {
    "UniqueIDCounterRegressed": {
        "uniqueid_counter_regressions_total{mode='file'}": "0x5 1x115",
    },
    "UniqueIDNotReady": {"uniqueid_ready": "1x5 0x115"},
    "UniqueIDDown": {
        "uniqueid_build_info": "1x60 _x60",
        "up": "1x60 0x60",
    },
    "UniqueIDDurability": {"uniqueid_durability_problems": "1x120"},
    "UniqueIDRetriesHigh": {
        "uniqueid_transaction_retries_total{cause='deadlock'}": "0+50x120",
        "uniqueid_transactions_total": "0+100x120",
    },
    "UniqueIDSpaceLow": {"uniqueid_space_used_ratio{mode='file'}": "0.995x120"},
    "UniqueIDSpaceFilling": {"uniqueid_space_used_ratio{mode='file'}": "0.95x120"},
    "UniqueIDModesHigh": {"uniqueid_modes": "9001x120"},
    "UniqueIDLatencyHigh": {
        "uniqueid_http_request_duration_seconds_bucket{route='/getid',le='0.01'}": "0+50x120",
        "uniqueid_http_request_duration_seconds_bucket{route='/getid',le='1.0'}": "0+90x120",
        "uniqueid_http_request_duration_seconds_bucket{route='/getid',le='2.0'}": "0+100x120",
        "uniqueid_http_request_duration_seconds_bucket{route='/getid',le='+Inf'}": "0+100x120",
    },
    "UniqueIDRefusing": {"uniqueid_refused_total{type='overloaded'}": "0+100x120"},
}
WELL = {
    "up": "1x120",
    "uniqueid_build_info": "1x120",
    "uniqueid_ready": "1x120",
    "uniqueid_durability_problems": "0x120",
    "uniqueid_modes": "9000x120",
    "uniqueid_max_modes": "10000x120",
    "uniqueid_check_ok{check='counters'}": "1x120",
    "uniqueid_counter_regressions_total{mode='file'}": "0x120",
    "uniqueid_transactions_total": "0+100x120",
    "uniqueid_transaction_retries_total{cause='deadlock'}": "0+1x120",
    "uniqueid_space_used_ratio{mode='file'}": "0.5x120",
    "uniqueid_refused_total{type='bad-range'}": "0+100x120",
    "uniqueid_http_request_duration_seconds_bucket{route='/getid',le='0.01'}": "0+100x120",
    "uniqueid_http_request_duration_seconds_bucket{route='/getid',le='+Inf'}": "0+100x120",
}


def fires(tmp_path: Path, series: dict[str, str]) -> set[str]:
    """Which alerts fire within two hours; a series has a value each minute."""
    lines = [f"rule_files: [{RULES}]", "evaluation_interval: 1m", "tests:", "- interval: 1m"]
    lines.append("  input_series:")
    for name, values in series.items():
        metric, _, labels = name.partition("{")
        everywhere = f"job='uniqueid',instance='one:8051'{',' if labels else '}'}{labels}"
        lines += [f'  - series: "{metric}{{{everywhere}"', f"    values: '{values}'"]
    lines.append("  promql_expr_test:")
    # The state of each alert at the end, as Prometheus itself records it.
    lines += ["  - expr: count by (alertname) (ALERTS{alertstate='firing'})", "    eval_time: 62m"]
    lines += ["    exp_samples: [{labels: '{alertname=\"none\"}', value: 1}]"]
    file = tmp_path / "test.yaml"
    file.write_text("\n".join(lines) + "\n")
    result = subprocess.run(
        ["promtool", "test", "rules", str(file)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    output = result.stdout + result.stderr
    # It fails by design, since no alert is called none, and prints what it has found instead.
    assert "got:" in output, output
    return {name for name in CASES if f'alertname="{name}"' in output.split("got:", 1)[1]}


def test_a_service_that_is_well_raises_no_alert(tmp_path: Path) -> None:
    """Nor do clients that send bad requests."""
    assert fires(tmp_path, WELL) == set()


@pytest.mark.parametrize("name", CASES)
def test_each_alert_fires_for_what_it_is_about(tmp_path: Path, name: str) -> None:
    """And no other does."""
    assert fires(tmp_path, {**WELL, **CASES[name]}) == {name}


def headings(page: str) -> list[str]:
    """The anchors of a page, as GitHub and the documentation site make them."""
    text = re.sub(r"```.*?```", "", (CHECKOUT / "docs" / page).read_text(), flags=re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in found]


def test_each_alert_leads_to_a_section_of_its_own() -> None:
    """`runbook_url` is the section with the alert's name; the runbook has no other."""
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    anchors = []
    for rule in rules:
        page, _, anchor = rule["annotations"]["runbook_url"].rpartition("/docs/")[2].partition("#")
        assert page == "runbook.md"
        assert anchor == rule["alert"].lower()
        anchors.append(anchor)
    assert headings("runbook.md")[1:] == anchors
    assert {rule["alert"] for rule in rules} == set(CASES)
