"""Summary: two lines for the colleague who takes over."""

import re

from demo.shop.letter import Letter
from demo.shop.skills.skill import Skill, asks
from demo.shop.words import Category, Wish

MOST_WORDS = 14
_HAPPENED: dict[Category, str] = {
    "delivery": "has not arrived",
    "damage": "is damaged",
    "mixup": "is the wrong one",
    "billing": "was billed wrongly",
}
_WANTED: dict[Wish, str] = {
    "trace": "the parcel traced",
    "replacement": "a new one",
    "refund": "the money back",
    "invoice": "a correct invoice",
}


def _reply(letter: Letter, about: str) -> str:
    return (
        f"Order {letter.order}: the {letter.product} {_HAPPENED[letter.category]}.\n"
        f"{letter.customer} wants {_WANTED[letter.wish]}."
    )


def _check(letter: Letter, about: str, text: str) -> bool:
    """Whether it has two short lines: the order and what happened to what, then who wants what, and one thing only."""
    lines = text.splitlines()
    return (
        len(lines) == 2
        and all(len(line.split()) <= MOST_WORDS for line in lines)
        and re.findall(r"\d+", text) == [str(letter.order)]
        and str(letter.order) in lines[0]
        and letter.product in lines[0]
        and [what for what in _HAPPENED.values() if what in lines[0]] == [_HAPPENED[letter.category]]
        and letter.customer in lines[1]
        and [what for what in _WANTED.values() if what in lines[1]] == [_WANTED[letter.wish]]
    )


SUMMARY = Skill(
    name="summary",
    asks={
        "train": asks(
            "Sum this up for Anna.",
            "Two lines for the handover.",
            "What is this about, in short?",
            "Brief me.",
            "Shorten it for the colleague.",
            "Give the gist.",
            "A note for the late shift.",
            "Tell Ben what this is about.",
            "In two lines, please.",
            "Summary for the team.",
        ),
        "routing": asks(
            "The short version.",
            "A summary, please.",
            "Brief the early shift.",
            "What happened, in two lines?",
            "Note for Eva.",
            "Condense it for the team.",
        ),
        "heldout": asks(
            "Sum it up for Clara.",
            "What is it about, briefly?",
            "The gist in two lines.",
            "A short note for the next shift.",
            "Brief the colleague.",
            "Summarise this for us.",
        ),
    },
    reply=_reply,
    check=_check,
)
