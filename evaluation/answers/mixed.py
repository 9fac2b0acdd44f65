"""Greedy answers of several models whose logits are mixed at every token: no serving engine does this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from evaluation.seed.scoring import LoadedModels
from training.models.base_model import device
from training.progress import Advance
from training.rows.answer_end import ends_of

_BATCH_ROWS = 32


@torch.inference_mode()
def mixed_answers(
    models: LoadedModels,
    weights: NDArray[np.float64],
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    advance: Advance,
) -> list[str]:
    """Answer prompts (token ids) with the models' logits mixed by weights [n, M]; texts without special tokens."""
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for start in range(0, len(order), _BATCH_ROWS):
        places = order[start : start + _BATCH_ROWS]
        written = _answer(
            models, weights[places], [prompts[place] for place in places], tokenizer, max_new_tokens
        )
        for place, text in zip(
            places, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True
        ):
            answers[place] = text
        advance(len(places))
    return answers


def _answer(
    models: LoadedModels,
    weights: NDArray[np.float64],
    prompts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
) -> list[list[int]]:
    batch = tokenizer.pad(
        {"input_ids": [list(ids) for ids in prompts]}, padding_side="left", return_tensors="pt"
    )
    tokens, mask = batch["input_ids"].to(device()), batch["attention_mask"].to(device())  # [b, T]
    shares = torch.from_numpy(weights).float().to(device())  # [b, M]
    used = [place for place in range(weights.shape[1]) if (weights[:, place] > 0).any()]
    caches: dict[int, Any] = dict.fromkeys(used)
    written: list[list[int]] = [[] for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device())
    ends = torch.tensor(ends_of(tokenizer), device=device())
    for _ in range(max_new_tokens):
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -tokens.shape[1] :]
        mixed = torch.zeros(())
        for place in used:
            with models.using(place) as model:
                found: Any = model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=caches[place],
                    use_cache=True,
                )
            caches[place] = found.past_key_values
            mixed = mixed.to(device()) + shares[:, place, None] * found.logits[:, -1].float()  # [b, V]
        chosen = mixed.argmax(1)  # [b]
        done |= torch.isin(chosen, ends)
        if bool(done.all()):
            break
        for row in torch.nonzero(~done).flatten().tolist():
            written[row].append(int(chosen[row]))
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
    return written
