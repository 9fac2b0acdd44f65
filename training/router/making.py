"""Make the router that the recipe names: fit it, make it fast, calibrate it, judge it, write its files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import ENCODING_KINDS, Calibration, RouterKind, RouterRecord
from bundle.read import ROUTER_CASCADE, ROUTER_FAMILIAR, ROUTER_HEAD
from router.embedding import cosines
from router.keyword import shared_words
from router.softmax import softmax
from training.models.encoder import Encoder
from training.progress import Narrator
from training.recipe_stage_three import RouterSection
from training.router.cascade import LEAST_ROWS, Cascade, fit_cascade, judge_cascade, words_of
from training.router.confidence import calibrate_router
from training.router.export import write_router
from training.router.head import Head, fit_head, fit_temperature
from training.router.other_kinds import keywords, mean_embeddings, write_head
from training.router.precision import ChosenPrecision, choose_precision
from training.router.quality import RouterScores, coverage_at, coverage_curve, quality, said_of_agreement
from training.router.rows import JudgedRows, RoutedRows
from training.router.unfamiliar import (
    FAMILIAR,
    KNOWN,
    Encodings,
    Vocabulary,
    fit_vocabulary,
    judge_unfamiliar,
)
from training.stages.outcome import Outcome
from training.stages.store import StageResult

OTHERS = "others"
"""Folder, beside the router's, of the heads of the kinds that are not served: Table 3 compares them."""
_PROBABILITIES = "probabilities.npy"
_SAMPLES = 16


@dataclass(frozen=True)
class MadeRouter:
    """What the manifest says of the router, and what the report does beyond that."""

    record: RouterRecord
    calibration: Calibration
    found: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return it as JSON, for `RouterStage` to read back."""
        return {
            "record": self.record.model_dump(),
            "calibration": self.calibration.model_dump(),
            "found": self.found,
        }


@dataclass(frozen=True)
class RouterStage(Outcome):
    """A router's files, and what is known of it."""

    made: MadeRouter

    @classmethod
    def _of(cls, stage: StageResult) -> Self:
        facts = stage.facts
        record = RouterRecord.model_validate(facts["record"])
        calibration = Calibration.model_validate(facts["calibration"])
        return cls(stage, MadeRouter(record, calibration, facts["found"]))

    def probabilities(self) -> NDArray[np.float32]:
        """Return the router's of the rows that it was fitted to and judged by [n, K], as it is served."""
        return np.asarray(np.load(self.folder / _PROBABILITIES))

    @property
    def router_folder(self) -> Path:
        """What the bundle takes."""
        return self.folder / "router"

    @property
    def others_folder(self) -> Path:
        """The heads of the kinds that are not served."""
        return self.folder / OTHERS


