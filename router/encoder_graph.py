"""The encoder as it serves: a tokenizer and one ONNX graph of a router's folder."""

from __future__ import annotations

from collections.abc import Sequence
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
TEXTS, ALONE = "texts", "alone"
"""What a graph's own metadata say if it is to get one text at a time, because a batch would change its answers."""


class EncoderGraph:
    """Texts to one output of the graph: `logits` of a semantic router, `text_embedding` of any."""

    def __init__(
        self,
        folder: Path,
        output: str,
        width: int,
        max_tokens: int,
        threads: int,
        keeps: Kept,
        file: str = MODEL_FILE,
    ) -> None:
        """Open the graph `file` and the tokenizer in `folder`; `threads` is what one forward pass may use.

        Raises:
            BundleError: a file can't be read, or the graph's `output` is not `width` wide.

        """
        self._session = _session(folder / file, threads)
        self._alone = self._session.get_modelmeta().custom_metadata_map.get(TEXTS) == ALONE
        self._tokens = TextTokens(_tokenizer(folder / TOKENIZER_FILE), max_tokens, keeps)
        self._output, self._width = output, width
        widths = {each.name: each.shape[1] for each in self._session.get_outputs()}
        if widths.get(output) != width:
            what = "outputs" if output == "logits" else "features"
            raise BundleError(
                f"{ROUTER_FOLDER}/{file}",
                output,
                f"the router has {widths.get(output)} {what}, the bundle has {width}"
                + (" experts" if output == "logits" else ""),
                "Train the bundle again",
            )

    def run(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the output `[n, width]`; each row depends on its own text only."""
        if self._alone and len(texts) > 1:
            return np.concatenate([self.run([text]) for text in texts])
        rows = np.zeros((len(texts), self._width), dtype=np.float32)
        for places, ids, mask in self._tokens.batches(texts):
            feeds = {"input_ids": ids, "attention_mask": mask}
            rows[places] = self._session.run([self._output], feeds)[0]
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
