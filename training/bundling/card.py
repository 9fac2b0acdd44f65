"""The card of a bundle: README.md with front matter, as model hubs read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import binomtest

from bundle.manifest import Calibration, Manifest
from training.models.model_card import languages_of
from training.rows.files import hub_id, is_file_name

CARD_FILE = "README.md"
_TEMPLATE = "bundle_card.md.jinja"
_TAGS = ("gradientspace", "lora", "multi-lora", "routing")


def write_card(
    path: Path, manifest: Manifest, base_folder: Path, data: Sequence[str], splitting: str | None = None
) -> None:
    """Write the card of the bundle that `manifest` describes; `data` are the files or hub ids of its rows.

    `splitting` is what the report says of whether splitting helps; None: it was not measured.

    There is no `model-index` in it: agreement is the router's, and no benchmark's score.
    """
    local_base = Path(manifest.base.id).expanduser().is_dir()  # then its id says nothing to others
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "percent": _percent}
    trained = manifest.fallback.kind in ("warmup", "everything")
    text = environment.get_template(_TEMPLATE).render(
        front_matter=_front_matter(manifest, local_base, base_folder, data).to_yaml(),
        manifest=manifest,
        local_base=local_base,
        trained=trained,
        data=[Path(name).name if is_file_name(name) else name for name in data],
        interval=_interval(manifest.calibration),
        splitting=splitting,
        left_out=[name for name in manifest.label_order if name not in {e.name for e in manifest.experts}],
        held_out=trained,
        held_out_texts=manifest.recipe.get("data", {}).get("held_out_texts", False),
    )
    path.write_text(text, encoding="utf-8")


def _front_matter(
    manifest: Manifest, local_base: bool, base_folder: Path, data: Sequence[str]
) -> ModelCardData:
    about_base: dict[str, Any] = {}
    if not local_base:
        about_base = {"base_model": manifest.base.id, "base_model_relation": "adapter"}
    return ModelCardData(
        **_license(manifest),
        **about_base,
        library_name="peft",
        pipeline_tag="text-generation",
        language=languages_of(base_folder) or None,
        datasets=[hub_id(name) for name in data if not is_file_name(hub_id(name))] or None,
        tags=list(_TAGS),
    )


def _license(manifest: Manifest) -> dict[str, Any]:
    """Return a licence only if all that is inside or was learned from has that one; the card lists them."""
    encoder = {manifest.router.encoder_license} if manifest.router.encoder else set()
    stated = {manifest.base.license, *encoder, *(manifest.data_licenses or (None,))}
    only = stated.pop() if len(stated) == 1 else None
    return {"license": only} if only else {"license": "other", "license_name": "see-the-card"}


def _interval(calibration: Calibration) -> tuple[float, float] | None:
    """95 % Wilson interval of the agreement, or None where it was not measured."""
    if calibration.agreement is None or not calibration.held_out_rows:
        return None
    right = round(calibration.agreement * calibration.held_out_rows)
    interval = binomtest(right, calibration.held_out_rows).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _cell(text: str) -> str:
    """Make a text one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
