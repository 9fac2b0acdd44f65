from __future__ import annotations

from pathlib import Path

from demo.rows import make_rows
from evaluation.answers.engines import greedy_answers
from training.models.base_model import find_base
from training.recipe import BaseSection
from training.rows.reading import Row, parse_row
from training.rows.rendering import prompt_ids, use_chat_template

ROOT = Path(__file__).parents[3]


def test_answers_do_not_depend_on_their_batch_and_keep_their_order() -> None:
    base = find_base(BaseSection(model=str(ROOT / "demo" / "base"), dtype="float32"))
    tokenizer = base.tokenizer()
    use_chat_template(tokenizer, None)
    rows = [parse_row("row", record) for record in make_rows(2, seed=3, split="heldout")]
    prompts = [prompt_ids(tokenizer, row.prompt) for row in rows if isinstance(row, Row)]
    assert len({len(prompt) for prompt in prompts}) > 1
    alone = [greedy_answers(base, None, [prompt], 12)[0] for prompt in prompts]
    assert greedy_answers(base, None, prompts, 12) == alone
    assert len(set(alone)) > 1
