"""What a skill of the desk is: how colleagues ask for it, the reply it wants, and a rule that judges a reply."""

from collections.abc import Callable
from dataclasses import dataclass

from demo.shop.letter import Letter
from demo.split import Split


@dataclass(frozen=True)
class Ask:
    """A request in a colleague's words, and what of several things it is about ("" where there is but one)."""

    text: str
    about: str = ""


@dataclass(frozen=True)
class Skill:
    """One thing to do with a letter. Each part of the rows asks for it in its own words."""

    name: str
    asks: dict[Split, tuple[Ask, ...]]
    reply: Callable[[Letter, str], str]
    """(letter, what it is about) to the reference reply."""
    check: Callable[[Letter, str, str], bool]
    """(letter, what it is about, a reply) to whether the reply is right."""


def asks(*texts: str, about: str = "") -> tuple[Ask, ...]:
    """Requests that are all about the same."""
    return tuple(Ask(text, about) for text in texts)
