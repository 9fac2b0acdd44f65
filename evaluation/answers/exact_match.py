"""Is a written answer the right one? The short answer is read out of the text and compared, word for word."""

from __future__ import annotations

import re

_BOXED = "\\boxed{"


def is_match(text: str, answer: str) -> bool:
    """Whether the answer that a text comes to is `answer`, but for case, spaces, thousands commas and a full stop."""
    return _plain(final_answer(text)) == _plain(answer)


def final_answer(text: str) -> str:
    """Return what a text comes to: after `####`, in the last `\\boxed{}`, after the last `=`, else all of it."""
    if "####" in text:
        return text.rpartition("####")[2]
    if _BOXED in text:
        return _to_closing_brace(text.rpartition(_BOXED)[2])
    return text.rpartition("=")[2]


def _to_closing_brace(text: str) -> str:
    depth = 1
    for place, letter in enumerate(text):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if depth == 0:
            return text[:place]
    return text


def _plain(answer: str) -> str:
    without_commas = re.sub(r"(?<=\d),(?=\d{3})", "", answer.lower())
    return " ".join(without_commas.split()).removesuffix(".").strip(" $")
