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
            "Sum this letter up for my colleague Anna.",
            "Two lines for the handover to the next shift.",
            "What is this letter about, in short?",
            "Brief me in two lines about this letter.",
            "Shorten this letter to two lines for a colleague.",
            "Give me the gist of this letter.",
            "A short note on this for the late shift.",
            "Summarise this letter for Ben.",
            "In short, what happened and what do they want?",
            "A two-line summary for the team.",
            "Put this letter in a nutshell for the colleague.",
            "Short summary for the handover, please.",
        ),
        "routing": asks(
            "The short version of this letter in two lines.",
            "A summary of this for the early shift.",
            "Summarise in two lines what happened.",
            "A short note for my colleague Eva.",
            "Condense this letter for the team.",
            "In a nutshell, what is the letter about?",
        ),
        "heldout": asks(
            "Sum it up in two lines for Clara.",
            "What is the letter about, briefly?",
            "The gist in two lines for the team.",
            "A short summary for the next shift.",
            "Brief the colleague on this letter in short.",
            "Summarise the letter for us in two lines.",
        ),
    },
    reply=_reply,
    check=_check,
)
