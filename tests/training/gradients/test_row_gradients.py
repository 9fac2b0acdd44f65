"""Per-row gradients against an independent loop: one row at a time, ordinary autograd, a loss made by hand."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import normalize
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tests.stand_ins.tiny_model import PAD, tiny_llama, with_adapter
from training.errors import AdapterRefused, TrainingError
from training.gradients.row_gradients import RowGradients, micro_batches
from training.rows.rendering import TokenRow

ALL_TOGETHER = 1 << 20
ROUNDING = 5e-5  # of float32 through two layers, relative, for the worst row: a float32 loop is as far off


def reference(model: PeftModel, row: TokenRow) -> dict[str, Tensor]:
    """Each LoRA weight's gradient of one row's loss, from the model's own logits."""
    weights = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    for weight in weights.values():
        weight.requires_grad_(True)
    ids = torch.tensor([row.input_ids])  # [1, T]
    logits = model.eval()(input_ids=ids).logits[0]  # [T, V]
    losses = []
    for place in range(row.prompt_length, len(row.input_ids)):
        losses.append(-logits[place - 1].log_softmax(-1)[row.input_ids[place]])
    loss = torch.stack(losses).mean()
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def reference_matrix(model: PeftModel, rows: list[TokenRow], factors: Any) -> Tensor:
    """[n, d], laid out as the factors say."""
    return torch.stack(
        [
            torch.cat([found[f"{factor.name}.weight"].flatten() for factor in factors])
            for found in (reference(model, row) for row in rows)
        ]
    )


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The worst row's error."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.fixture(scope="module")
def adapted() -> PeftModel:
    return with_adapter(tiny_llama())


@pytest.fixture(scope="module")
def expected(adapted: PeftModel, rows: list[TokenRow]) -> Tensor:
    factors = RowGradients(copy.deepcopy(adapted), PAD, 1).factors
    return reference_matrix(copy.deepcopy(adapted).double(), rows, factors).float()


@pytest.mark.parametrize(("budget", "batches"), [(1, 12), (48, 6), (ALL_TOGETHER, 1)])
def test_they_equal_a_loop_over_single_rows_whatever_the_batch(
    adapted: PeftModel, rows: list[TokenRow], expected: Tensor, budget: int, batches: int
) -> None:
    assert len(micro_batches([len(row.input_ids) for row in rows], budget)) == batches
    advanced: list[int] = []
    with RowGradients(adapted, PAD, budget) as source:
        found = source.whole(rows, advanced.append)
        assert found.shape == (len(rows), source.dimension)
    assert len(advanced) == batches
    assert sum(advanced) == len(rows)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < ROUNDING


def test_in_float64_they_are_the_same_to_the_last_digit(rows: list[TokenRow], expected: Tensor) -> None:
    """What float32 leaves is rounding, nothing else."""
    with RowGradients(with_adapter(tiny_llama()).double(), PAD, 100) as source:
        assert relative_error(source.whole(rows), expected) < 1e-6


