"""An adapter's greedy answer to a fixed prompt: the service checks that its engine ends it where this one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from bundle.fingerprints import FixedPrompt, GreedyAnswer
from bundle.manifest import AnswerEnd

_LONGEST = 64  # ours: tokens; the shortest of six answers of a trained adapter is seldom longer


def greedy_answer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[FixedPrompt],
    end: AnswerEnd,
    sure: float,
) -> GreedyAnswer | None:
    """Return the first answer that comes to an end of which the model is sure, or None if no answer does.

    `sure` is how much likelier, in nats, the tokens that end it must be than any other there: another engine
    may round elsewhere.
    """
    device = next(model.parameters()).device
    stops = set(end.token_ids) | {tokenizer.eos_token_id}
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=_LONGEST,
        eos_token_id=sorted(stops),
        pad_token_id=tokenizer.pad_token_id,
    )
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt.token_ids], device=device)  # [1, P]
        with torch.inference_mode():
            whole = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings
            )  # [1, P + A]
            answer = whole[0, ids.shape[1] :].tolist()
            if not answer or answer[-1] not in stops:
                continue
            logits = model(input_ids=whole).logits[0, ids.shape[1] - 1 : -1].float()  # [A, V]
        shown = _shown(tokenizer, answer, end)
        best = logits.log_softmax(-1).topk(2)  # [A, 2]
        leads = (best.values[:, 0] - best.values[:, 1])[shown:]
        if best.indices[shown:, 0].tolist() == answer[shown:] and float(leads.min()) >= sure:
            return GreedyAnswer(prompt=number, token_ids=tuple(answer), shown=shown)
    return None


def _shown(tokenizer: PreTrainedTokenizerBase, answer: Sequence[int], end: AnswerEnd) -> int:
    """How many tokens of an answer come before what ends it."""
    before = list(answer[:-1])
    text = str(tokenizer.decode(before, skip_special_tokens=True))
    if end.text is None or not text.endswith(end.text):
        return len(before)
    words = len(text) - len(end.text)
    fitting = [
        count
        for count in range(len(before) + 1)
        if len(str(tokenizer.decode(before[:count], skip_special_tokens=True))) <= words
    ]
    return max(fitting)
