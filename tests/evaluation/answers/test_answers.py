from __future__ import annotations

from pathlib import Path

from demo.rows import make_rows
from evaluation.answers.engines import greedy_answers
from training.models.base_model import find_base
from training.recipe import BaseSection
from training.rows.answer_end import ends_of
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
    alone = [greedy_answers(base, tokenizer, None, [prompt], 12)[0] for prompt in prompts]
    assert greedy_answers(base, tokenizer, None, prompts, 12) == alone
    assert len(set(alone)) > 1


def test_an_answer_is_over_where_the_template_ends_a_turn() -> None:
    base = find_base(BaseSection(model=str(ROOT / "demo" / "base"), dtype="float32"))
    tokenizer = base.tokenizer()
    use_chat_template(tokenizer, None)
    prompt = prompt_ids(tokenizer, ({"role": "user", "content": "Tell me of the coins."},))
    (whole,) = greedy_answers(base, tokenizer, None, [prompt], 12)
    first, second, word, *_ = tokenizer.encode(whole, add_special_tokens=False)
    end = tokenizer.convert_ids_to_tokens(word)
    # The template's own end of a turn is now a token that the base writes third; its end of text stays what it was.
    tokenizer.add_special_tokens({"additional_special_tokens": [end]})
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}" + end + "{% endfor %}"
    (short,) = greedy_answers(base, tokenizer, None, [prompt], 12)
    assert short == tokenizer.decode([first, second])
    assert set(ends_of(tokenizer)) == {word, tokenizer.eos_token_id}