def test_a_row_with_several_trained_answers_has_the_gradient_of_their_mean(
    adapted: PeftModel, rows: list[TokenRow]
) -> None:
    """Each answer's tokens once, no other token: against autograd over losses that are taken token by token."""
    several = [
        dataclasses.replace(rows[2], earlier=((3, 7), (12, 13))),
        dataclasses.replace(rows[9], earlier=((1, 9),)),
        rows[5],
    ]
    model = copy.deepcopy(adapted).double()
    weights = {name: w.requires_grad_(True) for name, w in model.named_parameters() if "lora_" in name}
    wanted = []
    with RowGradients(adapted, PAD, ALL_TOGETHER) as source:
        found = source.whole(several)
        for row in several:
            trained = [*(place for span in row.earlier for place in range(*span))]
            trained += range(row.prompt_length, len(row.input_ids))
            log_p = model(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
            loss = -sum(log_p[place - 1, row.input_ids[place]] for place in trained) / len(trained)
            grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
            wanted.append(torch.cat([grads[f"{factor.name}.weight"].flatten() for factor in source.factors]))
            assert row.trained_tokens == len(trained)
        whole = source.whole([dataclasses.replace(row, earlier=()) for row in several[:2]])
    assert relative_error(found, torch.stack(wanted).float()) < ROUNDING
    assert relative_error(whole, torch.stack(wanted[:2]).float()) > 0.1  # the mask decides


def test_d_is_every_entry_of_every_a_and_b(adapted: PeftModel) -> None:
    source = RowGradients(adapted, PAD, 1)
    lora = {name: weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name}
    assert {f"{factor.name}.weight" for factor in source.factors} == set(lora)
    assert source.dimension == sum(lora.values())
    assert [factor.start for factor in source.factors] == [0, *(f.stop for f in source.factors[:-1])]
    assert sum(factor.stop - factor.start for factor in source.factors if factor.is_b) == sum(
        size for name, size in lora.items() if "lora_B" in name
    )


def test_the_order_of_the_rows_is_kept(adapted: PeftModel, rows: list[TokenRow], expected: Tensor) -> None:
    order = [5, 0, 11, 3, 8, 1, 10, 2, 9, 4, 7, 6]
    with RowGradients(adapted, PAD, 60) as source:
        found = source.whole([rows[place] for place in order])
    assert relative_error(found, expected[order]) < ROUNDING


def test_they_sum_to_the_gradient_of_the_summed_loss(adapted: PeftModel, rows: list[TokenRow]) -> None:
    """Not one entry is lost or counted twice: a single backward pass of all rows gives their sum."""
    model = copy.deepcopy(adapted)
    weights = {name: w.requires_grad_(True) for name, w in model.named_parameters() if "lora_" in name}
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, row.prompt_length - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(
            logits, torch.tensor(row.input_ids[row.prompt_length :])
        )
    grads = dict(zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True))
    with RowGradients(adapted, PAD, 100) as source:
        summed = source.whole(rows).sum(0, keepdim=True)
        wanted = torch.cat([grads[f"{factor.name}.weight"].flatten() for factor in source.factors])
    assert relative_error(summed, wanted[None]) < ROUNDING


def test_what_stands_in_the_padding_changes_nothing(
    adapted: PeftModel, rows: list[TokenRow], expected: Tensor
) -> None:
    with RowGradients(adapted, 77, ALL_TOGETHER) as source:
        assert relative_error(source.whole(rows), expected) < ROUNDING


def test_dropout_is_off(rows: list[TokenRow], expected: Tensor) -> None:
    model = with_adapter(tiny_llama(), lora_dropout=0.5).train()
    with RowGradients(model, PAD, ALL_TOGETHER) as source:
        assert relative_error(source.whole(rows), expected) < ROUNDING


def test_rank_stabilised_scaling_is_exact_too(rows: list[TokenRow]) -> None:
    """In float64: an adapter that is six times a random one leaves float32, a plain loop's too, few digits."""
    model = with_adapter(tiny_llama(), use_rslora=True).double()
    with RowGradients(copy.deepcopy(model), PAD, 100) as source:
        found = source.whole(rows[:4])
    expected = reference_matrix(model, rows[:4], source.factors).float()
    assert relative_error(found, expected) < 1e-6


def test_a_fresh_adapter_has_no_gradient_in_a(rows: list[TokenRow]) -> None:
    """With B = 0 the gradient of A is zero: why Stage I is not optional."""
    with RowGradients(with_adapter(tiny_llama(), fresh=True), PAD, 100) as source:
        found = source.whole(rows)
        in_a = torch.cat([found[:, f.start : f.stop] for f in source.factors if not f.is_b], dim=1)
        norms = source.contracted(rows, torch.zeros(1, source.dimension))
    assert torch.equal(in_a, torch.zeros_like(in_a))
    assert bool((found.norm(dim=1) > 0).all())
    assert float(norms.squared_norm_a.max()) == 0
    assert float(norms.squared_norm_b.min()) > 0


