"""Who is compared in Table 4: one routed expert, an ensemble of all, and what chooses between them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import DynamicCache

from bundle.read import read_bundle
from evaluation.seed.projected_gradients import of_instruction
from router.load import load_router
from training.gradients.row_gradients import RowGradients
from training.gradients.supply import row_gradients
from training.models.base_model import BaseModel
from training.rows.rendering import TokenRow
from training.run import Run
from training.stage_three import expert_name

NEW_TOKENS = 16  # as in benchmarks/serving.py


@dataclass(frozen=True)
class Work:
    """One prompt: what the router and the ensemble would have to do."""

    prompt: TokenRow  # its ids end where the answer begins
    expert: int


class Contenders:
    """The base with every adapter of a bundle laid over it once, the router, and ELREA's gradients."""

    def __init__(self, run: Run) -> None:
        """Load them.

        Raises:
            TrainingError: the run is not finished.

        """
        inputs = run.inputs
        self.inputs = inputs
        self.k = run.assigned.assignment.k
        self.base_model: Any = inputs.base.load(torch.float32).eval()
        folders = {expert_name(label): expert.folder for label, expert in enumerate(run.experts)}
        folders["fallback"] = run.warmup.folder
        self.adapters = list(folders)
        self.model = _with_adapters(inputs.base, folders)
        self.source: RowGradients = row_gradients(inputs, run.warmup)
        self.centroids = run.centroids.centroids().to(self.source.device)
        self.router = load_router(read_bundle(run.folder / "bundle"), threads=torch.get_num_threads())

    def route(self, work: Work) -> float:
        """The semantic predictor on the prompt's text: ONNX, as served. Returns 0, as nothing is switched."""
        self.router.probabilities([work.prompt.routed_text])
        return 0.0

    def elrea_weights(self, work: Work) -> float:
        """ELREA's weights: the gradient of the prompt's own tokens, compared with every centroid. Returns 0, too."""
        self.source.contracted([of_instruction(work.prompt)], self.centroids)
        return 0.0

    def one(self, work: Work) -> float:
        """Answer with the routed expert alone."""
        return self.answer(work, [f"expert-{work.expert}"])

    def ensemble(self, work: Work) -> float:
        """Answer with every expert and the base adapter, their probabilities averaged at every token: K + 1 passes."""
        return self.answer(work, self.adapters)

    @torch.inference_mode()
    def answer(self, work: Work, adapters: Sequence[str]) -> float:
        """Write `NEW_TOKENS` greedy tokens; each adapter keeps a cache of its own.

        Returns the seconds that PEFT took to switch between adapters: another way to serve them needs none.
        """
        switching = 0.0
        ids = torch.tensor([list(work.prompt.input_ids)], device=self.model.device)  # [1, P]
        caches = [DynamicCache() for _ in adapters]
        for _ in range(NEW_TOKENS):
            mixed = torch.zeros(())
            for adapter, cache in zip(adapters, caches, strict=True):
                began = time.perf_counter()
                self.model.set_adapter(adapter)
                switching += time.perf_counter() - began
                logits = self.model(input_ids=ids, past_key_values=cache, use_cache=True).logits[0, -1]  # [V]
                mixed = mixed + logits.float().softmax(0)
            ids = mixed.argmax().reshape(1, 1)
        return switching


def _with_adapters(base: BaseModel, folders: dict[str, Any]) -> PeftModel:
    names = list(folders)
    model = cast(
        PeftModel,
        PeftModel.from_pretrained(base.load(torch.float32), str(folders[names[0]]), adapter_name=names[0]),
    )
    for name in names[1:]:
        model.load_adapter(str(folders[name]), adapter_name=name)
    return model.eval()
