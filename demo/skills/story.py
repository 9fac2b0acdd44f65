"""Small stories: go on with the tale.

The rule of a right reply: three sentences, the last of them "The end.", that name the thing the tale is about
and hold no digit. Whose thing it is does not count: so small a base can't keep its people apart.
"""

import re
from random import Random

from demo.skills.skill import Reply, Skill
from demo.world import Situation

SECOND_SENTENCES = (
    "{actor} puts the {thing} in a box.",
    "{actor} hides the {thing} under a tree.",
    "At night {actor} dreams of the {thing}.",
    "{actor} shows the {thing} to a friend.",
    "The {thing} shine in the sun and {actor} laughs.",
    "{actor} carries the {thing} to the river.",
)
THIRD_SENTENCES = (
    "{other} smiles and walks home.",
    "Then {other} sings a song.",
    "{other} and {actor} are friends again.",
    "The rain comes and {other} runs away.",
    "{other} says thank you.",
    "Soon {other} falls asleep.",
)
LAST_SENTENCE = "The end."


def _reply(situation: Situation, rng: Random) -> Reply:
    middle = [situation.fill(rng.choice(SECOND_SENTENCES)), situation.fill(rng.choice(THIRD_SENTENCES))]
    return Reply(output=" ".join([*middle, LAST_SENTENCE]), answer=situation.thing)


def _check(answer: str, text: str) -> bool:
    sentences = re.findall(r"[^.!?]+[.!?]", text)
    words = set(re.findall(r"\w+", text))
    return (
        "".join(sentences) == text
        and len(sentences) == 3
        and sentences[-1].strip() == LAST_SENTENCE
        and answer in words
        and not any(character.isdigit() for character in text)
    )


STORY = Skill(
    name="story",
    kind="tale",
    asks=(
        "Tell what happens next.",
        "Go on in three sentences.",
        "Work on this tale and bring it to a close.",
        "Write how the day of {actor} and {other} ends.",
        "Finish the story.",
        "So what now? Give {actor} a happy end.",
        "Turn this into a bedtime story.",
        "Add some lines that end well.",
        "How does it go on for {actor} and {other}?",
        "Make a small tale of this change.",
        "Let {actor} and {other} part as friends.",
        "Say what becomes of the {thing}.",
        "Return to {actor} and {other} after this.",
        "Put a child to sleep with it.",
    ),
    reply=_reply,
    check=_check,
)
