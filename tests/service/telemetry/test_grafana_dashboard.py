"""The shipped dashboard. Grafana itself can't be installed where these tests run, so its structure is checked."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import yaml

from tests.stand_ins.promql import DEPLOY, dashboard, panels

PROVISIONING = DEPLOY / "grafana" / "provisioning"


def test_every_panel_asks_the_provisioned_data_source() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    asked = {(panel["datasource"]["type"], panel["datasource"]["uid"]) for panel in panels()}
    asked |= {
        (t["datasource"]["type"], t["datasource"]["uid"]) for panel in panels() for t in panel["targets"]
    }
    asked |= {
        (variable["datasource"]["type"], variable["datasource"]["uid"])
        for variable in dashboard()["templating"]["list"]
    }
    assert asked == {(source["type"], source["uid"])}


def test_the_provisioned_folder_is_where_dashboards_are_mounted() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "gradientspace.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_panels_have_names_units_and_descriptions_and_do_not_overlap() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
        return {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}

    listed = dashboard()["panels"]
    assert len({panel["id"] for panel in listed}) == len(listed)
    for one, other in combinations(listed, 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0


def test_what_was_asked_for_is_shown() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    for wanted in (
        "sum by (expert) (rate(gradientspace_requests_total",
        "histogram_quantile(0.5, sum by (le, expert) (rate(gradientspace_request_seconds_bucket",
        "histogram_quantile(0.95, sum by (le, expert) (rate(gradientspace_request_seconds_bucket",
        "gradientspace_time_to_first_token_seconds_bucket",
        "gradientspace_router_seconds_bucket",
        "gradientspace_router_confidence_bucket",
        "gradientspace_routed_texts_total",
        "gradientspace_expert_training_share",
        "gradientspace_expert_share_drift",
        "gradientspace_router_confidence_drift",
        "gradientspace_router_answers_total",
        "gradientspace_fallbacks_total",
        "gradientspace_rejected_total",
        "gradientspace_in_flight",
        "gradientspace_tokens_total",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
    ):
        assert wanted in shown, wanted
