"""Greedy answers of the base, or of the base with one adapter, to many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from training.models.base_model import BaseModel
from training.models.finetune import load_adapter
from training.progress import Advance, ignore_progress

_BATCH_ROWS = 64


@torch.no_grad()
def greedy_answers(
    base: BaseModel,
    adapter: Path | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    advance: Advance = ignore_progress,
) -> list[str]:
    """Answer prompts (token ids, the assistant's turn opened) and return the texts without special tokens."""
    tokenizer: Any = base.tokenizer()
    model: Any = base.load() if adapter is None else load_adapter(base, adapter, trainable=False)
    model.eval()
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), _BATCH_ROWS):
        places = order[start : start + _BATCH_ROWS]
        batch = tokenizer.pad(
            {"input_ids": [list(prompts[place]) for place in places]},
            padding_side="left",
            return_tensors="pt",
        ).to(model.device)  # [b, T]
        generated = model.generate(
            **batch,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )  # [b, T + new]
        texts = tokenizer.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for place, text in zip(places, texts, strict=True):
            answers[place] = text
        advance(len(places))
    return answers
