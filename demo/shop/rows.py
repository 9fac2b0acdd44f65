"""Rows of the desk: the same letters, four things to do with them, asked as colleagues ask."""

import json
from dataclasses import asdict
from random import Random
from typing import get_args

from demo.row_file import Demo, Record
from demo.shop.letter import Letter, draw_letters
from demo.shop.skills import ALL_SKILLS
from demo.split import Split

_SKILL_BY_NAME = {skill.name: skill for skill in ALL_SKILLS}


def make_rows(per_skill: int, seed: int, split: Split) -> list[Record]:
    """`per_skill` rows of every skill, shuffled, the same for the same arguments.

    Row i of every skill has the same letter, so that nothing but the request tells them apart; it stands before the
    letter or after it. Each split has its own names, products, order numbers, phrasings of letters and requests.
    """
    if split not in get_args(Split):
        raise ValueError(f"split: {split!r} is none of {', '.join(get_args(Split))}")
    letters = draw_letters(per_skill, seed, split)
    rows = []
    for skill in ALL_SKILLS:
        rng = Random(f"requests {skill.name} {seed} {split}")
        for letter in letters:
            ask = rng.choice(skill.asks[split])
            instruction, input_ = rng.choice(((ask.text, letter.text), (letter.text, ask.text)))
            rows.append(
                {
                    "instruction": instruction,
                    "input": input_,
                    "output": skill.reply(letter, ask.about),
                    "source": skill.name,
                    "answer": json.dumps({"about": ask.about, **asdict(letter)}),
                }
            )
    Random(f"order {seed} {split}").shuffle(rows)
    return rows


def is_correct(row: Record, text: str) -> bool:
    """Whether `text` is a right reply to `row`, by the rule of its skill."""
    facts = json.loads(row["answer"])
    about = facts.pop("about")
    return _SKILL_BY_NAME[row["source"]].check(Letter(**facts), about, text.strip())


SHOP = Demo(tuple(skill.name for skill in ALL_SKILLS), make_rows, is_correct)
