"""Triage: the letter as a ticket in JSON."""

from pydantic import BaseModel, ConfigDict, ValidationError

from demo.shop.letter import Letter
from demo.shop.skills.skill import Skill, asks
from demo.shop.words import Category, Urgency


class Ticket(BaseModel):
    """What the shop's ticket system takes, and nothing besides."""

    model_config = ConfigDict(extra="forbid", strict=True)

    category: Category
    urgency: Urgency
    order: int


def _ticket(letter: Letter) -> Ticket:
    return Ticket(category=letter.category, urgency=letter.urgency, order=letter.order)


def _reply(letter: Letter, about: str) -> str:
    return f'{{"category": "{letter.category}", "urgency": "{letter.urgency}", "order": {letter.order}}}'


def _check(letter: Letter, about: str, text: str) -> bool:
    try:
        return Ticket.model_validate_json(text) == _ticket(letter)
    except ValidationError:
        return False


TRIAGE = Skill(
    name="triage",
    asks={
        "train": asks(
            "Sort this letter.",
            "Make a ticket of it.",
            "Which tray does this go in?",
            "File this one.",
            "Log this as a case.",
            "Tag it, please.",
            "Put this into the system.",
            "Classify the letter for the queue.",
            "Open a ticket.",
            "Enter it as JSON.",
        ),
        "routing": asks(
            "Into the queue with it.",
            "Label this letter.",
            "Create a ticket, please.",
            "File it in the right tray.",
            "Record the case.",
            "Sort it, please.",
        ),
        "heldout": asks(
            "Open a case for this.",
            "Register this letter as a ticket.",
            "Classify this one.",
            "Sort this into a tray.",
            "Put a tag on the letter.",
            "Log it in the queue.",
        ),
    },
    reply=_reply,
    check=_check,
)
