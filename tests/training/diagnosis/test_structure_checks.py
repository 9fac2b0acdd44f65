"""Faults of structure: each fails its own check, by name, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from tests.stand_ins.sick_models import BUDGET, ROWS, failed
from tests.stand_ins.tiny_model import PAD, VOCABULARY, tiny_llama, with_adapter
from training.diagnosis.diagnosis import diagnose, require_healthy
from training.diagnosis.properties import Property


def compiled(model: PeftModel) -> PeftModel:
    blocks = model.get_base_model().model.layers
    blocks[1] = torch.compile(blocks[1])
    return model


def compiled_in_place(model: PeftModel) -> PeftModel:
    model.get_base_model().model.layers[1].compile()
    return model


class Linear4bit(nn.Linear):
    """Stands in for the class of bitsandbytes."""


class FSDPModule:
    """Stands in for the class that `fully_shard` mixes into a module's own."""


class FSDPLlamaMLP(FSDPModule, nn.Module):
    pass


def quantised(model: PeftModel) -> PeftModel:
    model.get_base_model().lm_head = Linear4bit(64, VOCABULARY, bias=False)
    return model


def sharded(model: PeftModel) -> PeftModel:
    model.get_base_model().model.layers[0].mlp.act_fn = FSDPLlamaMLP()
    return model


class PackedWeight(nn.Parameter):
    """Stands in for the tensors that quantisation libraries put in a weight's place."""


def packed(model: PeftModel) -> PeftModel:
    model.get_base_model().lm_head.weight = PackedWeight(torch.zeros(VOCABULARY, 64), requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (compiled, r"layers\.1 \(OptimizedModule: torch\.compile\)"),
        (compiled_in_place, r"layers\.1 \(LlamaDecoderLayer: torch\.compile\)"),
        (quantised, r"lm_head \(Linear4bit: 4-bit quantisation\)"),
        (sharded, r"act_fn \(FSDPLlamaMLP: FSDP\)"),
        (packed, r"lm_head \(Linear: a weight that is no plain tensor\)"),
    ],
)
def test_a_wrapped_module_is_refused_by_name(change: Callable[[PeftModel], PeftModel], named: str) -> None:
    check = failed(change(with_adapter(tiny_llama())))
    assert (check.check, check.value) == (Property.WRAPPED.title, 1)
    assert re.search(named, check.meaning)


def test_a_whole_model_that_is_compiled_is_refused() -> None:
    check = failed(torch.compile(with_adapter(tiny_llama())))  # type: ignore[arg-type]
    assert (check.check, check.value) == (Property.WRAPPED.title, 1)
    assert "the model (OptimizedModule" in check.meaning


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens: .*embedding or head"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head: .*embedding or head"),
    ],
)
def test_what_the_adapter_check_refuses_is_a_failed_check(changes: dict[str, Any], sentence: str) -> None:
    tied = tiny_llama(tie_word_embeddings=True)
    check = failed(with_adapter(tied, fresh=True, **changes))
    assert (check.check, check.value) == (Property.ADAPTER.title, 1)
    assert re.search(sentence, check.meaning)


def test_one_lora_weight_in_two_modules_is_found() -> None:
    model = with_adapter(tiny_llama())
    first, second = (block.self_attn.q_proj for block in model.get_base_model().model.layers)
    second.lora_A["default"].weight = first.lora_A["default"].weight
    check = failed(model)
    assert (check.check, check.value) == (Property.SHARED.title, 1)
    assert "layers.0.self_attn.q_proj.lora_A.default.weight = " in check.meaning
    assert "layers.1.self_attn.q_proj.lora_A.default.weight" in check.meaning


def test_one_adapted_module_in_two_places_is_found() -> None:
    llama = tiny_llama()
    llama.model.layers[1].mlp = llama.model.layers[0].mlp
    check = failed(with_adapter(llama))
    assert (check.check, check.value) == (Property.SHARED.title, 6)  # A and B of its three linear layers


def test_bfloat16_weights_are_counted() -> None:
    model = with_adapter(tiny_llama())
    model.get_base_model().model.layers[0].mlp.to(torch.bfloat16)
    check = failed(model)
    assert check.check == Property.FLOAT32.title
    assert check.value == sum(1 for _ in model.get_base_model().model.layers[0].mlp.parameters()) == 9
    assert "(bfloat16)" in check.meaning


@contextmanager
def rounded_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def tf32_by_the_new_setting() -> Iterator[None]:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (rounded_products, "float32_matmul_precision is high"),
        (tf32_by_the_new_setting, "float32_matmul_precision is set apart"),
        (lambda: torch.autocast("cpu", torch.bfloat16), "autocast to torch.bfloat16 is on"),
    ],
)
def test_rounded_products_are_refused(fault: Callable[[], Any], named: str) -> None:
    model = with_adapter(tiny_llama())
    with fault():
        check = failed(model)
    assert (check.check, check.value) == (Property.PRODUCTS.title, 1)
    assert named in check.meaning
    require_healthy(diagnose(model, ROWS, PAD, BUDGET))


class AlwaysTraining(nn.Dropout):
    def train(self, mode: bool = True) -> AlwaysTraining:
        return super().train(True)  # type: ignore[return-value]


def test_a_module_that_stays_in_training_mode_is_named() -> None:
    model = with_adapter(tiny_llama())
    layer = model.get_base_model().model.layers[1].self_attn.v_proj
    layer.lora_dropout["default"] = AlwaysTraining(0.1)
    check = failed(model)
    assert (check.check, check.value) == (Property.EVALUATION.title, 1)
    assert "layers.1.self_attn.v_proj.lora_dropout.default" in check.meaning


class FirstTokens(nn.Module):
    """Feeds a linear layer some tokens only, as one expert sees them: which row is whose can't be said."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        some = self.inner(x.flatten(0, 1)[:-1])
        return torch.cat([some, some[:1]]).unflatten(0, x.shape[:2])


def test_what_the_hooks_refuse_is_a_failed_check() -> None:
    llama = tiny_llama()
    llama.model.layers[0].mlp.up_proj = FirstTokens(llama.model.layers[0].mlp.up_proj)
    check = failed(with_adapter(llama))
    assert check.check == Property.ADAPTER.title
    assert "not on [rows, tokens, features]" in check.meaning
