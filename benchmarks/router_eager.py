"""Transformers' own text-classification pipeline on the router's encoder and head: what people would build first."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, TextClassificationPipeline
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging as transformers_logging

from benchmarks.router_timing import Window
from training.models.encoder import Encoder, mean_pooled


class _Classifier(PreTrainedModel):
    """The encoder, the mean over its tokens, the head."""

    _supports_sdpa = True  # this class has no attention of its own

    def __init__(self, encoder: PreTrainedModel, W: torch.Tensor, b: torch.Tensor) -> None:
        config = encoder.config
        config.num_labels = len(b)  # it makes id2label: LABEL_0, LABEL_1, ...
        super().__init__(config)
        self.encoder = encoder
        self.head = torch.nn.Linear(W.shape[1], W.shape[0])
        self.head.weight.data, self.head.bias.data = W, b

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object
    ) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(
            logits=self.head(mean_pooled(self.encoder, input_ids, attention_mask))
        )


class EagerPipeline:
    """The pipeline in float32, eager PyTorch, attention as Transformers chooses it, one thread like the router."""

    def __init__(self, encoder: Encoder, head: Path, max_tokens: int) -> None:
        """`head` is a bundle's head.safetensors."""
        transformers_logging.set_verbosity(logging.CRITICAL)  # it does not know our class by name
        transformers_logging.disable_progress_bar()
        torch.set_num_threads(1)
        weights = load_file(head)
        model = AutoModel.from_pretrained(encoder.folder, local_files_only=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(encoder.folder, local_files_only=True)
        self._pipeline = TextClassificationPipeline(
            model=_Classifier(model, weights["W"], weights["b"]).eval(), tokenizer=tokenizer, device="cpu"
        )
        self._max_tokens = max_tokens

    def labels(self, texts: Sequence[str], batch_size: int = 1) -> list[int]:
        """Return the label of each text `[n]`."""
        answers = self._pipeline(
            list(texts), batch_size=batch_size, truncation=True, max_length=self._max_tokens
        )
        return [int(answer["label"].removeprefix("LABEL_")) for answer in answers]

    def window(self, batch_size: int) -> Window:
        """Return a window in which the pipeline gets all texts as one list."""

        def window(texts: Sequence[str]) -> float:
            start = time.perf_counter()
            self.labels(texts, batch_size)
            return time.perf_counter() - start

        return window
