"""Record what the base and every adapter say to fixed prompts, for the service to reproduce.

The prompts are fixed, not taken from the rows: a bundle then carries no row of anybody's data, adapters that
were trained elsewhere can be recorded too, and any text shows an adapter that touches every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from bundle.fingerprints import (
    SURE_TOLERANCES,
    TOP_TOKENS,
    Fingerprint,
    Fingerprints,
    FixedPrompt,
    GreedyAnswer,
    TopTokens,
    tolerance,
)
from bundle.manifest import AnswerEnd
from training.bundling.greedy_answer import greedy_answer
from training.models.base_model import BaseModel

_PROMPTS = (
    "What is 17 times 24?",
    "Write a Python function that reverses a string.",
    "Write a short story about a brave little mouse.",
    "What was the change in revenue between 2018 and 2019?",
    "Summarize the following article in one sentence.",
    "Translate this sentence to French: the cat sleeps.",
)
_DECIMALS = 5


def make_fingerprints(
    base: BaseModel, chat_template: str, adapters: Mapping[str, Path], end: AnswerEnd
) -> Fingerprints:
    """Return the fingerprints of the base and of each adapter (a PEFT folder, by its name in the bundle).

    In the dtype that the bundle is served in, with Transformers and PEFT. `end` is what answers end with: an answer
    of each adapter is recorded that does.
    """
    prompts = _fixed_prompts(base, chat_template)
    model: nn.Module = base.load().eval()
    of_base, of_adapters = _fingerprint(model, prompts), {}
    answers: dict[str, GreedyAnswer] = {}
    sure = SURE_TOLERANCES * tolerance(base.record.dtype)
    for name, folder in adapters.items():
        adapted = PeftModel.from_pretrained(model, str(folder)).eval()  # type: ignore[arg-type]
        of_adapters[name] = _fingerprint(adapted, prompts)
        answer = greedy_answer(adapted, base.tokenizer(), prompts, end, sure)
        if answer is not None:
            answers[name] = answer
        model = adapted.unload()
    return Fingerprints(prompts=prompts, base=of_base, adapters=of_adapters, answers=answers)


def _fixed_prompts(base: BaseModel, chat_template: str) -> tuple[FixedPrompt, ...]:
    tokenizer = base.tokenizer()
    tokenizer.chat_template = chat_template
    texts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
            )
        )
        for prompt in _PROMPTS
    ]
    return tuple(
        FixedPrompt(text=text, token_ids=tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in texts
    )


def _fingerprint(model: nn.Module, prompts: tuple[FixedPrompt, ...]) -> Fingerprint:
    device = next(model.parameters()).device
    entries = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt.token_ids], device=device)  # [1, T]
            logprobs = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)  # [V]
            top = logprobs.topk(min(TOP_TOKENS, len(logprobs)))
            entries.append(
                TopTokens(
                    token_ids=tuple(top.indices.tolist()),
                    logprobs=tuple(round(value, _DECIMALS) for value in top.values.tolist()),
                )
            )
    return tuple(entries)
