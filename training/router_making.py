"""Make the router that the recipe names: fit it, make it fast, calibrate it, judge it, write its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Calibration, CascadeRecord, RouterKind, RouterRecord
from bundle.read import ROUTER_CASCADE, ROUTER_HEAD
from router.embedding import cosines
from router.encoder_graph import MODEL_FILE, EncoderGraph
from router.keyword import shared_words
from router.softmax import softmax
from training.cascade_fit import AGREES, MOST_LOST, USEFUL_SHARE, Cascade, fit_cascade, words_of
from training.encoder import Encoder
from training.progress import Narrator
from training.recipe import RouterSection
from training.router_export import write_router
from training.router_head import Head, fit_head, fit_temperature
from training.router_heads import keywords, mean_embeddings, write_head
from training.router_int8 import KEPT_DECISIONS, Int8Check, check_decisions, quantise
from training.router_quality import (
    confidence_shares,
    coverage_at,
    coverage_curve,
    quality,
    surest_share,
)

OTHERS = "others"
"""Folder, beside the router's, of the heads of the kinds that are not served: Table 3 compares them."""
_SAMPLES = 16

Scores = NDArray[np.float32]


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


@dataclass(frozen=True)
class _Kind:
    """One of Table 3's routers: its head's tensors, and its scores of the held-out rows [n, K]."""

    tensors: dict[str, NDArray[np.float32]]
    metadata: dict[str, str]
    scores: Scores


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
    """Write the router's files into `folder`, and the heads of the other kinds beside it (section 5.4.2, Table 3).

    Whatever is fitted beyond the head is fitted on the rows marked in `held_out.fitted`, and every figure is of the
    others: of the router as it is served, int8 and cascade included.
    """
    known, unseen = _embeddings(encoder, rows, held_out, section, narrator)
    head = fit_head(known, rows.labels, len(names), seed)
    kinds = _kinds(rows, held_out, known, unseen, head)
    served = kinds[section.kind]
    scores, check, cascade = served.scores, None, None
    if section.kind != "keyword":
        write_router(folder, encoder, head, names, held_out.texts[:_SAMPLES], section.max_tokens)
        if section.precision == "auto":
            scores, check = _int8(folder, served, section, held_out, len(names))
            narrator.say(_said_of_int8(check))
        if section.cascade == "auto" and len(names) > 1:
            known_scores = _scores_of(section.kind, known, served.tensors)
            cascade = _cascade(rows, held_out, known_scores, scores, section, seed)
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
    record = _judged_cascade(cascade, held_out, scores, temperature, section, narrator)
    if cascade is not None and record.used is not None:
        cascade.write(folder / Path(ROUTER_CASCADE).name, names)
    probabilities = _served(cascade if record.used else None, record.scores, scores, temperature, held_out)
    calibration = _calibration(probabilities, temperature, held_out, section, len(names), narrator)
    narrator.say(
        f"    agrees with the clusters on {calibration.agreement:.1%} of {calibration.held_out_rows:,} held-out rows"
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
        "int8": check.summary() if check else None,
        "cascade_found": record.found,
    }
    encodes = section.kind != "keyword"
    made = RouterRecord(
        kind=section.kind,
        encoder=encoder.name if encodes else None,
        encoder_sha256=encoder.sha256 if encodes else None,
        encoder_license=encoder.license if encodes else None,
        hidden=served.tensors["W"].shape[1],
        precision="int8" if check and check.kept else "float32",
        cascade=record.used,
    )
    return MadeRouter(made, calibration, found)


def _embeddings(
    encoder: Encoder, rows: RoutedRows, held_out: JudgedRows, section: RouterSection, narrator: Narrator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    texts = [*rows.texts, *held_out.texts]
    with narrator.bar("encoding prompts", len(texts), "rows") as advance:
        embeddings = encoder.embed(texts, section.max_tokens, advance)  # [N + n, H]
    return embeddings[: len(rows.texts)], embeddings[len(rows.texts) :]


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
) -> Scores:
    if kind == "embedding":
        return cosines(embeddings, tensors["W"])
    return Head(tensors["W"], tensors["b"]).logits(embeddings)


def _int8(
    folder: Path, served: _Kind, section: RouterSection, held_out: JudgedRows, k: int
) -> tuple[Scores, Int8Check]:
    """Quantise the graph; leave it in the folder and return its scores if it decides as before, else the old ones."""
    graph, smaller = folder / MODEL_FILE, folder / "int8"
    smaller.mkdir()
    quantise(graph, smaller / MODEL_FILE)
    for tokenizer in folder.glob("tokenizer*"):
        shutil.copy(tokenizer, smaller)
    width = served.tensors["W"].shape[1]
    runner = EncoderGraph(smaller, "text_embedding", width, section.max_tokens, 1, "head_and_tail")
    scores = _scores_of(section.kind, runner.run(held_out.texts), served.tensors)
    check = check_decisions(served.scores, scores)
    del runner
    if check.kept:
        (smaller / MODEL_FILE).replace(graph)
    shutil.rmtree(smaller)
    return (scores if check.kept else served.scores), check


def _said_of_int8(check: Int8Check) -> str:
    share = f"int8 keeps {check.unchanged:.2%} of {check.rows:,} held-out decisions"
    if check.kept:
        return f"    {share}: it is used"
    return f"    {share}, {KEPT_DECISIONS:.1%} are needed: float32 stays"


