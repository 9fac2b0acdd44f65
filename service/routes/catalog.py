"""What is served: `/v1/models` for OpenAI clients, `/v1/experts` with what training knows of them."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request

from bundle.manifest import Manifest
from service.request.names import AUTO

router = APIRouter()
_STARTED = int(time.time())


@router.get("/v1/models")
async def models(request: Request, versions: bool = False) -> dict[str, Any]:
    """Return the names that `model` may have: routed, base, experts; with `versions` each expert's version."""
    names = request.app.state.service.decider.names
    listed = [AUTO, names.base.name, *(expert.name for expert in names.experts)]
    if versions:
        listed += [expert.engine_name for expert in names.experts]
    return {"object": "list", "data": [_card(request, name) for name in listed]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """Return one name that `model` may have."""
    return _card(request, name)


def _card(request: Request, name: str) -> dict[str, Any]:
    """Return what is listed of a name. Raises NotFoundError if nothing has it."""
    service = request.app.state.service
    target, base = service.decider.names.resolve(name), service.decider.names.base
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "gradientspace",
        "root": target.engine_name if target else name,
        "parent": None if target in (None, base) else base.name,
        "max_model_len": service.max_model_len,
    }


@router.get("/v1/experts")
async def experts(request: Request) -> dict[str, Any]:
    """Return the experts in label order, with their share of the training rows and what those are about.

    With a gate, also from which confidence on each answers and what it gains, and the clusters whose experts were
    left out because they were not shown to help.
    """
    bundle = request.app.state.service.bundle
    gated = _gated(bundle.manifest)
    return {
        "object": "list",
        "bundle": bundle.digest,
        "base": bundle.manifest.base.name,
        "data": [
            {
                "name": expert.name,
                "model": expert.engine_name,
                "rows": expert.rows,
                "share": expert.share,
                "top_terms": list(expert.top_terms),
                "answers_from": gated[expert.name]["answers_from"] if gated else 0.0,
                "gain": gated[expert.name]["gain"] if gated else None,
            }
            for expert in bundle.manifest.experts
        ],
        "left_out": [
            {"name": name, "rows": label["rows"], "share": label["share"], "gain": label["gain"]}
            for name, label in gated.items()
            if label["answers_from"] is None
        ],
    }


def _gated(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return what the gate says of each label, by name; nothing without a gate."""
    if manifest.gate is None:
        return {}
    return {
        name: {
            "rows": label.rows,
            "share": label.share,
            "answers_from": label.threshold,
            "gain": label.gain and label.gain.model_dump(),
        }
        for name, label in zip(manifest.label_order, manifest.gate.labels, strict=True)
    }
