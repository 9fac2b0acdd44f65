"""The card of a bundle says what is known, in the form that model hubs read, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from bundle.gate import GatedLabel, GateRecord, LossDifference
from bundle.manifest import (
    BaseRecord,
    Calibration,
    ExpertRecord,
    FallbackRecord,
    LoraRecord,
    Manifest,
    RoutedText,
    RouterRecord,
)
from training.bundling.card import write_card

SHAPE = LoraRecord(rank=8, alpha=16, target_modules=("q_proj",))


def manifest(**changes: Any) -> Manifest:
    facts: dict[str, Any] = {
        "created": "2026-01-01T00:00:00+00:00",
        "base": BaseRecord(
            id="org/tiny-llm",
            name="org/tiny-llm",
            revision="abc123",
            dtype="bfloat16",
            weights_sha256="f" * 64,
            license="apache-2.0",
        ),
        "lora": SHAPE,
        "label_order": ("math", "story"),
        "experts": (
            ExpertRecord(
                name="math",
                folder="experts/math",
                digest="a",
                rows=1500,
                share=0.75,
                top_terms=("sum", "a|b"),
            ),
            ExpertRecord(name="story", folder="experts/story", digest="b", rows=500, share=0.25),
        ),
        "fallback": FallbackRecord(kind="warmup", digest="c"),
        "router": RouterRecord(
            kind="semantic",
            encoder="org/bert",
            encoder_sha256="e" * 64,
            encoder_license="apache-2.0",
            hidden=4,
        ),
        "routed_text": RoutedText(max_tokens=128),
        "calibration": Calibration(temperature=1.2, held_out_rows=40, agreement=0.9),
        "data_licenses": ("apache-2.0",),
        "recipe": {},
        "versions": {"gradientspace": "0.1.0", "peft": "0.21"},
        "files": {},
    }
    return Manifest(**(facts | changes))


def card_of(
    folder: Path, of: Manifest, data: tuple[str, ...] = ("me/rows", "private/rows.jsonl")
) -> ModelCard:
    write_card(folder / "README.md", of, folder, data)
    return ModelCard.load(folder / "README.md")


def test_the_front_matter_is_what_hubs_read(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlanguage:\n- en\n- de\n---\n# The base's own card\n")
    data = card_of(tmp_path, manifest()).data.to_dict()
    assert data == {
        "base_model": "org/tiny-llm",
        "base_model_relation": "adapter",
        "datasets": ["me/rows"],
        "language": ["en", "de"],
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["gradientspace", "lora", "multi-lora", "routing"],
    }
    for repo_id in (data["base_model"], *data["datasets"]):
        validate_repo_id(repo_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"data_licenses": ("mit",)},
        {"data_licenses": ()},
        {"data_licenses": ("apache-2.0", "cc-by-4.0")},
        {"base": manifest().base.model_copy(update={"license": None})},
        {"router": manifest().router.model_copy(update={"encoder_license": "mit"})},
    ],
)
def test_a_licence_is_claimed_only_if_every_part_has_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    data = card_of(tmp_path, manifest(**changes)).data.to_dict()
    assert (data["license"], data["license_name"]) == ("other", "see-the-card")


def test_scores_are_the_routers_and_come_with_their_interval(tmp_path: Path) -> None:
    card = card_of(tmp_path, manifest())
    assert "On 40 held-out rows it chose the expert that the row was clustered to in **90.0 %**" in card.text
    assert "95 % Wilson interval 76.9 % to 96.0 %" in card.text  # 36 of 40, by the formula, by hand
    assert "Always choosing the largest would be right in about 75.0 %" in card.text
    assert "Few rows were held out" in card.text
    assert card.data.eval_results is None
    many = Calibration(temperature=1.2, held_out_rows=400, agreement=0.9)
    assert "Few rows" not in card_of(tmp_path, manifest(calibration=many)).text


def test_the_experts_and_the_parts_are_tables(tmp_path: Path) -> None:
    text = card_of(tmp_path, manifest()).text
    assert "| `math` | 1,500 | 75.0 % | sum, a\\|b |" in text
    assert "| base model (not in here) | org/tiny-llm, revision `abc123`, bfloat16," in text
    assert "| rows | me/rows, rows.jsonl | apache-2.0 |" in text
    assert "private/" not in text
    assert "the warm-up adapter" in text
    assert "LoRA rank 8, on q_proj." in text
    assert "gradientspace serve bundle\n" in text


def test_a_local_base_is_no_link_to_a_strangers_model(tmp_path: Path) -> None:
    base = BaseRecord(id=str(tmp_path), name="mine", dtype="float32", weights_sha256="f" * 64)
    card = card_of(tmp_path, manifest(base=base))
    assert "base_model" not in card.data.to_dict()
    assert str(tmp_path) not in card.content
    assert "gradientspace serve bundle --base-model FOLDER_OF_THE_BASE" in card.text


def test_nothing_is_claimed_that_was_not_measured(tmp_path: Path) -> None:
    experts = tuple(expert.model_copy(update={"rows": 0, "share": 0.0}) for expert in manifest().experts)
    unmeasured = manifest(
        experts=experts,
        calibration=Calibration(temperature=1.0, held_out_rows=0, agreement=None),
        fallback=FallbackRecord(kind="expert", expert="math", folder="experts/math", digest="a"),
    )
    text = card_of(tmp_path, unmeasured, ()).text
    assert "This was not measured" in text
    assert "| `math` | unknown | unknown |" in text
    assert "Wilson" not in text
    assert "`math` answers." in text
    assert "| rows | none given |" in text


def test_the_card_says_whether_splitting_helps(tmp_path: Path) -> None:
    assert "This was not measured: every expert answers" in card_of(tmp_path, manifest()).text
    gated = manifest(
        gate=GateRecord(
            labels=tuple(
                GatedLabel(rows=3, share=share, threshold=least, measured_rows=40, gain=None)
                for share, least in ((0.75, 0.5), (0.25, None))
            ),
            measured_rows=80,
            served=LossDifference(mean=-0.1, low=-0.2, high=-0.01),
        ),
        experts=manifest().experts[:1],
    )
    path = tmp_path / "gated.md"
    write_card(path, gated, tmp_path, [], "Yes: by 0.1 nats.")
    text = path.read_text()
    assert "**Does splitting help on your rows?** Yes: by 0.1 nats." in text
    assert "Left out, because they were not shown to help: story." in text
    assert text.index("Does splitting help") < text.index("How well the router routes")
