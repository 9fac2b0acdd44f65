"""Write the router's files of a bundle: one ONNX graph, the head alone, the tokenizer."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from scipy.special import softmax

from bundle.read import ROUTER_HEAD
from router.encoder_graph import MODEL_FILE, TOKENIZER_FILE
from router.semantic import SemanticRouter
from training.models.encoder import Encoder, mean_pooled
from training.router.head import Head

_TOLERANCE = 1e-4


class RouterExportError(RuntimeError):
    """The exported graph does not compute what was trained."""


def write_router(
    folder: Path,
    encoder: Encoder,
    head: Head,
    label_order: tuple[str, ...],
    sample_texts: Sequence[str],
    max_tokens: int,
) -> None:
    """Write `head.safetensors`, `tokenizer.json` and `model.onnx` into `folder`, then run them.

    The router of section 5.4.2 as it will serve is compared with the encoder and the head as they were
    trained: on `sample_texts`, the empty text and one too long, in batches of mixed lengths.

    Raises:
        RouterExportError: a probability differs by 1e-4 or more.
        EncoderError: the encoder can't read `max_tokens` tokens.

    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {"W": np.ascontiguousarray(head.W), "b": head.b},
        folder / Path(ROUTER_HEAD).name,
        metadata={"labels": json.dumps(list(label_order))},
    )
    encoder.tokenizer.save(str(folder / TOKENIZER_FILE))
    _write_graph(folder / MODEL_FILE, encoder, head, max_tokens)
    _compare(folder, encoder, head, label_order, sample_texts, max_tokens)


class _Graph(torch.nn.Module):
    W: torch.Tensor
    b: torch.Tensor

    def __init__(self, encoder: Encoder, head: Head) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder.model).cpu()
        self.register_buffer("W", torch.from_numpy(np.ascontiguousarray(head.W.T)))  # [H, K]
        self.register_buffer("b", torch.from_numpy(head.b))

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = mean_pooled(self.encoder, input_ids, attention_mask)  # [B, H]
        return embedding @ self.W + self.b, embedding  # not nn.Linear: a Gemm does not survive quantisation


def _write_graph(path: Path, encoder: Encoder, head: Head, max_tokens: int) -> None:
    batch, length = torch.export.Dim("B"), torch.export.Dim("T", max=max_tokens)
    ids = torch.ones(2, 7, dtype=torch.int64)  # the export specialises sizes of 0 and 1, so neither
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Graph(encoder, head).eval(),
            (ids, torch.ones_like(ids)),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "text_embedding"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None only for the exporter of old
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    program.save(str(path), external_data=False)


def _compare(
    folder: Path,
    encoder: Encoder,
    head: Head,
    labels: tuple[str, ...],
    sample_texts: Sequence[str],
    max_tokens: int,
) -> None:
    texts = [*sample_texts, "", "word " * (max_tokens + 1)]
    served = SemanticRouter(folder, labels, max_tokens, temperature=1.0).probabilities(texts)
    trained = softmax(head.logits(encoder.embed(texts, max_tokens)), axis=1)
    difference = np.abs(served - trained).max(axis=1)
    if not difference.max() < _TOLERANCE:  # so that NaN is refused too
        worst = int(np.argmax(difference))
        raise RouterExportError(
            f"{folder / MODEL_FILE}: the exported router differs from the trained one by "
            f"{difference[worst]:.1e} on {texts[worst][:60]!r} (allowed {_TOLERANCE:.0e})"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own insides off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
