"""Names that deploy/ shares with the service: a setting, a metric, a mounted file, an address."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from tests.stand_ins.deploy_files import KUBERNETES, ROOT, compose, manifests, pod

FILES = [
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    ROOT / "docs" / "deploy.md",
    *sorted((ROOT / "deploy" / "compose").glob("*.yml")),
    *sorted(KUBERNETES.glob("*.yaml")),
]
SERVICES = compose("docker-compose.yml", variables={})[0]["services"]
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_variable_is_a_setting(file: Path) -> None:
    """The service refuses to start with one that it does not know."""
    named = set(re.findall(r"\bGRADIENTSPACE_([A-Z_]+)\b", file.read_text()))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


def test_the_service_has_the_metric_that_scales_it() -> None:
    wanted = manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert any(f'"{wanted}"' in file.read_text() for file in (ROOT / "service").rglob("*.py"))


def test_what_compose_mounts_is_there() -> None:
    folders = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service["volumes"]
        if isinstance(volume, str) and volume.startswith("./")
    ]
    assert len(folders) == 3
    assert all((ROOT / folder).is_dir() for folder in folders)
    asked = next(flag for flag in SERVICES["prometheus"]["command"] if flag.startswith("--config.file="))
    assert asked.rpartition("=")[2] == f"/etc/prometheus/{PROMETHEUS.name}"


def test_prometheus_finds_the_service_under_the_name_of_its_alerts() -> None:
    job = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"][0]
    name, port = job["static_configs"][0]["targets"][0].split(":")
    assert SERVICES[name]["ports"][0].endswith(f":{port}")
    label = manifests()["ServiceMonitor"]["spec"]["jobLabel"]
    assert manifests()["Service"]["metadata"]["labels"][label] == job["job_name"]


def test_the_metrics_port_of_the_pod_is_the_services() -> None:
    given = {item["name"]: item.get("value") for item in pod()["containers"][0]["env"]}
    ports = {port["name"]: port["containerPort"] for port in pod()["containers"][0]["ports"]}
    assert given["GRADIENTSPACE_METRICS_PORT"] == str(ports["metrics"])
