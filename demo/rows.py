"""Instruction rows of the demo: `python -m demo.rows --per-skill 400 --split train --output rows.jsonl`.

The paper's Data Mix at the size of a coffee break: skills that share their phrasing and differ in what must
be done, skills that differ in phrasing and must do the same, and a pair that pulls in opposite directions.
"""

import json
from pathlib import Path
from random import Random
from typing import Annotated, get_args

import typer

from demo.skills import ALL_SKILLS, Skill
from demo.world import Situation, Split, draw_situations

SKILLS: tuple[str, ...] = tuple(skill.name for skill in ALL_SKILLS)
END_OF_TURN = "</s>"
_SKILL_BY_NAME = {skill.name: skill for skill in ALL_SKILLS}


def row_of(skill: Skill, situation: Situation, rng: Random) -> dict[str, str]:
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


def make_rows(per_skill: int, seed: int, split: Split) -> list[dict[str, str]]:
    """`per_skill` rows of every skill, shuffled, the same for the same arguments.

    Row i of each skill that draws on tales has the same situation, so that nothing but the request tells
    them apart. A situation's facts fall on one side of the split by their hash: whatever the counts and
    seeds, no facts, and so no prompt, stand on both sides.

    Returns rows with the keys instruction, input (may be ""), output, source (the true skill) and answer
    (what `is_correct` needs).
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


def prompt_of(row: dict[str, str]) -> str:
    """The user's turn of a row: the instruction, then the input on a line of its own if there is one."""
    return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]


def is_correct(row: dict[str, str], text: str) -> bool:
    """Whether `text`, up to the end of its turn, is a right reply to `row` (stories: by a rule)."""
    reply = text.partition(END_OF_TURN)[0].strip()
    return _SKILL_BY_NAME[row["source"]].check(row["answer"], reply)


def main(
    output: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
    per_skill: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of each skill.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 0,
    split: Annotated[
        Split, typer.Option(help="routing: to judge the router. No facts stand on both sides.")
    ] = "train",
) -> None:
    """Write instruction rows of the demo, one JSON object a line."""
    rows = make_rows(per_skill, seed, split)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    typer.echo(f"{len(rows)} rows of {len(SKILLS)} skills ({split}, seed {seed}) in {output}")


if __name__ == "__main__":
    typer.run(main)
