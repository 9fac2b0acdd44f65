"""What the tests of deploy/ read: the files as a tool would see them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
NOT_OBJECTS = ("kustomization.yaml", "prometheus-adapter.yaml")


def manifests() -> dict[str, dict[str, Any]]:
    """Every Kubernetes object of the kustomization, by kind."""
    objects = [
        yaml.safe_load(path.read_text())
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name not in NOT_OBJECTS
    ]
    return {found["kind"]: found for found in objects}


def pod() -> dict[str, Any]:
    """The pod that the Deployment makes."""
    spec: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return spec


def compose(*names: str, variables: Mapping[str, str] = os.environ) -> list[dict[str, Any]]:
    """Compose files with their variables put in, as Compose itself does it."""

    def value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        given = variables.get(name)
        if given is None or (not given and operator == ":-"):
            return default or ""
        return given

    texts = [(ROOT / name).read_text() for name in names]
    return [yaml.safe_load(re.sub(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}", value, text)) for text in texts]


def dockerfile_value(name: str) -> str:
    """What ENV, ARG or USER gives in the Dockerfile."""
    found = re.findall(rf"(?:^|\s){name}[= ](\S+)", (ROOT / "Dockerfile").read_text())
    return str(found[-1])
