"""Simple finance: what a firm has after a cost or an income.

Other words than arithmetic's, and the same thing to do: the same sums, the same form of answer.
"""

from demo.skills.skill import Skill, sum_check, sum_reply

FINANCE = Skill(
    name="finance",
    kind="account",
    asks=(
        "What is the balance?",
        "State the net figure.",
        "How much does {actor} have now?",
        "What remains?",
        "Work out the result.",
        "Where does the account end?",
        "Report what is left for the firm.",
        "Give the sum after that.",
        "Tell the board the final number.",
        "Close the books of {actor}.",
        "So how much is on hand?",
        "Write the next line of the report.",
    ),
    reply=lambda situation, rng: sum_reply(situation.end),
    check=sum_check,
)
