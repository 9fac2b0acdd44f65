"""The semantic router: a frozen text encoder and one linear layer, in one ONNX graph (section 5.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bundle.errors import BundleError
from bundle.manifest import ROUTER_FOLDER, Kept
from bundle.read import Bundle
from router.tokens import TextTokens

MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"


class SemanticRouter:
    """softmax((W h + b) / temperature), h the mean-pooled encoding of the text."""

    def __init__(
        self,
        folder: Path,
        labels: tuple[str, ...],
        max_tokens: int,
        temperature: float,
        threads: int = 1,
        keeps: Kept = "head_and_tail",
    ) -> None:
        """Open the router's files in `folder`; `threads` is what one forward pass may use.

        Raises:
            BundleError: the graph or the tokenizer can't be read, or has other outputs than `labels`.

        """
        self.labels = labels
        self._temperature = temperature
        self._session = _session(folder / MODEL_FILE, threads)
        self._tokens = TextTokens(_tokenizer(folder / TOKENIZER_FILE), max_tokens, keeps)
        outputs = self._session.get_outputs()[0].shape[1]
        if outputs != len(labels):
            raise BundleError(
                f"{ROUTER_FOLDER}/{MODEL_FILE}",
                "logits",
                f"the router has {outputs} outputs, the bundle has {len(labels)} experts",
                "Train the bundle again",
            )

    @classmethod
    def from_bundle(cls, bundle: Bundle, threads: int = 1) -> SemanticRouter:
        """Open the router of a verified bundle. Raises as the constructor does."""
        manifest = bundle.manifest
        return cls(
            bundle.router_folder,
            manifest.label_order,
            manifest.routed_text.max_tokens,
            manifest.calibration.temperature,
            threads,
            manifest.routed_text.keeps,
        )

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one and depends on its own text only."""
        logits = np.zeros((len(texts), len(self.labels)), dtype=np.float64)
        for places, ids, mask in self._tokens.batches(texts):
            logits[places] = self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        logits /= self._temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Between requests its threads would spin, on cores that the engine computes on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen classes without a common base
        raise BundleError(
            f"{ROUTER_FOLDER}/{path.name}",
            "",
            f"ONNX Runtime can't load it ({error})",
            "Train the bundle again",
        ) from error


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BundleError(
            f"{ROUTER_FOLDER}/{path.name}", "", f"it can't be read ({error})", "Train the bundle again"
        ) from error
