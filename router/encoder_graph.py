"""The encoder as it serves: a tokenizer and one ONNX graph of a router's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bundle.errors import BundleError
from bundle.manifest import ROUTER_FOLDER, Kept
from bundle.read import ROUTER_MODEL
from router.tokens import TextTokens

MODEL_FILE = Path(ROUTER_MODEL).name
TOKENIZER_FILE = "tokenizer.json"
LOGITS, ENCODING = "logits", "text_embedding"
"""The graph's outputs: `[n, K]` of a semantic router, and `[n, H]` of any."""
TEXTS, ALONE = "texts", "alone"
"""What a graph's own metadata say if it is to get one text at a time, because a batch would change its answers."""


class EncoderGraph:
    """Texts to outputs of the graph, in one pass."""

    def __init__(
        self,
        folder: Path,
        outputs: Mapping[str, int],
        max_tokens: int,
        threads: int,
        keeps: Kept,
        file: str = MODEL_FILE,
    ) -> None:
        """Open the graph `file` and the tokenizer in `folder`; `threads` is what one forward pass may use.

        `outputs` are the widths of those that are wanted.

        Raises:
            BundleError: a file can't be read, or an output of the graph is not as wide.

        """
        self._session = _session(folder / file, threads)
        self._alone = self._session.get_modelmeta().custom_metadata_map.get(TEXTS) == ALONE
        self._tokens = TextTokens(_tokenizer(folder / TOKENIZER_FILE), max_tokens, keeps)
        self._widths = dict(outputs)
        widths = {each.name: each.shape[1] for each in self._session.get_outputs()}
        for output, width in outputs.items():
            if widths.get(output) == width:
                continue
            what = "outputs" if output == LOGITS else "features"
            raise BundleError(
                f"{ROUTER_FOLDER}/{file}",
                output,
                f"the router has {widths.get(output)} {what}, the bundle has {width}"
                + (" experts" if output == LOGITS else ""),
                "Train the bundle again",
            )

    def run(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return each output `[n, width]` by its name; each row depends on its own text only."""
        rows = {name: np.zeros((len(texts), width), np.float32) for name, width in self._widths.items()}
        step = 1 if self._alone else max(len(texts), 1)
        for first in range(0, len(texts), step):
            for places, ids, mask in self._tokens.batches(texts[first : first + step]):
                feeds = {"input_ids": ids, "attention_mask": mask}
                found = self._session.run(list(rows), feeds)
                for name, output in zip(rows, found, strict=True):
                    rows[name][first + places] = output
        return rows


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
