"""Names, products and phrasings, one file for each part of the rows; they share none."""

from demo.shop.words.heldout import HELDOUT
from demo.shop.words.routing import ROUTING
from demo.shop.words.train import TRAIN
from demo.shop.words.words import CATEGORIES, WISHES, Category, Urgency, Wish, Words
from demo.split import Split

WORDS: dict[Split, Words] = {"train": TRAIN, "routing": ROUTING, "heldout": HELDOUT}

__all__ = ["CATEGORIES", "WISHES", "WORDS", "Category", "Urgency", "Wish", "Words"]
