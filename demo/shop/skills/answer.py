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
            "Write back to this customer.",
            "Answer this customer's letter in our style.",
            "Reply to the customer, please.",
            "Draft our reply to this letter.",
            "What do we write back to them?",
            "Write an answer that we can send to the customer.",
            "Write a polite letter back to the customer.",
            "Please respond to this customer by mail.",
            "Compose our answer in the house's style.",
            "Give the customer a reply.",
            "Draft an email back to the customer.",
            "Write the reply that goes to the customer.",
        ),
        "routing": asks(
            "Respond to this customer in the house's style.",
            "Write a reply to the customer, please.",
            "Draft a letter back to this customer.",
            "What is our answer to the customer?",
            "Compose a reply that we can send them.",
            "Write back to them politely.",
        ),
        "heldout": asks(
            "Write our response to the customer.",
            "Send this customer our reply, please.",
            "Draft an answer to this customer's letter.",
            "What shall we write back to the customer?",
            "Answer the customer for us.",
            "Draft a response to the customer.",
        ),
    },
    reply=_reply,
    check=_check,
)