@dataclass(frozen=True)
class _Kind:
    """One of Table 3's routers: its head's tensors, and its scores of the held-out rows [n, K]."""

    tensors: dict[str, NDArray[np.float32]]
    metadata: dict[str, str]
    scores: RouterScores


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of the rows that teach [N, H] and of the held-out rows [n, H]."""

    known: NDArray[np.float32]
    unseen: NDArray[np.float32]


def make_router(
    folder: Path,
    encoder: Encoder,
    rows: RoutedRows,
    held_out: JudgedRows,
    names: tuple[str, ...],
    section: RouterSection,
    seed: int,
    narrator: Narrator,
    encoded: Encoded,
) -> MadeRouter:
    """Write the router's files into `folder`, and the heads of the other kinds beside it (section 5.4.2, Table 3).

    Whatever is fitted beyond the head is fitted on the rows marked in `held_out.fitted`, and every figure is of the
    others: of the router as it is served, int8 and cascade included.
    """
    known, unseen = encoded.known, encoded.unseen
    head = fit_head(known, rows.labels, len(names), seed)
    kinds = _kinds(rows, held_out, known, unseen, head)
    served = kinds[section.kind]
    encodes = section.kind in ENCODING_KINDS
    chosen = ChosenPrecision("float32", served.scores, unseen, {})
    cascade = None
    if encodes:
        write_router(folder, encoder, head, names, held_out.texts[:_SAMPLES], section.max_tokens)
        if section.precision == "auto":
            chosen = choose_precision(
                folder,
                unseen,
                lambda embeddings: _scores_of(section.kind, embeddings, served.tensors),
                rows.texts,
                encoder.tokens(section.max_tokens),
                section.max_tokens,
                held_out,
                narrator,
            )
        if section.cascade == "auto" and len(names) > 1:
            known_scores = _scores_of(section.kind, known, served.tensors)
            cascade = _cascade(rows, held_out, known_scores, chosen.scores, section, seed)
    scores = chosen.scores
    write_head(folder / Path(ROUTER_HEAD).name, served.tensors, names, served.metadata)
    temperatures = {
        kind: fit_temperature(
            (scores if kind == section.kind else each.scores)[held_out.fitted],
            held_out.labels[held_out.fitted],
        )
        for kind, each in kinds.items()
    }
    temperature = temperatures[section.kind]
    for kind, each in kinds.items():
        if kind != section.kind:
            said = each.metadata | {"temperature": repr(temperatures[kind])}
            write_head(folder.parent / OTHERS / f"{kind}.safetensors", each.tensors, names, said)
    vocabulary = _vocabulary(rows, held_out, section, cascade, seed)
    enough = np.ones(len(held_out.texts), dtype=bool) if vocabulary is None else vocabulary.enough
    judged = judge_cascade(cascade, held_out, chosen, served.scores, enough, section.max_tokens, narrator)
    if cascade is not None and judged.used is not None:
        cascade.write(folder / Path(ROUTER_CASCADE).name, names)
    probabilities = _served(cascade if judged.used else None, judged.scores, scores, temperature, enough)
    np.save(folder.parent / _PROBABILITIES, probabilities)
    unfamiliar = None
    if section.unfamiliar != "off":
        unfamiliar = judge_unfamiliar(
            folder / Path(ROUTER_FAMILIAR).name,
            section.unfamiliar,
            held_out,
            Encodings(known, chosen.embeddings) if encodes else None,
            vocabulary if judged.used or not encodes else None,
            seed,
            narrator,
        )
    calibration = calibrate_router(probabilities, temperature, held_out, section.target_agreement, narrator)
    narrator.say(
        f"    agrees with the clusters on {calibration.agreement:.1%} of {calibration.held_out_rows:,} held-out rows "
        + said_of_agreement(calibration.agreement or 0.0, held_out.labels[~held_out.fitted])
    )
    others = ~held_out.fitted
    found = {
        "quality": quality(probabilities[others], held_out.labels[others]).summary(),
        "kinds": {
            kind: quality(softmax(each.scores[others], temperatures[kind]), held_out.labels[others]).summary()
            for kind, each in kinds.items()
        },
        "curve": coverage_curve(probabilities[others], held_out.labels[others]),
        "coverage_at": coverage_at(probabilities[others], held_out.labels[others]),
        "int8": chosen.found or None,
        "cascade_found": judged.found,
    }
    made = RouterRecord(
        kind=section.kind,
        encoder=encoder.name if encodes else None,
        encoder_sha256=encoder.sha256 if encodes else None,
        encoder_license=encoder.license if encodes else None,
        hidden=served.tensors["W"].shape[1],
        precision=chosen.precision,
        cascade=judged.used,
        unfamiliar=unfamiliar,
    )
    return MadeRouter(made, calibration, found)


def _kinds(
    rows: RoutedRows,
    held_out: JudgedRows,
    known: NDArray[np.float32],
    unseen: NDArray[np.float32],
    head: Head,
) -> dict[RouterKind, _Kind]:
    k = len(head.b)
    means = mean_embeddings(known, rows.labels, k)
    words, weights = keywords(rows.texts, rows.labels, k)
    column = {word: place for place, word in enumerate(words)}
    return {
        "semantic": _Kind({"W": head.W, "b": head.b}, {}, head.logits(unseen)),
        "embedding": _Kind({"W": means}, {}, cosines(unseen, means)),
        "keyword": _Kind(
            {"W": weights}, {"keywords": json.dumps(words)}, shared_words(held_out.texts, column, weights)
        ),
    }


def _scores_of(
    kind: RouterKind, embeddings: NDArray[np.float32], tensors: dict[str, NDArray[np.float32]]
) -> RouterScores:
    if kind == "embedding":
        return cosines(embeddings, tensors["W"])
    return Head(tensors["W"], tensors["b"]).logits(embeddings)


def _cascade(
    rows: RoutedRows,
    held_out: JudgedRows,
    known_scores: RouterScores,
    scores: RouterScores,
    section: RouterSection,
    seed: int,
) -> Cascade | None:
    fitted = np.flatnonzero(held_out.fitted)
    if len(fitted) < LEAST_ROWS:
        return None
    return fit_cascade(
        words_of(rows.texts, section.max_tokens),
        known_scores,
        words_of([held_out.texts[place] for place in fitted], section.max_tokens),
        scores[fitted],
        held_out.labels[fitted],
        seed,
    )


def _vocabulary(
    rows: RoutedRows, held_out: JudgedRows, section: RouterSection, cascade: Cascade | None, seed: int
) -> Vocabulary | None:
    """Return the pairs of words by which a router knows what is unfamiliar without its encoder, where it needs any."""
    if section.unfamiliar == "off":
        return None
    if section.kind not in ENCODING_KINDS:
        return fit_vocabulary(rows.texts, held_out, section.max_tokens, FAMILIAR, seed)
    return None if cascade is None else fit_vocabulary(rows.texts, held_out, section.max_tokens, KNOWN, seed)


def _served(
    cascade: Cascade | None,
    own: RouterScores | None,
    scores: RouterScores,
    temperature: float,
    enough: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """The probabilities of all held-out rows [n, K] as the service will give them."""
    probabilities = softmax(scores, temperature)
    if cascade is not None and own is not None:
        sure = cascade.answers(own) & enough
        probabilities[sure] = softmax(own[sure], cascade.temperature)
    return probabilities
