"""The PromQL that the project ships, and Debian's Prometheus tools to check it with."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "gradientspace.json"
_WORDS = {
    *("sum", "max", "abs", "rate", "increase", "histogram_quantile", "vector", "by", "on", "and", "or"),
    *("group_left", "le"),
}


def debian(tool: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"NOT TESTED: {tool} is missing (apt-get install prometheus)")
    return found


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [debian("promtool"), *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted((PROMETHEUS / "rules").glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[str]:
    return [rule["alert"] for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Every panel with data."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def filled_in(expression: str, window: str = "1m", instance: str = ".*", expert: str = ".*") -> str:
    """A panel's expression as Grafana would send it."""
    for name, value in {
        "$__rate_interval": window,
        "$__range": window,
        "$instance": instance,
        "$expert": expert,
    }.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def dashboard_expressions() -> list[str]:
    return [filled_in(target["expr"]) for panel in panels() for target in panel["targets"]]


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics in an expression: what is no label, no word of the language, no number."""
    expression = re.sub(r"\{[^}]*\}", " ", expression)
    expression = re.sub(r"\[[^\]]*\]", " ", expression)
    expression = re.sub(r"\b(by|on)\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"[a-zA-Z_:][\w:]*", expression)) - _WORDS
