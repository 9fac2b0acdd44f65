"""The shipped Prometheus configuration, by Prometheus' own tool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.stand_ins.promql import PROMETHEUS, alerts, dashboard_expressions, promtool

UNIT_TESTS = PROMETHEUS / "tests" / "alerts.yml"
PAGE = PROMETHEUS.parents[1] / "docs" / "monitoring.md"


def test_the_configuration_and_its_rules_are_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))


def test_every_alert_fires_where_it_must_and_only_there() -> None:
    promtool("test", "rules", UNIT_TESTS)


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    cases = [
        case
        for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    for alert in alerts():
        fires = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert}
        assert fires == {True, False}, alert


@pytest.mark.parametrize("verdict", ["> Inf", ">= -Inf"])
def test_the_unit_tests_notice_alerts_that_never_or_always_fire(verdict: str, tmp_path: Path) -> None:
    for name in ("rules/recording.yml", "rules/alerts.yml", "tests/alerts.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((PROMETHEUS / name).read_text())
    file = tmp_path / "rules" / "alerts.yml"
    changed = yaml.safe_load(file.read_text())
    comparison = re.compile(r"(>|==)\s*[\d.]+(?=\s*(and\b|$))")
    for rule in changed["groups"][0]["rules"]:
        rule["expr"], count = comparison.subn(verdict, rule["expr"].strip(), count=1)
        assert count == 1
    file.write_text(yaml.safe_dump(changed))
    with pytest.raises(AssertionError) as failed:
        promtool("test", "rules", tmp_path / "tests" / "alerts.yml")
    assert [alert for alert in alerts() if f"alertname: {alert}," not in str(failed.value)] == []


def test_every_expression_of_the_dashboard_parses(tmp_path: Path) -> None:
    records = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(dashboard_expressions())
    ]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    promtool("check", "rules", file)


def test_the_page_says_what_to_do_about_every_alert() -> None:
    assert [alert for alert in alerts() if f"### {alert}\n" not in PAGE.read_text()] == []
