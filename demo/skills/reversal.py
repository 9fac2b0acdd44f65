"""Reversal: the sum for how many there would be, had the change gone the other way.

The same tales as arithmetic, the same words around the request, the same form of answer, and the opposite
thing to do: where arithmetic must add, reversal must subtract. This is the pair that pulls one adapter apart.
"""

from demo.skills.skill import Skill, sum_check, sum_reply

REVERSAL = Skill(
    name="reversal",
    kind="tale",
    asks=(
        "Suppose the reverse: how many {thing} does {actor} have?",
        "If it went the other way, how many {thing} are with {actor}?",
        "Swap gain and loss, then count what {actor} holds.",
        "Read the change backwards. What number is left?",
        "Give a total after the opposite change.",
        "Flip more and less. Work out what {actor} has once the story ends.",
        "Return the count {he} holds if time runs back.",
        "Turn plus into minus and minus into plus. So what does {actor} own?",
        "Put {actor} and {other} in place of each other: how many now?",
        "Tell {other} the final number of the inverse.",
        "Write the sum {actor} ends up with if all is undone twice.",
        "Which value comes next if a mirror shows the move?",
        "Let a sign be wrong. What remains?",
        "Make a balance upside down for {actor}.",
    ),
    reply=lambda situation, rng: sum_reply(situation.reversed_end),
    check=sum_check,
)
