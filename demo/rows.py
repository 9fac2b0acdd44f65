"""Instruction rows of the demo: `python -m demo.rows --per-skill 400 --split train --output rows.jsonl`.

The paper's Data Mix at the size of a coffee break: skills that share their phrasing and differ in what must
be done, skills that differ in phrasing and must do the same, and a pair that pulls in opposite directions.
"""

from random import Random
from typing import get_args

from demo.row_file import Demo, Record, run_command
from demo.skills import ALL_SKILLS, Skill
from demo.split import Split
from demo.world import Situation, draw_situations

SKILLS: tuple[str, ...] = tuple(skill.name for skill in ALL_SKILLS)
END_OF_TURN = "</s>"
_SKILL_BY_NAME = {skill.name: skill for skill in ALL_SKILLS}


def row_of(skill: Skill, situation: Situation, rng: Random) -> Record:
    """One row; the request stands before the situation, after it, or apart from it as the instruction."""
    ask = situation.fill(rng.choice(skill.asks))
    instruction, input_ = rng.choice(
        ((f"{situation.text} {ask}", ""), (f"{ask} {situation.text}", ""), (ask, situation.text))
    )
    reply = skill.reply(situation, rng)
    return {
        "instruction": instruction,
        "input": input_,
        "output": reply.output,
        "source": skill.name,
        "answer": reply.answer,
    }


def make_rows(per_skill: int, seed: int, split: Split) -> list[Record]:
    """`per_skill` rows of every skill, shuffled, the same for the same arguments.

    Row i of each skill that draws on tales has the same situation, so that nothing but the request tells
    them apart. A situation's facts fall on one side of the split by their hash: whatever the counts and
    seeds, no facts, and so no prompt, stand on both sides.
    """
    if split not in get_args(Split):
        raise ValueError(f"split: {split!r} is none of {', '.join(get_args(Split))}")
    rows = []
    for skill in ALL_SKILLS:
        rng = Random(f"rows {skill.name} {seed} {split}")
        situations = draw_situations(skill.kind, per_skill, seed, split)
        rows += [row_of(skill, situation, rng) for situation in situations]
    Random(f"order {seed} {split}").shuffle(rows)
    return rows


def is_correct(row: Record, text: str) -> bool:
    """Whether `text`, up to the end of its turn, is a right reply to `row` (stories: by a rule)."""
    reply = text.partition(END_OF_TURN)[0].strip()
    return _SKILL_BY_NAME[row["source"]].check(row["answer"], reply)


TALES = Demo(SKILLS, make_rows, is_correct)


if __name__ == "__main__":
    run_command(TALES)
