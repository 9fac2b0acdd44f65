"""What a skill is: paraphrases of one request, the reply it wants, and an exact check of a reply."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from demo.world import Kind, Situation


@dataclass(frozen=True)
class Reply:
    """A reference reply, and the short text its check needs."""

    output: str
    answer: str


@dataclass(frozen=True)
class Skill:
    """One thing to do with a situation.

    `asks` are templates for `Situation.fill`. No content word may stand in most of them: what must be done
    has to be read from the request, never from one keyword.
    """

    name: str
    kind: Kind
    asks: tuple[str, ...]
    reply: Callable[[Situation, Random], Reply]
    check: Callable[[str, str], bool]


def sum_reply(end: str) -> Reply:
    """The one format of every skill that answers with a sum."""
    return Reply(output=f"Answer: {end}", answer=end)


def sum_check(answer: str, text: str) -> bool:
    """Whether `text` is exactly the reply with the sum `answer`."""
    return text == f"Answer: {answer}"
