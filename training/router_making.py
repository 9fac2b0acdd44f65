"""Make the router that the recipe names, from rows with labels: fit it, calibrate it, judge it, write its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Calibration, RouterRecord
from training.encoder import Encoder
from training.progress import Narrator
from training.recipe import RouterSection
from training.router_export import write_router
from training.router_head import calibrated, fit_head


@dataclass(frozen=True)
class RoutedRows:
    """Rows to learn from: what the router reads of each, and its label [N]."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class JudgedRows:
    """Held-out rows: as `RoutedRows`, and which of them [n] temperature and thresholds may be fitted on."""

    texts: Sequence[str]
    labels: NDArray[np.int64]
    fitted: NDArray[np.bool_]


@dataclass(frozen=True)
class MadeRouter:
    """What the manifest says of the router, and what the report does beyond that."""

    record: RouterRecord
    calibration: Calibration
    found: dict[str, Any]


def make_router(
    folder: Path,
    encoder: Encoder,
    rows: RoutedRows,
    held_out: JudgedRows,
    names: tuple[str, ...],
    section: RouterSection,
    seed: int,
    narrator: Narrator,
) -> MadeRouter:
    """Write the router's files into `folder` (section 5.4.2)."""
    texts = [*rows.texts, *held_out.texts]
    with narrator.bar("encoding prompts", len(texts), "rows") as advance:
        embeddings = encoder.embed(texts, section.max_tokens, advance)  # [N + n, H]
    known, unseen = embeddings[: len(rows.texts)], embeddings[len(rows.texts) :]
    head = fit_head(known, rows.labels, len(names), seed)
    calibration = calibrated(head, unseen, held_out.labels, held_out.fitted)
    write_router(folder, encoder, head, names, held_out.texts[:16], section.max_tokens)
    narrator.say(
        f"    agrees with the clusters on {calibration.agreement:.1%} of {calibration.held_out_rows:,} held-out rows"
    )
    record = RouterRecord(
        kind="semantic",
        encoder=encoder.name,
        encoder_sha256=encoder.sha256,
        encoder_license=encoder.license,
        hidden=encoder.hidden,
    )
    return MadeRouter(record, calibration, {})
