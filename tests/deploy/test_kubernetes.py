"""The manifests: valid for Kubernetes, and true to the image and to each other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

from service.routes import health
from service.settings import Settings
from tests.stand_ins.deploy_files import KUBERNETES, dockerfile_value, manifests, pod

OLDEST, NEWEST = "1.30", "1.37"
CONTAINER: dict[str, Any] = pod()["containers"][0]
LABELS = {"app.kubernetes.io/name": "gradientspace"}


def drain_seconds() -> float:
    given = {item["name"]: item.get("value") for item in CONTAINER["env"]}
    return float(
        given.get("GRADIENTSPACE_SHUTDOWN_SECONDS", Settings.model_fields["shutdown_seconds"].default)
    )


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("kind", [kind for kind in manifests() if kind != "ServiceMonitor"])
def test_each_object_obeys_the_schema_of_kubernetes(kind: str, version: str) -> None:
    kubernetes_validate.validate(manifests()[kind], version, strict=True)


def test_the_service_monitor_obeys_the_operators_schema() -> None:
    given = manifests()["ServiceMonitor"]
    read = ServiceMonitor.model_validate(given)
    assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == given, "a key is unknown"


def test_the_kustomization_names_every_file() -> None:
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml", "prometheus-adapter.yaml"}


@pytest.mark.parametrize("with_gpu", [False, True])
def test_kustomize_renders_it(with_gpu: bool, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("NOT TESTED: that kustomize renders deploy/kubernetes (no kubectl here)")
    folder = shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    if with_gpu:
        with (folder / "kustomization.yaml").open("a") as stream:
            stream.write("components: [cuda]\n")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = {found["kind"]: found for found in yaml.safe_load_all(done.stdout)}
    assert set(rendered) == set(manifests())
    resources = rendered["Deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert ("nvidia.com/gpu" in resources["limits"]) == with_gpu
    assert resources["limits"]["memory"] == CONTAINER["resources"]["limits"]["memory"]
    kubernetes_validate.validate(rendered["Deployment"], NEWEST, strict=True)


def test_a_pod_has_the_time_to_drain_before_it_is_killed() -> None:
    """SIGTERM comes after preStop, and both count towards the grace period; the engine then needs to end too."""
    before_sigterm = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] >= before_sigterm + drain_seconds() + 15


def test_a_leaving_pod_is_out_of_the_service_before_sigterm() -> None:
    readiness = CONTAINER["readinessProbe"]
    assert CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"] >= readiness["periodSeconds"]


def test_probes_ask_routes_that_exist_on_a_port_that_exists() -> None:
    routes = {route.path for route in health.router.routes}
    ports = {port["name"] for port in CONTAINER["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = CONTAINER[probe]["httpGet"]
        assert asked["path"] in routes
        assert asked["port"] in ports


def test_the_pod_runs_as_the_images_user_and_writes_only_where_the_image_says() -> None:
    user, group = dockerfile_value("USER").split(":")
    context = pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (
        int(user),
        int(group),
        int(group),
    )
    assert context["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    writable = {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/tmp", "/dev/shm", dockerfile_value("XDG_CACHE_HOME")}
    where = {item["name"]: item.get("value", "") for item in CONTAINER["env"]}
    for name in ("GRADIENTSPACE_BUNDLE", "GRADIENTSPACE_BASE_MODEL"):
        assert any(where[name].startswith(f"{mount['mountPath']}/") for mount in CONTAINER["volumeMounts"])


def test_kubernetes_sets_none_of_our_variables_by_itself() -> None:
    """A Service named gradientspace makes GRADIENTSPACE_PORT=tcp://10.0.0.1:8000 in every pod of the namespace."""
    assert pod()["enableServiceLinks"] is False


def test_everything_points_to_the_same_pods() -> None:
    found = manifests()
    assert found["Deployment"]["spec"]["template"]["metadata"]["labels"] == LABELS
    assert found["Service"]["metadata"]["labels"] == LABELS
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["ServiceMonitor"]["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["topologySpreadConstraints"]),
    ]
    assert selectors == [LABELS] * len(selectors)
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])
    claims = [
        volume["persistentVolumeClaim"] for volume in pod()["volumes"] if "persistentVolumeClaim" in volume
    ]
    assert [claim["claimName"] for claim in claims] == [found["PersistentVolumeClaim"]["metadata"]["name"]]


def test_ports_have_one_name_everywhere() -> None:
    found = manifests()
    of_the_pod = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert of_the_pod["http"] == int(dockerfile_value("GRADIENTSPACE_PORT"))
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == set(of_the_pod)
    assert {end["port"] for end in found["ServiceMonitor"]["spec"]["endpoints"]} <= set(of_the_pod)
    allowed = [port["port"] for rule in found["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]]
    assert set(allowed) == set(of_the_pod)


def test_the_autoscaler_asks_for_what_the_adapter_offers() -> None:
    rules = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    offered = {rule["seriesQuery"].partition("{")[0] for rule in rules}
    asked = {m["pods"]["metric"]["name"] for m in manifests()["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    assert asked <= offered


def test_a_pod_whose_keys_are_not_found_does_not_start() -> None:
    secrets = [source["secretRef"] for source in CONTAINER["envFrom"] if "secretRef" in source]
    assert [secret["name"] for secret in secrets] == ["gradientspace"]
    assert not any(secret.get("optional") for secret in secrets), "a mistyped name would open the service"
