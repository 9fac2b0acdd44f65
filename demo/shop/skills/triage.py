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
            "Make a ticket of this letter.",
            "Sort this letter into its tray: category and urgency.",
            "Log this letter as a case in the ticket system.",
            "Tag this letter for the queue, please.",
            "Classify the letter: category, urgency, order.",
            "Open a ticket for this customer's case.",
            "Enter this as JSON for the ticket system.",
            "File this as a ticket in the right category.",
            "Triage this letter for the queue.",
            "Give this case a category and an urgency.",
            "Put this case into the ticket system.",
            "Which category and urgency has this ticket?",
        ),
        "routing": asks(
            "Create a ticket with category and urgency.",
            "Label this letter for the ticket queue.",
            "Record this as a case: category, urgency.",
            "Ticket in JSON for this letter, please.",
            "Sort this case by category.",
            "File the letter in the ticket system.",
        ),
        "heldout": asks(
            "Register this letter as a ticket.",
            "Classify this case for the ticket system.",
            "Open a case: category and urgency, please.",
            "Sort this letter into the ticket queue.",
            "Turn the letter into a JSON ticket.",
            "Tag this case with a category.",
        ),
    },
    reply=_reply,
    check=_check,
)
