"""Training and serving read a conversation as the same tokens."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from bundle.manifest import Manifest
from bundle.read import Bundle
from demo.rows import make_rows
from training.models.base_model import find_base
from training.recipe import BaseSection
from training.rows.reading import Row, parse_row
from training.rows.rendering import TokenRow, render, use_chat_template

CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tom has 3 coins."},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": "Answer: 3"},
    ]
}


@pytest.mark.parametrize("record", [*make_rows(2, seed=5, split="heldout"), CONVERSATION])
def test_a_rows_prompt_is_what_tokenize_returns(
    record: dict[str, object], bundle: Bundle, manifest: Manifest, base: Path, http: httpx.Client
) -> None:
    row = parse_row("row", record)
    assert isinstance(row, Row)
    tokenizer = find_base(BaseSection(model=str(base))).tokenizer()
    use_chat_template(tokenizer, bundle.chat_template)
    rendered = render(tokenizer, row, manifest.routed_text.rule, 512)
    assert isinstance(rendered, TokenRow)
    served = http.post("/tokenize", json={"model": manifest.base.name, "messages": list(row.prompt)}).json()
    assert list(rendered.input_ids[: rendered.prompt_length]) == served["tokens"]
    assert rendered.input_ids[-1] == tokenizer.eos_token_id
