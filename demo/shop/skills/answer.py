"""Answer: a reply to the customer in the house's style."""

import re

from demo.shop.letter import Letter
from demo.shop.skills.skill import Skill, asks
from demo.shop.words import Wish

SIGN_OFF = "Yours, the desk at Harbour Lane"
MOST_WORDS = 40
_PROMISES: dict[Wish, str] = {
    "trace": "We will trace the parcel",
    "replacement": "We will send a new {product}",
    "refund": "We will pay the money back",
    "invoice": "We will send a correct invoice",
}


def _promise(letter: Letter) -> str:
    """The one promise: what was asked for; today where it is urgent, else this week."""
    when = "today" if letter.urgency == "high" else "this week"
    return f"{_PROMISES[letter.wish].format(product=letter.product)} {when}."


def _reply(letter: Letter, about: str) -> str:
    return (
        f"Hello {letter.customer},\nthank you for writing about order {letter.order}. {_promise(letter)}\n"
        f"{SIGN_OFF}"
    )


def _check(letter: Letter, about: str, text: str) -> bool:
    """Whether it greets by name, names this order alone, makes one promise, the right one, and signs as the house."""
    lines = text.splitlines()
    return (
        len(lines) >= 3
        and lines[0] == f"Hello {letter.customer},"
        and lines[-1] == SIGN_OFF
        and re.findall(r"\d+", text) == [str(letter.order)]
        and re.findall(r"We will [^.]*\.", text) == [_promise(letter)]
        and "!" not in text
        and len(text.split()) <= MOST_WORDS
    )


ANSWER = Skill(
    name="answer",
    asks={
        "train": asks(
            "Write back.",
            "Answer this customer.",
            "Reply to the letter.",
            "Draft our reply.",
            "What do we write to them?",
            "Send an answer.",
            "Write to the customer.",
            "Please respond to this.",
            "Compose the answer in our style.",
            "Give them a reply.",
        ),
        "routing": asks(
            "Respond, please.",
            "Write a reply in the house's style.",
            "What is our answer to them?",
            "Draft a letter back.",
            "Answer them.",
            "Let the customer have a reply.",
        ),
        "heldout": asks(
            "Respond to the customer.",
            "Our reply, please.",
            "Write an answer to this letter.",
            "What shall we write back?",
            "Answer the letter for us.",
            "Draft a response.",
        ),
    },
    reply=_reply,
    check=_check,
)