def _cascade(
    rows: RoutedRows,
    held_out: JudgedRows,
    known_scores: Scores,
    scores: Scores,
    section: RouterSection,
    seed: int,
) -> Cascade:
    fitted = np.flatnonzero(held_out.fitted)
    return fit_cascade(
        words_of(rows.texts, section.max_tokens),
        known_scores,
        words_of([held_out.texts[place] for place in fitted], section.max_tokens),
        scores[fitted],
        held_out.labels[fitted],
        seed,
    )


@dataclass(frozen=True)
class _JudgedCascade:
    used: CascadeRecord | None
    found: dict[str, Any] | None
    scores: Scores | None
    """Of all held-out rows [n, K], none by a model that was fitted to its row."""


def _judged_cascade(
    cascade: Cascade | None,
    held_out: JudgedRows,
    scores: Scores,
    temperature: float,
    section: RouterSection,
    narrator: Narrator,
) -> _JudgedCascade:
    """Say on the rows that chose nothing what the cascade is worth, and whether it is."""
    if cascade is None:
        return _JudgedCascade(None, None, None)
    others = ~held_out.fitted
    own = np.zeros_like(scores)
    own[held_out.fitted] = cascade.own_scores
    own[others] = cascade.scores(
        words_of([held_out.texts[place] for place in np.flatnonzero(others)], section.max_tokens)
    )
    sure = cascade.answers(own[others])
    encoder, linear, labels = scores[others].argmax(1), own[others].argmax(1), held_out.labels[others]
    same = linear == encoder
    share = float(sure.mean())
    agreement = float(same[sure].mean()) if sure.any() else 0.0
    lost = float((encoder == labels).mean() - (np.where(sure, linear, encoder) == labels).mean())
    reason = _why_not(cascade, share, lost)
    confidence = cascade.confidence(own[others])
    order = np.argsort(-confidence, kind="stable")
    curve = [
        {"share": count / len(order), "agreement": float(same[order[:count]].mean())}
        for count in (max(1, round(tenth * len(order) / 10)) for tenth in range(1, 11))
    ]
    found = {"share": share, "agreement": agreement, "lost": lost, "reason": reason, "curve": curve}
    if reason:
        narrator.say(f"    no cascade: {reason}")
        return _JudgedCascade(None, found, None)
    narrator.say(
        f"    the cascade answers {share:.1%} and says what the encoder says on {agreement:.2%} of them; it costs "
        f"{100 * lost:.2f} points of agreement with the clusters"
    )
    assert cascade.threshold is not None
    used = CascadeRecord(
        threshold=cascade.threshold, share=share, agreement=agreement, rows=int(others.sum())
    )
    return _JudgedCascade(used, found, own)


def _why_not(cascade: Cascade, share: float, lost: float) -> str | None:
    if cascade.threshold is None:
        return (
            f"the {len(cascade.own_scores):,} held-out rows for it don't show {AGREES:.1%} agreement with the encoder "
            "at any confidence"
        )
    if share < USEFUL_SHARE:
        return f"it would answer only {share:.1%} of the rows, less than {USEFUL_SHARE:.0%}"
    if lost > MOST_LOST:
        return f"it would cost {100 * lost:.2f} points of agreement with the clusters, more than {100 * MOST_LOST:.1f}"
    return None


def _served(
    cascade: Cascade | None, own: Scores | None, scores: Scores, temperature: float, held_out: JudgedRows
) -> NDArray[np.float32]:
    """The probabilities of all held-out rows [n, K] as the service will give them."""
    probabilities = softmax(scores, temperature)
    if cascade is not None and own is not None:
        sure = cascade.answers(own)
        probabilities[sure] = softmax(own[sure], cascade.temperature)
    return probabilities


def _calibration(
    probabilities: NDArray[np.float32],
    temperature: float,
    held_out: JudgedRows,
    section: RouterSection,
    k: int,
    narrator: Narrator,
) -> Calibration:
    others = ~held_out.fitted
    judged, labels = probabilities[others], held_out.labels[others]
    measured = quality(judged, labels)
    shares = np.bincount(judged.argmax(1), minlength=k) / len(judged)
    return Calibration(
        temperature=temperature,
        held_out_rows=len(judged),
        fitted_rows=int(held_out.fitted.sum()),
        agreement=measured.agreement,
        macro_f1=measured.macro_f1,
        ece=measured.ece,
        confidence=confidence_shares(judged.max(1)),
        shares=tuple(float(share) for share in shares),
        **_abstention(probabilities, held_out, section.target_agreement, narrator),
    )


def _abstention(
    probabilities: NDArray[np.float32], held_out: JudgedRows, target: float | None, narrator: Narrator
) -> dict[str, float | None]:
    """Choose the threshold below which the fallback answers, and say what it costs."""
    if target is None:
        return {}
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == held_out.labels
    fitted, others = held_out.fitted, ~held_out.fitted
    threshold = surest_share(confidence[fitted], right[fitted], target)
    if threshold is None:
        narrator.warn(
            f"router.target_agreement = {target:g}: {int(fitted.sum()):,} held-out rows don't show it at any "
            "confidence, so the router never abstains. Give more rows with data.held_out, or a lower target"
        )
        return {"target_agreement": target}
    covered = confidence[others] >= threshold
    found = {
        "threshold": threshold,
        "target_agreement": target,
        "coverage": float(covered.mean()),
        "covered_agreement": float(right[others][covered].mean()) if covered.any() else None,
    }
    narrator.say(
        f"    below a confidence of {threshold:.3f} the fallback answers: {found['coverage']:.1%} are routed, and "
        f"{found['covered_agreement'] or 0:.2%} of those agree"
    )
    return found
