"""Fingerprints are what Transformers and PEFT say, of each adapter alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bundle.fingerprints import BASE, TOP_TOKENS, Fingerprints, distance
from bundle.manifest import AnswerEnd
from tests.stand_ins.tiny_model import make_random, tiny_llama, with_adapter
from training.bundling.fingerprints import make_fingerprints
from training.models.base_model import BaseModel

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"


@pytest.fixture(scope="module")
def adapters(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("expert-0", "expert-1", "fallback")):
        # The last has fewer modules: what an adapter before it left behind would show.
        modules = ["q_proj"] if name == "fallback" else "all-linear"
        model = with_adapter(tiny_llama(), target_modules=modules)
        make_random(model, seed)
        model.save_pretrained(folder / name)
    shutil.copytree(folder / "expert-1", folder / "twin")
    shutil.copytree(folder / "expert-1", folder / "zeroed")
    weights = folder / "zeroed" / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(weights).items()}, weights)
    return {path.name: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(base: BaseModel, adapters: dict[str, Path]) -> Fingerprints:
    return make_fingerprints(base, TEMPLATE, adapters, AnswerEnd(token_ids=(2,)))


def test_each_is_what_a_fresh_model_with_that_adapter_alone_says(
    made: Fingerprints, base: BaseModel, adapters: dict[str, Path]
) -> None:
    tokenizer = base.tokenizer()
    for name, fingerprint in made.all.items():
        model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
        if name != BASE:
            model = PeftModel.from_pretrained(model, adapters[name])
        for prompt, entry in zip(made.prompts, fingerprint, strict=True):
            assert prompt.text.startswith("<|user|>")
            assert prompt.text.endswith("<|assistant|>")
            ids = tokenizer(prompt.text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            assert tuple(ids[0].tolist()) == prompt.token_ids
            with torch.inference_mode():
                expected = model.eval()(input_ids=ids).logits[0, -1].log_softmax(-1)
            top = expected.topk(TOP_TOKENS)
            assert entry.token_ids == tuple(top.indices.tolist()), name
            assert entry.logprobs == pytest.approx(top.values.tolist(), abs=2e-5), name


def test_what_nobody_could_tell_apart_is_said(made: Fingerprints) -> None:
    alike = {(one, other) for one, other, _ in made.alike("float32")}
    assert alike == {(BASE, "zeroed"), ("expert-1", "twin")}
    assert len(made.warnings("float32")) == 2
    assert distance(made.base, made.adapters["expert-0"]) > 0.1


def test_the_file_gives_back_the_same(made: Fingerprints, tmp_path: Path) -> None:
    made.write(tmp_path)
    assert Fingerprints.model_validate_json((tmp_path / "fingerprints.json").read_bytes()) == made
