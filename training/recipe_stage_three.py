"""The recipe's part for Stage III: experts, router, fallback (section 5.4)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bundle.manifest import RoutedTextRule, RouterKind
from training.recipe_values import Section, choice


class ExpertsSection(Section):
    """Stage III, the adapters (section 5.4.1)."""

    epochs: int = choice(
        3,
        "ours",
        "how often each row is seen after the warm-up, at most where training stops by itself",
        ge=1,
    )
    shared: Literal["until_it_stops"] | Annotated[float, Field(ge=0, lt=1)] = choice(
        "until_it_stops",
        "ours",
        "one adapter on all rows first, then the experts start from it; until_it_stops: as long as its validation loss "
        "falls, at most three quarters of the epochs; a number: that part of them, and the paper's is 0",
    )
    patience: int = choice(
        2,
        "ours",
        "with until_it_stops: quarters of an epoch in a row without a lower validation loss that end a training; one "
        "may be chance, and a third costs as much again",
        ge=1,
    )
    learning_rate: float = choice(1e-4, "ours", "peak of a cosine", gt=0)
    batch_rows: int = choice(16, "ours", "rows per optimiser step", ge=1)


class RouterSection(Section):
    """Stage III, the router (section 5.4.2)."""

    kind: RouterKind = choice(
        "semantic",
        "paper",
        "semantic: frozen encoder and a linear head; embedding: cosine with the experts' mean embeddings; keyword: "
        "words shared with the experts' own",
    )
    encoder: str = choice("distilbert-base-uncased", "paper", "hub id, folder, or package:<python package>")
    routed_text: RoutedTextRule = choice("last_user", "ours", "what of a conversation is routed")
    max_tokens: int = choice(
        256, "ours", "encoder tokens read, half of them from the end of a longer text", ge=8, le=512
    )
    precision: Literal["auto", "float32"] = choice(
        "auto",
        "ours",
        "of the encoder; auto: int8, alone or before float32, where 99.5 % of the decisions stay",
    )
    cascade: Literal["auto", "off"] = choice(
        "auto",
        "ours",
        "auto: a linear model answers where it surely agrees with the encoder, if that is often",
    )
    unfamiliar: Literal["fallback", "base", "off"] = choice(
        "fallback", "ours", "who answers what is unlike anything in training; off: an expert all the same"
    )
    gate: Literal["measured", "off"] = choice(
        "measured",
        "ours",
        "measured: an expert answers where held-out rows show that it beats the fallback, and is left out if nowhere; "
        "off: always, which is the paper's (docs/router.md)",
    )
    target_agreement: float | None = choice(
        None, "paper", "below the confidence that reaches it the fallback answers; none: never", gt=0, lt=1
    )


class FallbackSection(Section):
    """The adapter that answers when the router can't or should not choose."""

    train: Literal["warmup", "everything"] = choice(
        "everything",
        "ours",
        "everything: one LoRA on all rows, the shared adapter trained on as experts are; warmup: Stage I's adapter",
    )
