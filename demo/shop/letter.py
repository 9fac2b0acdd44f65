"""A customer's letter to the shop: who, which order, what went wrong, what is wanted, how soon."""

from dataclasses import dataclass
from random import Random
from typing import get_args

from demo.shop.words import CATEGORIES, WISHES, WORDS, Category, Urgency, Wish
from demo.split import Split

_PARTS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Letter:
    """What a letter says, and its words."""

    customer: str
    order: int
    product: str
    category: Category
    wish: Wish
    urgency: Urgency
    text: str


def draw_letter(rng: Random, split: Split) -> Letter:
    """A letter in the words of `split`, with an order number of its own third of all numbers."""
    words = WORDS[split]
    customer = f"{rng.choice(words.first_names)} {rng.choice(words.last_names)}"
    product = rng.choice(words.products)
    order = 3 * rng.randint(400, 3200) + _PARTS.index(split)
    category = rng.choice(CATEGORIES)
    wish = rng.choice(WISHES[category])
    urgency = rng.choice(tuple(words.hurry))
    problem = rng.choice(words.problems[category]).format(order=order, product=product)
    said = [problem, rng.choice(words.wishes[wish]), rng.choice(words.hurry[urgency])]
    if rng.random() < 0.5:
        said[1:] = reversed(said[1:])
    text = f"{' '.join(filter(None, said))} {customer}"
    return Letter(customer, order, product, category, wish, urgency, text)


def draw_letters(count: int, seed: int, split: Split) -> list[Letter]:
    """`count` letters, no two of one order, the same for the same arguments."""
    rng = Random(f"letters {seed} {split}")
    found: dict[int, Letter] = {}
    while len(found) < count:
        letter = draw_letter(rng, split)
        found.setdefault(letter.order, letter)
    return list(found.values())
