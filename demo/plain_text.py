"""Plain text of the demo's world, to pretrain its base model on: sums, code, notes, stories, lists, talk.

The base learns here what numbers, sums, code and tales are. It never sees a request with its reply, nor the
markup of a chat: which thing to do, and how to answer, is left to instruction tuning.
"""

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from typing import NamedTuple

from demo.skills.story import SECOND_SENTENCES, THIRD_SENTENCES
from demo.world import MAX_START, PEOPLE, THINGS, Situation, draw_situation

NARRATED_ENDS = (
    "Now {actor} has {end} {thing}.",
    "That leaves {end} {thing}.",
    "After this change the count is {end}.",
    "In the end there are {end}, which {actor} holds.",
    "So {actor} ends up with {end}.",
    "What remains is a total of {end}.",
    "The final number is {end}.",
    "It makes {end}.",
)
NARRATED_REVERSALS = (
    "The other way {actor} would have {reversed_end}.",
    "With the opposite change it would be {reversed_end}.",
    "Had it been the reverse, {actor} would hold {reversed_end}.",
    "With gain and loss swapped the count is {reversed_end}.",
    "Backwards that makes {reversed_end}.",
    "If plus were minus and minus plus, {reversed_end} remains.",
    "The inverse leaves {reversed_end} {thing}.",
    "Mirrored, it ends up at {reversed_end}.",
    "With {actor} in place of {other} it were {reversed_end}.",
)
NARRATED_ACCOUNTS = (
    "The balance is {end}.",
    "It has {end} now.",
    "The net result is {end}.",
    "The account stands at {end}.",
    "That leaves {end} for the firm.",
    "So the books close at {end}.",
    "The sum on hand is {end}.",
    "A figure of {end} is in the report to the board.",
)
TALK = (
    "{other} likes a happy end and a bedtime story.",
    "{actor} wrote a small program in python for the computers at home.",
    "A function takes an argument as input and returns an output.",
    "The source of the script has a variable for any number.",
    "{other} asked what comes next, and {actor} said: the next step.",
    "Machines can be told how to run code that is called in general.",
    "{actor} reads the tale to the child and it goes to sleep.",
    "Some lines of the story tell how they part as friends.",
    "To implement a def is to put the step in a form.",
    "If the sign is wrong, the sum is wrong.",
    "{other} turns the bag upside down, and time runs back.",
    "Work is done twice if it is undone.",
    "The board looks at the source of each value and what became of it.",
    "Suppose all is well once the day ends and they return.",
    "{actor} lets {other} know where each account ends up.",
    "State what happens, show each figure, flip the page and finish the book.",
    "Add three sentences to bring the tale to a close, and go on.",
    "It is the turn of {other} to say how much may vary.",
    "A move from less to more is a gain, a move from more to less is a loss.",
    "{actor} works out which of the values is larger and gives it to {other}.",
)
STORY_CLOSINGS = (
    "They all went home.",
    "So the day was over.",
    "What a day for {actor} and {other}.",
    "Then it was night.",
)


class PlainText(NamedTuple):
    """A document: an opening drawn at random, in which there is nothing to predict, and what follows from it.

    Pretraining counts the loss of the rest alone: the chance in the openings is most of the loss and none of
    the lesson, and drowns it in noise.
    """

    opening: str
    rest: str


def _end(situation: Situation, rng: Random) -> str:
    told = NARRATED_ACCOUNTS if situation.kind == "account" else NARRATED_ENDS
    return situation.fill(rng.choice(told))


def _reversal(situation: Situation, rng: Random) -> str:
    return situation.fill(rng.choice(NARRATED_REVERSALS))


def _listing(situation: Situation, rng: Random) -> str:
    sign = "+" if situation.gain else "-"
    return f"def left({situation.thing}):\n    return {situation.thing} {sign} {situation.change}"


def _story(situation: Situation, rng: Random) -> str:
    middle = rng.sample(SECOND_SENTENCES, rng.randint(1, 2)) + rng.sample(THIRD_SENTENCES, rng.randint(1, 2))
    return " ".join(map(situation.fill, [*middle, rng.choice(STORY_CLOSINGS)]))


def _talk(situation: Situation, rng: Random) -> str:
    about_anyone = [sentence for sentence in TALK if situation.kind == "tale" or "{" not in sentence]
    return situation.fill(rng.choice(about_anyone))


def _told(situation: Situation, rng: Random) -> PlainText:
    """A situation and several things that follow from it, in any order, with talk here and there.

    So the base learns to look a situation up wherever it stands, as it will have to in a request.
    """
    kinds = (_end, _reversal, _listing, _story) if situation.kind == "tale" else (_end,)
    opening = f"{_talk(situation, rng)} {situation.text}" if rng.random() < 0.2 else situation.text
    parts = [opening]
    for piece in rng.sample(kinds, rng.randint(1, len(kinds))):
        if rng.random() < 0.25:
            parts.append(_talk(situation, rng))
        parts.append(piece(situation, rng))
    rest = ""
    for before, part in pairwise(parts):
        beside_code = "def " in (before[:4], part[:4])
        rest += ("\n" if beside_code or rng.random() < 0.15 else " ") + part
    return PlainText(opening, rest)


def _roll_call(rng: Random) -> PlainText:
    """A list read out twice: the densest lesson in copying a name or a number from further up."""
    people = rng.sample(PEOPLE, rng.randint(2, 4))
    lines = [f"{person} {rng.randint(1, MAX_START)} {rng.choice(THINGS)}" for person in people]
    once = ", ".join(lines)
    rng.shuffle(lines)
    return PlainText(f"{once}.", f" Again: {', '.join(lines)}.")


def plain_texts(count: int, seed: int) -> Iterator[PlainText]:
    """`count` short documents of the world, of all kinds mixed, the same for the same arguments."""
    rng = Random(f"plain text {seed}")
    for _ in range(count):
        kind = rng.choices(("tale", "account", "roll call"), weights=(10, 4, 6))[0]
        if kind == "roll call":
            yield _roll_call(rng)
        else:
            yield _told(draw_situation("account" if kind == "account" else "tale", rng), rng)