@pytest.mark.parametrize("budget", [1, 60, ALL_TOGETHER])
def test_contracting_gives_products_and_norms_without_the_gradients(
    adapted: PeftModel, rows: list[TokenRow], expected: Tensor, budget: int
) -> None:
    with RowGradients(adapted, PAD, budget) as source:
        centroids = normalize(
            torch.randn(3, source.dimension, generator=torch.Generator().manual_seed(5)), dim=1
        )
        advanced: list[int] = []
        found = source.contracted(rows, centroids, advanced.append)
        squares = expected.double().square()
        in_b = torch.cat([torch.arange(f.start, f.stop) for f in source.factors if f.is_b])
    assert sum(advanced) == len(rows)
    error = (found.products - expected @ centroids.T).abs() / expected.norm(dim=1, keepdim=True)
    assert float(error.max()) < ROUNDING
    b = squares[:, in_b].sum(1)
    assert torch.allclose(found.squared_norm_b, b, rtol=1e-4)
    assert torch.allclose(found.squared_norm_a, squares.sum(1) - b, rtol=1e-4)


def hook_count(model: PeftModel) -> int:
    return sum(len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules())


def test_it_leaves_no_hook_and_no_gradient_behind(adapted: PeftModel, rows: list[TokenRow]) -> None:
    before = hook_count(adapted)
    with RowGradients(adapted, PAD, 100) as source:
        assert hook_count(adapted) == before + len(source.factors) // 2  # one for A and B of a layer
        source.whole(rows[:3])
    assert hook_count(adapted) == before
    with pytest.raises(RuntimeError, match="in the middle"), RowGradients(adapted, PAD, 100) as source:
        raise RuntimeError("in the middle")
    assert hook_count(adapted) == before
    assert [name for name, weight in adapted.named_parameters() if weight.grad is not None] == []
    assert [name for name, weight in adapted.named_parameters() if weight.requires_grad] == []


def test_the_weights_are_what_they_were(rows: list[TokenRow]) -> None:
    """The adapter is merged while gradients are computed: A and B must not move, the base only by rounding."""
    model = with_adapter(tiny_llama())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with RowGradients(model, PAD, 100) as source:
        source.whole(rows[:3])
        moved = [n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])]
        assert len(moved) == len(source.factors) // 2
    for name, weight in model.state_dict().items():
        if "lora_" in name:
            assert torch.equal(weight, before[name])
        assert torch.allclose(weight, before[name], rtol=0, atol=1e-6)


def test_no_gradient_goes_below_the_first_adapted_layers(rows: list[TokenRow]) -> None:
    """Nothing there has a LoRA weight: the way back to the embeddings would be work for nothing."""
    seen: list[bool] = []
    model = with_adapter(tiny_llama())
    norms = [layer.input_layernorm for layer in model.get_base_model().model.layers]
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    with RowGradients(model, PAD, ALL_TOGETHER) as source:
        source.whole(rows)
    assert seen == [False, True]


@pytest.mark.parametrize("what", ["base", "adapter"])
def test_half_precision_is_refused(what: str) -> None:
    """Merged, most of the adapter would be rounded away."""
    model = with_adapter(tiny_llama())
    for name, weight in model.named_parameters():
        if ("lora_" in name) == (what == "adapter"):
            weight.data = weight.data.bfloat16()
    with pytest.raises(AdapterRefused, match="is bfloat16, and per-row gradients need float32"):
        RowGradients(model, PAD, 1)


def test_a_row_without_a_finite_loss_is_named(rows: list[TokenRow]) -> None:
    model = with_adapter(tiny_llama())
    with torch.no_grad():
        model.get_base_model().get_input_embeddings().weight[700] = float("nan")
    clean = [dataclasses.replace(row, input_ids=tuple(min(i, 699) for i in row.input_ids)) for row in rows]
    broken = dataclasses.replace(
        clean[4], origin="mine.jsonl:17", input_ids=(*clean[4].input_ids[:-2], 700, 9)
    )
    with RowGradients(model, PAD, ALL_TOGETHER) as source:
        assert bool(torch.isfinite(source.whole(clean)).all())
        with pytest.raises(TrainingError, match=r"Row mine\.jsonl:17: its loss is nan"):
            source.whole([*clean[:4], broken, *clean[5:]])


