"""What a part of the rows is worded with."""

from dataclasses import dataclass
from typing import Literal, get_args

Category = Literal["delivery", "damage", "mixup", "billing"]
Wish = Literal["trace", "replacement", "refund", "invoice"]
Urgency = Literal["high", "normal", "low"]

CATEGORIES: tuple[Category, ...] = get_args(Category)
WISHES: dict[Category, tuple[Wish, Wish]] = {
    "delivery": ("trace", "refund"),
    "damage": ("replacement", "refund"),
    "mixup": ("replacement", "refund"),
    "billing": ("invoice", "refund"),
}
"""What a customer may ask for, by what went wrong: neither says the other."""


@dataclass(frozen=True)
class Words:
    """Names, products and phrasings. Problems name {order} and {product}."""

    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    products: tuple[str, ...]
    problems: dict[Category, tuple[str, ...]]
    wishes: dict[Wish, tuple[str, ...]]
    hurry: dict[Urgency, tuple[str, ...]]
