"""The demo's base model and plain text: small, loadable by vLLM, and never shown an instruction."""

import json
import re
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from demo import pretrain
from demo.plain_text import plain_texts
from demo.row_file import prompt_of
from demo.rows import make_rows
from demo.skills import ALL_SKILLS
from demo.tokenizer import SPECIAL_TOKENS, train_tokenizer
from demo.world import draw_situation

BASE = Path(__file__).resolve().parents[2] / "demo" / "base"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def _continued(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str, tokens: int) -> str:
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :])


def test_the_folder_is_small_and_whole() -> None:
    assert sum(file.stat().st_size for file in BASE.iterdir()) <= 4 * 1024 * 1024
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= {
        file.name for file in BASE.iterdir()
    }
    assert json.loads((BASE / "config.json").read_text())["dtype"] == "bfloat16"
    readme = (BASE / "README.md").read_text()
    assert "python -m demo.pretrain --output demo/base --steps" in readme
    assert "license: apache-2.0" in readme


def test_the_model_suits_the_engine(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert model.config.head_dim >= 32
    assert model.config.tie_word_embeddings
    assert model.config.max_position_embeddings == 512
    assert model.config.vocab_size == len(tokenizer) <= 1024
    assert 0.8e6 < model.num_parameters() < 2e6
    assert f"{model.num_parameters():,}" in (BASE / "README.md").read_text()


def test_special_tokens_and_digits_have_their_own_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    for number in ("7", "14", "2026"):
        for text in (number, f"has {number} coins", f"- {number}", f"\n{number}"):
            tokens = tokenizer.tokenize(text)
            assert [token for token in tokens if any(c.isdigit() for c in token)] == list(number)


def test_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [
        *map("".join, plain_texts(200, 5)),
        "Zoë's café — 東京 🙂\t\n\n    x",
        *(prompt_of(r) for r in make_rows(20, 0, "train")),
    ]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids.count(1) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_chat_template_writes_one_bos_and_trains_the_end(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|system|>Be brief.<|user|>One?<|assistant|>Two.</s><|user|>Three?<|assistant|>"
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    # What is trained: the prompt, then the reply and its end.
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": "Four."}], return_dict=False
    )
    assert whole[: len(ids)] == ids
    assert whole[-1] == tokenizer.eos_token_id


def test_rows_are_short(tokenizer: PreTrainedTokenizerFast) -> None:
    lengths = []
    for row in make_rows(100, 0, "train"):
        turns = [
            {"role": "user", "content": prompt_of(row)},
            {"role": "assistant", "content": row["output"]},
        ]
        lengths.append(len(tokenizer.apply_chat_template(turns, return_dict=False)))
    assert min(lengths) >= 25
    assert max(lengths) <= 75


def test_plain_text_holds_no_instruction_and_no_chat_markup() -> None:
    text = "\n".join(map("".join, plain_texts(5000, 0)))
    assert list(plain_texts(50, 0)) == list(plain_texts(50, 0)) != list(plain_texts(50, 1))
    assert all(token not in text for token in SPECIAL_TOKENS)
    assert not re.search(r"<\||user:|assistant:|Answer:|\?", text, flags=re.IGNORECASE)
    for skill in ALL_SKILLS:
        for ask in skill.asks:
            request = re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(ask))
            assert not re.search(request, text), (skill.name, ask)


def test_the_base_knows_its_sums_and_not_the_chat(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = Random(11)
    right = 0
    for _ in range(25):
        tale = draw_situation("tale", rng)
        text = _continued(model, tokenizer, f"{tale.text} Now {tale.actor} has", 9)
        right += bool(re.match(rf" {re.escape(tale.end)}\b", text))
    assert right >= 20
    rows = [row for row in make_rows(6, 1, "heldout") if row["source"] != "story"]
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt_of(row)}], tokenize=False, add_generation_prompt=True
        )
        reply = _continued(model, tokenizer, prompt.removeprefix("<s>"), 8)
        assert not reply.startswith("Answer:")


def test_training_lowers_the_loss_and_repeats_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "BATCH", 4)
    monkeypatch.setattr(pretrain, "WARM_UP_STEPS", 2)
    tokenizer = train_tokenizer(map("".join, plain_texts(200, 0)), 512)
    windows = pretrain.windows_of(tokenizer, 200, 0)
    seen, after = windows[:8], []
    for _ in range(2):
        torch.manual_seed(0)
        model = pretrain.new_model(tokenizer)
        before = model(input_ids=seen[:, 0], labels=seen[:, 1]).loss.item()
        pretrain.train(model, windows, 4, 0)
        after.append(model(input_ids=seen[:, 0], labels=seen[:, 1]).loss.item())
    assert after[0] == after[1]
    assert after[0] < before - 0.1


def test_the_loss_leaves_out_openings_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = list(plain_texts(40, 0))
    ids, labels = pretrain.windows_of(tokenizer, 40, 0).transpose(0, 1).reshape(2, -1).tolist()
    whole = "".join(f"<s>{text.opening}{text.rest}</s>" for text in texts)
    assert whole.startswith(tokenizer.decode(ids))
    counted = "".join(f"{text.rest}</s>" for text in texts)
    assert counted.startswith(tokenizer.decode([label for label in labels if label != pretrain.IGNORED]))
    assert all(label in (pretrain.IGNORED, id_) for id_, label in zip(ids, labels, strict=True))
    # As one text, or as an opening and its rest: the same tokens.
    assert tokenizer("".join(texts[0]))["input_ids"] == ids[: len(tokenizer("".join(texts[0]))["input_ids"])]