def test_the_head_is_checked_with_the_hooks_on(adapted: PeftModel, rows: list[TokenRow]) -> None:
    with RowGradients(adapted, PAD, 100) as source:
        before = source.whole(rows[:2])
        source.check_head(rows[:4])
        assert torch.equal(source.whole(rows[:2]), before)


def qwen2() -> PreTrainedModel:
    config = Qwen2Config(
        vocab_size=768,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return Qwen2ForCausalLM(config)


def mistral() -> PreTrainedModel:
    config = MistralConfig(
        vocab_size=768,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=6,
        initializer_range=0.2,
    )
    return MistralForCausalLM(config)


@pytest.mark.parametrize("make", [qwen2, mistral])
def test_other_architectures_are_exact_too(make: Any, rows: list[TokenRow]) -> None:
    """Biases in the base and tied embeddings (Qwen2); a sliding window shorter than the rows (Mistral)."""
    torch.manual_seed(0)
    model = with_adapter(make())
    with RowGradients(copy.deepcopy(model), PAD, 100) as source:
        found = source.whole(rows)
    assert relative_error(found, reference_matrix(model, rows, source.factors)) < ROUNDING


def test_a_layer_that_runs_twice_is_refused(rows: list[TokenRow]) -> None:
    """Its two gradients would have to be added; the later would overwrite the earlier."""
    llama = tiny_llama()
    llama.model.layers[1].mlp = llama.model.layers[0].mlp
    with (
        RowGradients(with_adapter(llama), PAD, 100) as source,
        pytest.raises(AdapterRefused, match=r"mlp\..*runs twice in one forward pass"),
    ):
        source.whole(rows)


class TokenList(torch.nn.Module):
    """Feeds a linear layer all tokens of all rows in one list, as the experts of some models do."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def test_tokens_in_one_list_are_told_apart_by_row(rows: list[TokenRow]) -> None:
    llama = tiny_llama()
    llama.model.layers[0].mlp.up_proj = TokenList(llama.model.layers[0].mlp.up_proj)
    model = with_adapter(llama)
    with RowGradients(copy.deepcopy(model), PAD, 100) as source:
        found = source.whole(rows)
    assert relative_error(found, reference_matrix(model, rows, source.factors)) < ROUNDING


class FirstTokens(TokenList):
    """Some tokens only, as one expert sees them: which row is whose can't be said."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x.flatten(0, 1)[:-1])
        return torch.cat([found, found[:1]]).unflatten(0, x.shape[:2])


def test_a_layer_that_mixes_the_rows_is_refused(rows: list[TokenRow]) -> None:
    llama = tiny_llama()
    llama.model.layers[0].mlp.up_proj = FirstTokens(llama.model.layers[0].mlp.up_proj)
    with (
        RowGradients(with_adapter(llama), PAD, 100) as source,
        pytest.raises(AdapterRefused, match=r"up_proj.*not on \[rows, tokens, features\]"),
    ):
        source.whole(rows)


LENGTHS = np.random.default_rng(0).integers(1, 90, size=200).tolist()


@pytest.mark.parametrize("budget", [1, 50, 90, 300, 4096, 1 << 20])
def test_every_place_once_and_no_batch_over_the_budget(budget: int) -> None:
    batches = micro_batches(LENGTHS, budget)
    assert sorted(place for batch in batches for place in batch) == list(range(len(LENGTHS)))
    for batch in batches:
        padded = len(batch) * max(LENGTHS[place] for place in batch)
        assert padded <= budget or len(batch) == 1


def test_rows_of_like_length_stand_together() -> None:
    ends = [(LENGTHS[batch[0]], LENGTHS[batch[-1]]) for batch in micro_batches(LENGTHS, 300)]
    assert all(shortest <= longest for shortest, longest in ends)
    assert all(one[1] <= following[0] for one, following in pairwise(ends))


def test_batches_are_filled() -> None:
    assert [len(batch) for batch in micro_batches([10] * 10, 40)] == [4, 4, 2]
    assert micro_batches([5, 5, 5], 1) == [[0], [1], [2]]
    assert micro_batches([], 100) == []
