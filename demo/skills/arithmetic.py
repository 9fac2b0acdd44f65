"""Arithmetic in words: the sum that gives how many there are after the change."""

from demo.skills.skill import Skill, sum_check, sum_reply

ARITHMETIC = Skill(
    name="arithmetic",
    kind="tale",
    asks=(
        "How many {thing} does {actor} have now?",
        "How many {thing} are with {actor} after that?",
        "Count what {actor} holds at the end.",
        "What number of {thing} is left with {actor}?",
        "Give the total after this change.",
        "Work out what {actor} has once the story ends.",
        "Return the count {he} holds now.",
        "So what does {actor} own in the end?",
        "It is the turn of {other} to ask: how many now?",
        "Tell {other} the final number.",
        "Write the sum {actor} ends up with.",
        "Which value comes next for {actor}?",
        "Let {other} know what remains.",
        "Make a balance for {actor}.",
    ),
    reply=lambda situation, rng: sum_reply(situation.end),
    check=sum_check,
)
