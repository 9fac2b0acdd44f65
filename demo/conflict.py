"""Rows whose interference is known by construction, with a dial for it.

Two surfaces (tales of people, accounts of firms) times two things to do: `plain` asks for the sum, `opposite` for the
sum had the change gone the other way. `conflict` is the share of the things and months on which the opposite really
differs: at 0 both ask for the same in other words, at 1 every prompt of one has the opposite answer of the other's.
Rows i of both have the same situation, so nothing but the request tells them apart. The surface is what a text
shows first, and says nothing of what to do: whoever groups rows by their text is led astray.
"""

from random import Random

from demo.rows import row_of
from demo.skills import ARITHMETIC, FINANCE, REVERSAL, Skill
from demo.skills.skill import sum_check, sum_reply
from demo.split import Split
from demo.world import MONTHS, THINGS, Kind, Situation, draw_situations

PLAIN, OPPOSITE = "plain", "opposite"
SURFACES: tuple[Kind, ...] = ("tale", "account")

# As FINANCE's requests, with the change read backwards.
_OPPOSITE_OF_ACCOUNTS = (
    "What is the balance if the change is read backwards?",
    "State the net figure after the opposite entry.",
    "How much would {actor} have had it gone the other way?",
    "What remains if the sign is wrong?",
    "Swap gain and loss, then work out the result.",
    "Where does the account end if plus is minus?",
    "Report what is left for the firm in the reverse case.",
    "Give the sum after undoing it twice.",
    "Tell the board the inverse number.",
    "Close the books of {actor} upside down.",
    "Suppose the reverse: how much is on hand?",
    "Write the next line of the report in a mirror.",
)
_ASKS: dict[tuple[Kind, str], tuple[str, ...]] = {
    ("tale", PLAIN): ARITHMETIC.asks,
    ("tale", OPPOSITE): REVERSAL.asks,
    ("account", PLAIN): FINANCE.asks,
    ("account", OPPOSITE): _OPPOSITE_OF_ACCOUNTS,
}


def make_conflict_rows(per_skill: int, conflict: float, seed: int, split: Split) -> list[dict[str, str]]:
    """`per_skill` rows of each of the four combinations, shuffled, the same for the same arguments.

    Returns rows as `demo.rows.make_rows` does; source is what must be done, `plain` or `opposite`.

    Raises:
        ValueError: conflict is not a share.

    """
    if not 0 <= conflict <= 1:
        raise ValueError(f"conflict: {conflict} is no share from 0 to 1")
    rows = []
    for kind in SURFACES:
        situations = draw_situations(kind, per_skill, seed, split)
        for name in (PLAIN, OPPOSITE):
            rng = Random(f"conflict {kind} {name} {seed} {split}")
            skill = _skill(kind, name, conflict)
            rows += [row_of(skill, situation, rng) for situation in situations]
    Random(f"conflict order {seed} {split}").shuffle(rows)
    return rows


def differs(situation: Situation, conflict: float) -> bool:
    """Whether plain and opposite want different answers to this situation."""
    place = THINGS.index(situation.thing) if situation.kind == "tale" else MONTHS.index(situation.other)
    return place < round(conflict * 12)


def _skill(kind: Kind, name: str, conflict: float) -> Skill:
    return Skill(
        name=name,
        kind=kind,
        asks=_ASKS[kind, name],
        reply=lambda situation, rng: sum_reply(
            situation.reversed_end if name == OPPOSITE and differs(situation, conflict) else situation.end
        ),
        check=sum_check,
    )
