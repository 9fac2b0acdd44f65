"""The small world of the demo: people, things, firms, and the situations they get into.

Four skills draw on the same *tales* ("Tom has 14 coins. He gives 5 to Mia."), one on *accounts* ("Orion
earned 14 in May. Rent cost 5."). A tale and an account hold the same facts: a start, a change, a direction.
The result of a situation is the sum that gives it ("14 - 5"): a model of about a million parameters can learn
which sum that is, from words, and not what it comes to.
"""

from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal

from demo.split import Split

MAX_START = 20
MAX_CHANGE = 9

HE = ("Tom", "Ben", "Sam", "Max", "Leo", "Omar", "Ravi", "Hugo")
SHE = ("Mia", "Ana", "Zoe", "Eva", "Lily", "Nora", "Ines", "Rosa")
PEOPLE = HE + SHE
THINGS = (
    "coins", "apples", "books", "cards", "stones", "shells",
    "keys", "maps", "cakes", "rings", "shares", "tickets",
)  # fmt: skip
FIRMS = (
    "Orion", "Delta", "Acme", "Nova", "Apex", "Vega", "Zenith", "Pico", "Lumen", "Atlas",
    "Cobalt", "Ember", "Quill", "Tango", "Mesa", "Harbor", "Onyx", "Summit", "Falcon", "Cedar",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip

# No word may stand in most of the tales, or its absence would give the accounts away (tests measure that).
TALE_OPENINGS = (
    "{actor} has {start} {thing}.",
    "{actor} owns {start} {thing}.",
    "There are {start} {thing} in the bag of {actor}.",
    "{actor} starts with {start} {thing}.",
    "In May {actor} counts {start} {thing}.",
    "At home {actor} keeps {start} {thing}.",
)
TALE_LOSSES = (
    "{he} gives {change} to {other}.",
    "{other} takes {change} of them.",
    "{change} go to {other}.",
    "{he} sells {change} to {other}.",
    "{other} wins {change} from {him}.",
    "It costs {him} {change} to please {other}.",
)
TALE_GAINS = (
    "{other} gives {him} {change} more.",
    "{he} takes {change} more from {other}.",
    "{change} more come from {other}.",
    "{he} buys {change} from {other}.",
    "{he} wins {change} from {other}.",
    "{other} adds {change} to them.",
)
ACCOUNT_OPENINGS = (
    "{actor} earned {start} in {other}.",
    "In {other} {actor} has {start} in the bank.",
    "Revenue of {actor} for {other}: {start}.",
    "The {other} budget of {actor} is {start}.",
    "{actor} starts {other} with {start} million.",
    "Sales at {actor} come to {start} in {other}.",
)
ACCOUNT_LOSSES = (
    "Rent costs {change}.",
    "It spends {change} on wages.",
    "A tax of {change} falls due.",
    "{change} go to the lender.",
    "Costs come to {change}.",
    "It writes off {change}.",
)
ACCOUNT_GAINS = (
    "A client pays {change} more.",
    "Then a loan adds {change}.",
    "A grant of {change} comes in.",
    "It books {change} of interest.",
    "{change} more come from a partner.",
    "It gets {change} back from the state.",
)

Kind = Literal["tale", "account"]
_TEST_SEED = 1
_TEST_MOST = 2000


@dataclass(frozen=True)
class Situation:
    """A start, a change and its direction, with who and what, told in two sentences.

    Of a tale, `actor` and `other` are people; of an account, `actor` is a firm and `other` a month.
    """

    kind: Kind
    actor: str
    other: str
    thing: str
    start: int
    change: int
    gain: bool
    text: str

    @property
    def end(self) -> str:
        """The count after the change, as the sum that gives it."""
        return f"{self.start} {'+' if self.gain else '-'} {self.change}"

    @property
    def reversed_end(self) -> str:
        """The sum, had the change gone the other way."""
        return f"{self.start} {'-' if self.gain else '+'} {self.change}"

    @property
    def facts(self) -> str:
        """What the situation says, whatever its words; every one of these facts shows in `text`."""
        sign = "+" if self.gain else "-"
        return f"{self.kind} {self.actor} {self.other} {self.thing} {self.start} {sign}{self.change}"

    @property
    def side(self) -> Literal["train", "heldout"]:
        """The side of the train / held-out partition the facts fall on: a hash, so no seed can move it."""
        return "heldout" if sha256(self.facts.encode()).digest()[0] % 3 == 0 else "train"

    def fill(self, template: str) -> str:
        """`template` with the fields of the situation, {end}, {reversed_end}, {he} and {him} filled in."""
        he, him = ("he", "him") if self.actor in HE else ("she", "her") if self.actor in SHE else ("it", "it")
        filled = template.format(
            actor=self.actor,
            other=self.other,
            thing=self.thing,
            start=self.start,
            change=self.change,
            end=self.end,
            reversed_end=self.reversed_end,
            he=he.capitalize() if template.startswith("{he}") else he,
            him=him,
        )
        return filled[0].upper() + filled[1:]


def _numbers(rng: Random) -> tuple[int, int, bool]:
    """A start, a smaller change and a direction: every end and reversed end is from 1 to 29."""
    start = rng.randint(2, MAX_START)
    return start, rng.randint(1, min(MAX_CHANGE, start - 1)), rng.random() < 0.5


def _told(kind: Kind, who: tuple[str, str, str], rng: Random) -> Situation:
    """The situation of `who` (actor, other, thing) with numbers and words drawn from `rng`."""
    openings, gains, losses = {
        "tale": (TALE_OPENINGS, TALE_GAINS, TALE_LOSSES),
        "account": (ACCOUNT_OPENINGS, ACCOUNT_GAINS, ACCOUNT_LOSSES),
    }[kind]
    start, change, gain = _numbers(rng)
    untold = Situation(kind, *who, start=start, change=change, gain=gain, text="")
    text = f"{untold.fill(rng.choice(openings))} {untold.fill(rng.choice(gains if gain else losses))}"
    return Situation(kind, *who, start=start, change=change, gain=gain, text=text)


def draw_situation(kind: Kind, rng: Random) -> Situation:
    """A tale of two people and a thing, or an account of a firm in a month."""
    if kind == "account":
        return _told("account", (rng.choice(FIRMS), rng.choice(MONTHS), "money"), rng)
    actor, other = rng.sample(PEOPLE, 2)
    return _told("tale", (actor, other, rng.choice(THINGS)), rng)


def draw_situations(kind: Kind, count: int, seed: int, split: Split) -> list[Situation]:
    """`count` situations of `split`, no two with the same facts, the same for the same arguments.

    `routing` is the held-out side without the first 2,000 facts of its seed 1, which tests of the experts ask.
    """
    rng = Random(f"situations {kind} {seed} {split}")
    side = "train" if split == "train" else "heldout"
    asked = draw_situations(kind, _TEST_MOST, _TEST_SEED, "heldout") if split == "routing" else ()
    elsewhere = {situation.facts for situation in asked}
    found: dict[str, Situation] = {}
    while len(found) < count:
        situation = draw_situation(kind, rng)
        if situation.side == side and situation.facts not in elsewhere:
            found.setdefault(situation.facts, situation)
    return list(found.values())
