"""What a trained answer ends with: the engine has to stop there, and only there does training say that it ends.

A template may end a turn with another token than the base's end-of-text token (Qwen's base models do), or with
ordinary text before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from bundle.manifest import AnswerEnd
from training.rows.rendering import IGNORED, TokenRow, special_tokens

# Words that no template writes itself; two, so that what is common to both answers is the template's.
_PROBES = ("Seventeen herons.", "A purple lighthouse?")


def answer_end_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[TokenRow]) -> AnswerEnd:
    """Return what the completions of rendered rows end with, the most frequent token first."""
    counts: dict[int, int] = {}
    for row in rows:
        token = next(label for label in reversed(row.labels) if label != IGNORED)
        counts[token] = counts.get(token, 0) + 1
    return AnswerEnd(
        token_ids=tuple(sorted(counts, key=lambda token: -counts[token])),
        text=answer_end_of_template(tokenizer).text,
    )


def answer_end_of_template(tokenizer: PreTrainedTokenizerBase) -> AnswerEnd:
    """Return what training would have answers end with in the tokenizer's chat template.

    It is what stands behind any answer in it, up to the last special token if no words follow that, as
    `training.rows.rendering` cuts it; a template that shows no answer leaves the base's end-of-text token.
    """
    tails = {_tail(tokenizer, probe) for probe in _PROBES}
    tail = tails.pop() if len(tails) == 1 else ""
    special = special_tokens(tokenizer)
    place = max((tail.rfind(token) for token in special if token in tail), default=-1)
    last = [token for token in special if place >= 0 and tail.startswith(token, place)]
    token, before = str(tokenizer.eos_token), tail
    if last and not tail[place + len(max(last, key=len)) :].strip():
        token, before = max(last, key=len), tail[:place]
    for name in sorted(special, key=len, reverse=True):
        before = before.replace(name, "")
    return AnswerEnd(token_ids=(special[token],), text=before if before.strip() else None)


def ends_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens at which an answer is over: the template's end of a turn, and the base's end of text."""
    own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    return tuple(dict.fromkeys((*answer_end_of_template(tokenizer).token_ids, *own)))


def described(tokenizer: PreTrainedTokenizerBase, end: AnswerEnd) -> str:
    """Say in words what answers end with."""
    tokens = " or ".join(str(tokenizer.convert_ids_to_tokens(token)) for token in end.token_ids)
    own = (
        "the base's own end-of-text token"
        if end.token_ids == (tokenizer.eos_token_id,)
        else f"the base's end-of-text token is {tokenizer.eos_token}"
    )
    text = f"{end.text!r} and then " if end.text else ""
    return f"{text}{tokens} ({own})"


def _tail(tokenizer: PreTrainedTokenizerBase, probe: str) -> str:
    """Return what the template writes behind an answer."""
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": probe}]
    try:
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # a template is a program: it may raise anything, and rows are then refused one by one
        return ""
    return whole.rpartition(probe)[2] if probe in whole else ""
