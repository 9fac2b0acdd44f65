"""The routers of Table 3, opened or made from one bundle, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import copy

import numpy as np
from safetensors.numpy import load_file

from benchmarks.router_rows import Rows
from benchmarks.serving_servers import BenchmarkError
from bundle.errors import BundleError
from bundle.manifest import RouterKind
from bundle.read import ROUTER_HEAD, Bundle
from evaluation.evidence.gradient_router import GradientRouter
from router.encoder_graph import MODEL_FILE, TOKENIZER_FILE
from router.load import load_other_router, load_router
from router.protocol import Router
from router.semantic import SemanticRouter
from training.errors import TrainingError
from training.models.encoder import Encoder, load_encoder
from training.router.export import write_router
from training.router.head import Head, fit_head, fit_temperature
from training.router.int8 import quantise
from training.run import Run

KINDS: tuple[RouterKind, ...] = ("keyword", "embedding", "semantic")


def routers_of(bundle: Bundle) -> dict[str, Router]:
    """Return what a bundle can serve, by name: the one it serves, its encoder alone, and the other kinds.

    Raises:
        BundleError: a router that it names can't be opened.

    """
    found: dict[str, Router] = {}
    for kind in KINDS:
        if kind == bundle.manifest.router.kind:
            found[kind] = load_router(bundle)
            if bundle.manifest.router.cascade is not None:
                found[f"{kind}-encoder"] = load_other_router(bundle, kind)
        else:
            try:
                found[kind] = load_other_router(bundle, kind)
            except BundleError:
                continue  # an older bundle, or one without an encoder
    return found


def other_precision(
    bundle: Bundle, encoder: Encoder, texts: Sequence[str], folder: Path
) -> tuple[str, Router]:
    """Return the semantic encoder alone, in int8; of a bundle that has it in int8 only, in float32.

    `folder` takes the files of what the bundle does not hold; `texts` show how large activations get.
    """
    manifest = bundle.manifest
    head = load_file(bundle.folder / ROUTER_HEAD)
    labels, text = manifest.label_order, manifest.routed_text
    temperature, name = manifest.calibration.temperature, "int8"
    if manifest.router.precision == "int8":
        write_router(folder, encoder, Head(head["W"], head["b"]), labels, (), text.max_tokens)
        name = "float32"
    else:
        folder.mkdir(parents=True)
        original = Path(copy(bundle.router_folder / MODEL_FILE, folder / "float32.onnx"))
        quantise(original, folder / MODEL_FILE, texts, encoder.tokens(text.max_tokens))
        copy(bundle.router_folder / TOKENIZER_FILE, folder)
    router = SemanticRouter(folder, labels, text.max_tokens, temperature, keeps=text.keeps)
    return f"semantic-{name}", router


def encoder_of(bundle: Bundle) -> Encoder:
    """Return the bundle's encoder for PyTorch.

    Raises:
        BenchmarkError: the bundle's router has none, or it can't be loaded here.

    """
    name = bundle.manifest.router.encoder
    if name is None:
        raise BenchmarkError("The bundle's router has no encoder to compare with")
    try:
        return load_encoder(name)
    except TrainingError as error:
        raise BenchmarkError(f"The bundle's encoder can't be loaded here ({error})") from error


def gradient_router(bundle: Bundle, run: Run, fitted: Rows) -> GradientRouter:
    """Return the gradient router of the run that wrote the bundle, its temperature fitted to held-out rows.

    Raises:
        TrainingError: a stage is missing.

    """
    plain = GradientRouter(run, bundle.manifest.label_order)
    return plain.with_temperature(fit_temperature(plain.cosines(fitted.texts), fitted.labels))


def ceiling(
    encoder: Encoder, max_tokens: int, known: Rows, judged: Rows, k: int, seed: int
) -> tuple[float, int]:
    """Return the agreement, and its n, of a router that reads prompt and response: what is learnable at all.

    The same encoder and the same head, fitted to the same rows. Of what is too long for the encoder, the
    prompt's beginning and the response's end are read.
    """
    both = [encoder.embed(_with_response(rows), max_tokens) for rows in (known, judged)]  # [n, H]
    head = fit_head(both[0], known.labels, k, seed)
    right = head.logits(both[1]).argmax(1) == judged.labels
    return float(np.mean(right)), len(judged)


def _with_response(rows: Rows) -> list[str]:
    return [f"{text}\n{response}" for text, response in zip(rows.texts, rows.responses, strict=True)]
