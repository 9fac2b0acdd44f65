"""A whole report with a number in every part, small enough to know them all.

Its form is that of the report of a real run: tests/training/test_report_form.py holds it to that, key by key.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from training.clusters.norm_shares import norm_shares
from training.clusters.quality import cluster_quality


def small_report(**changes: Any) -> dict[str, Any]:
    """Return the report of two clusters over six training rows; `changes` replace whole parts."""
    vectors = np.array([[3.0, 0.1], [2.0, -0.1], [1.0, 0.2], [20.0, 1.0], [0.1, 1.0], [-0.2, 5.0]])
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / norms[:, None]
    example = {
        "origin": "mine.jsonl:4", "source": "sums", "cosine": 0.812, "margin": 0.0123,
        "prompt": "Is 1 < 2 & <script>alert(1)</script>?", "answer": "Yes </p><img src=x>",
    }  # fmt: skip
    grid = [
        {"threshold": 0.8, "components": 3, "k": 2, "silhouette": 0.6123},
        {"threshold": 0.8, "components": 3, "k": 3, "silhouette": 0.2},
        {"threshold": 0.9, "components": 5, "k": 2, "silhouette": 0.5},
        {"threshold": 0.9, "components": 5, "k": 3, "silhouette": 0.4},
    ]
    halves = {
        "splits": 20, "one_cluster": _band(0.1111),
        "by_k": [
            {"k": 2, "silhouette": _band(0.55), "routed": _band(0.2222), "agreement": _band(0.88),
             "won": {"paper": 0.35, "routed": 0.9}},
            {"k": 3, "silhouette": _band(0.5), "routed": _band(0.1999), "agreement": _band(0.44),
             "won": {"paper": 0.65, "routed": 0.1}},
        ],
    }  # fmt: skip
    layers = "base_model.model.model.layers"
    return {
        "base": {"name": "tiny"},
        "rows": {
            "used": 8, "train": 6, "validation": 2, "warmup": 1, "probe": 6,
            "unusable": [{"origin": "mine.jsonl:7", "reason": "it has no <b>response</b>"}],
        },
        "spectrum": {
            "k": 2, "rule": "routed", "components": 2, "grid": grid, "halves": halves,
            "singular_values": [2.0, 1.0, 0.5, 0.5, 0.1, 0.1],
            "first_direction_share": 0.727, "distinguishable": True, "warnings": [],
        },
        "calibration": {
            "epochs": [
                {"drift": 0.1, "churn": 1.0, "sizes": [3, 3]}, {"drift": 0.01, "churn": 0.02, "sizes": [4, 2]},
            ],
            "converged": False, "cache": "ring", "limits": {"drift": 1e-3, "churn": 5e-3},
        },
        "clusters": {
            "k": 2, "rows": [4, 2], "share": [4 / 6, 2 / 6], "mean_cosine": [0.91, 0.82], "mean_margin": 0.345,
            "margins": [np.linspace(0, 0.5, 11).tolist(), np.linspace(0.1, 0.4, 11).tolist()],
            "median_norm": 2.5, "norm_share_b": 0.6, "by_source": {"sums": [3, 0], "story": [1, 2]},
            "source_agreement": 0.21, "warnings": ["A cluster is tiny."],
        },
        "terms": [["add", "numbers"], []],
        "warmup": {
            "steps": 10, "row_visits": 16, "first_loss": 3.25, "last_loss": 2.5,
            "losses": [[1, 3.25], [5, 2.75], [10, 2.5]], "validation_losses": [[0, 3.5], [10, 2.625]],
            "validation_rows": 2,
        },
        "experts": [{"steps": 7, "row_visits": 12, "first_loss": 2.4, "last_loss": 1.8}] * 2,
        "router": {"agreement": 0.875, "held_out_rows": 2000, "temperature": 1.25, "encoder": "e"},
        "stages": {"warmup": {"seconds": 1.5, "peak_memory_mb": 321}},
        "quality": cluster_quality(unit @ unit.T, norms, np.array([0, 0, 0, 0, 1, 1]), 2),
        "norm_shares": norm_shares([
            (f"{layers}.0.self_attn.q_proj.lora_A.default", 1.0), (f"{layers}.0.self_attn.q_proj.lora_B.default", 5.0),
            (f"{layers}.1.mlp.up_proj.lora_B.default", 4.0),
        ]),
        "examples": [{"nearest": [example], "ambiguous": [example]}] * 2,
        "shuffle": {
            "orders": 3, "rows": 6, "on": "all training rows",
            "pairs": [
                {"orders": [0, 1], "ari": 0.95}, {"orders": [0, 2], "ari": 0.91}, {"orders": [1, 2], "ari": 0.93},
            ],
        },
        "diagnosis": [
            {"check": "padding invariance", "value": 1.2e-7, "limit": 1e-3, "bound": "at most", "passed": True,
             "meaning": "padding reaches no gradient", "advice": ""},
            {"check": "bfloat16, if it were used", "value": 0.02, "limit": 1e-3, "bound": "at most", "passed": None,
             "meaning": "how far off it would be", "advice": ""},
        ],
        "gate": small_gate(),
        "plan": None,
        "not_measured": {"plan": "the plan is a secret"},
    } | changes  # fmt: skip


def small_gate(
    served: tuple[float, float, float] = (-0.0182, -0.0336, -0.0048), kept: int = 1
) -> dict[str, Any]:
    """Return what the stage `gate` writes, with `kept` of two experts that answer."""
    label = {
        "rows": 4,
        "share": 4 / 6,
        "threshold": 0.9,
        "measured_rows": 21,
        "gain": _difference(-0.03, -0.05, -0.01),
    }
    labels = [label, label | {"threshold": 0.0, "gain": None}]
    return {
        "record": {
            "labels": [
                each | ({} if place < kept else {"threshold": None}) for place, each in enumerate(labels)
            ],
            "measured_rows": 1234,
            "served": _difference(*served),
        },
        "ungated": _difference(0.0231, 0.0123, 0.0345),
        "sources": {
            "sums": {
                "rows": 617,
                "served": _difference(-0.1, -0.2, -0.01),
                "ungated": _difference(0.1, -0.1, 0.2),
            }
        },
    }


def _difference(mean: float, low: float, high: float) -> dict[str, float]:
    return {"mean": mean, "low": low, "high": high}


def _band(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def _measured(agreement: float) -> dict[str, Any]:
    return {"agreement": agreement, "low": 0.81, "high": 0.89, "macro_f1": 0.777, "ece": 0.0352, "rows": 1500}


def judged_router(**changes: Any) -> dict[str, Any]:
    """Return the router's part as a run with everything switched on has it."""
    return {
        **small_report()["router"],
        **{"kind": "semantic", "precision": "int8", "fitted_rows": 1490, "threshold": None},
        **{"target_agreement": None, "coverage": None},
        "quality": _measured(0.8512),
        "kinds": {"semantic": _measured(0.8523), "keyword": _measured(0.6178)},
        "curve": [{"coverage": 0.35, "agreement": 0.9767, "confidence": 0.913}],
        "coverage_at": [{"target": 0.99, "coverage": 0.123}, {"target": 0.999, "coverage": None}],
        "int8": {
            **{"unchanged": 0.9961, "rows": 2990, "kept": True, "needed": 0.995},
        },
        "cascade_found": {
            **{"share": 0.4321, "agreement": 0.9964, "lost": 0.0007, "reason": None},
            "curve": [{"share": 0.5, "agreement": 0.9912}],
        },
    } | changes
