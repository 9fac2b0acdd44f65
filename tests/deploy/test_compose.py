"""The Compose files: valid, pinned, and true to the image."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml
from compose_spec import PyCompose

from service.settings import Settings
from tests.stand_ins.deploy_files import ROOT, compose, dockerfile_value

MAIN = "docker-compose.yml"
ADDED = ("deploy/compose/cuda.yml", "deploy/compose/api-keys.yml")
SERVICES = compose(MAIN, variables={})[0]["services"]


@pytest.mark.parametrize("name", [MAIN, *ADDED])
def test_each_file_obeys_the_compose_specification(name: str) -> None:
    for variables in ({}, {"VARIANT": "cuda", "BASE_MODEL": "", "API_KEYS": "/etc/keys"}):
        text = yaml.safe_dump(compose(name, variables=variables)[0])
        PyCompose.from_yaml(text).to_spec()


def test_compose_itself_takes_them() -> None:
    docker = shutil.which("docker")
    if (
        docker is None
        or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("NOT TESTED: `docker compose config` (Docker's own package docker-compose-plugin)")
    for added in ((), ADDED[:1], ADDED[1:], ADDED):
        files = [part for name in (MAIN, *added) for part in ("-f", name)]
        done = subprocess.run(
            [docker, "compose", *files, "config", "--quiet"],
            cwd=ROOT,
            env=os.environ | {"API_KEYS": "/etc/hostname", "GRAFANA_PASSWORD": "chosen"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_every_foreign_image_is_pinned_to_one_version() -> None:
    for service in SERVICES.values():
        assert "build" in service or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]


def test_nobody_runs_with_more_rights_than_needed() -> None:
    for service in SERVICES.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(re.match(r"127\.0\.0\.1:\d+:\d+$", port) for port in service["ports"])


def test_grafana_has_no_password_that_everybody_knows() -> None:
    text = (ROOT / MAIN).read_text()
    assert re.search(r"GF_SECURITY_ADMIN_PASSWORD: \$\{GRAFANA_PASSWORD:\?", text)


def test_what_waits_for_a_service_waits_for_its_health() -> None:
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    assert set(waits["prometheus"]) == {"gradientspace"}
    assert set(waits["grafana"]) == {"prometheus"}
    for awaited in waits.values():
        for name, how in awaited.items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[name] or "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()


def test_the_service_may_finish_its_answers_before_it_is_killed() -> None:
    grace = int(SERVICES["gradientspace"]["stop_grace_period"].removesuffix("s"))
    assert grace >= Settings.model_fields["shutdown_seconds"].default + 15


def test_volumes_lie_where_the_image_looks() -> None:
    volumes = {volume["target"]: volume for volume in SERVICES["gradientspace"]["volumes"]}
    assert volumes[dockerfile_value("GRADIENTSPACE_BUNDLE")]["read_only"]
    assert volumes[dockerfile_value("XDG_CACHE_HOME")]["type"] == "volume"
    assert SERVICES["gradientspace"]["environment"]["GRADIENTSPACE_BASE_MODEL"] in volumes
    assert SERVICES["gradientspace"]["ports"][0].endswith(f":{dockerfile_value('GRADIENTSPACE_PORT')}")


def test_an_empty_base_model_means_the_one_that_the_bundle_names() -> None:
    given = compose(MAIN, variables={"BASE_MODEL": ""})[0]["services"]["gradientspace"]["environment"]
    assert not given["GRADIENTSPACE_BASE_MODEL"]
