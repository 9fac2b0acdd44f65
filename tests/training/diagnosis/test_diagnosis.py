"""Each check against a model with exactly the fault that it is for: that one fails, with its number, and no other."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

import training.diagnosis.diagnosis
from tests.stand_ins.sick_models import BUDGET, ROWS, SHORTEST, by_name, failed, gradient, patched, relative
from tests.stand_ins.tiny_model import PAD, tiny_llama, token_row, with_adapter
from training.diagnosis.diagnosis import diagnose, diagnose_base, require_healthy
from training.diagnosis.properties import AGREEMENT, Property
from training.gradients.row_gradients import RowGradients


def test_a_healthy_model_passes_everything_and_nothing_is_left_behind() -> None:
    model = with_adapter(tiny_llama())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    checks = diagnose(model, ROWS, PAD, BUDGET)
    expected = [checked.title for checked in Property]
    if not torch.cuda.is_available():
        expected.remove(Property.TF32.title)
    assert [check.check for check in checks] == expected
    required = [
        check for check in checks if check.check not in (Property.BFLOAT16.title, Property.TF32.title)
    ]
    assert [check.check for check in required if check.passed is not True] == []
    require_healthy(checks)
    found = by_name(checks)
    for checked in (Property.HOOKS, Property.PADDING, Property.BATCH, Property.PRECISION):
        value = found[checked.title].value
        assert value is not None
        assert 0 < value < 1e-4  # rounding is there, and far below the limit: the numbers are measured ones
    assert "5 of 5 rows shared one" in found[Property.BATCH.title].meaning
    shares = [found[checked.title].value for checked in (Property.WARM, Property.A_SET)]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    for (
        name,
        weight,
    ) in model.state_dict().items():  # the adapter was merged and unmerged on the way: rounding
        assert torch.allclose(weight, before[name], rtol=1e-5, atol=1e-6), name
        assert weight.dtype == torch.float32
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == []
    assert [name for name, module in model.named_modules() if module._forward_hooks] == []
    with RowGradients(model, PAD, BUDGET) as source:  # Stage II goes on with the same model
        assert bool(source.whole(ROWS).isfinite().all())


def test_bfloat16_is_information() -> None:
    """As far off as an autocast loop made by hand, and no failure."""
    model = with_adapter(tiny_llama())
    check = by_name(diagnose(model, ROWS, PAD, BUDGET))[Property.BFLOAT16.title]
    truth = [gradient(copy.deepcopy(model).double(), [row]).float() for row in SHORTEST]
    with torch.autocast("cpu", torch.bfloat16):
        low = [gradient(copy.deepcopy(model), [row]) for row in SHORTEST]
    errors = [relative(one, other) for one, other in zip(low, truth, strict=True)]
    assert check.passed is None
    assert check.value is not None
    assert check.value > check.limit == AGREEMENT
    assert check.value == pytest.approx(max(errors), rel=0.2)


def test_an_ordinary_dropout_is_off_in_stage_two() -> None:
    model = with_adapter(tiny_llama(), lora_dropout=0.5).train()
    assert by_name(diagnose(model, ROWS, PAD, BUDGET))[Property.DROPOUT.title].value == 0


def test_dropout_that_evaluation_mode_leaves_on_is_found() -> None:
    torch.manual_seed(0)
    model = patched(lambda x: torch.nn.functional.dropout(x, 0.1, training=True))
    check = failed(model)
    assert check.check == Property.DROPOUT.title
    assert check.value is not None
    assert check.value > 0.1


def test_a_fresh_adapter_is_not_warmed_up() -> None:
    check = failed(with_adapter(tiny_llama(), fresh=True))
    assert (check.check, check.value) == (Property.WARM.title, 0.0)
    assert "Stage I" in check.advice


def test_an_a_of_zeros_is_found() -> None:
    model = with_adapter(tiny_llama())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A" in name:
                weight.zero_()
    check = failed(model)
    assert (check.check, check.value) == (Property.A_SET.title, 0.0)


def test_both_zero_leaves_no_row_a_gradient() -> None:
    model = with_adapter(tiny_llama())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.zero_()
    check = failed(model)
    assert (check.check, check.value) == (Property.ROWS.title, len(ROWS))


def test_a_row_without_a_number_is_named() -> None:
    model = with_adapter(tiny_llama())
    with torch.no_grad():
        model.get_base_model().get_input_embeddings().weight[700] = float("nan")
    clean = [dataclasses.replace(row, input_ids=tuple(min(i, 699) for i in row.input_ids)) for row in ROWS]
    require_healthy(diagnose(model, clean, PAD, BUDGET))
    ids = (*clean[3].input_ids[:-2], 700, 9)
    clean[3] = dataclasses.replace(clean[3], origin="mine.jsonl:17", input_ids=ids)
    check = failed(model, clean)
    assert (check.check, check.value) == (Property.ROWS.title, 1)
    assert "Row mine.jsonl:17: its loss is nan" in check.meaning


def test_a_row_without_a_gradient_is_named() -> None:
    """Its last block's output is cut to a constant: a loss there is, a gradient is not."""
    model = with_adapter(tiny_llama())
    base = model.get_base_model()
    norm = base.model.norm.forward
    silent = ROWS[2].input_ids[0]
    seen: list[Tensor] = []
    base.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    base.model.norm.forward = lambda x: norm(x * (seen[-1][:, :1, None] != silent))
    check = failed(model)
    assert (check.check, check.value) == (Property.ROWS.title, 1)
    assert f"Row {ROWS[2].origin}: the norm of its gradient is 0.0" in check.meaning


class ScaledLogits(LlamaForCausalLM):
    """A head that looks at the tokens, too."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * torch.where(kwargs["input_ids"] == PAD, 1.0, 0.9)[..., None]
        return output


def test_a_head_with_hidden_scaling_is_found() -> None:
    model = with_adapter(ScaledLogits(tiny_llama().config))
    check = failed(model)
    assert check.check == Property.HEAD.title
    errors = []
    for row in ROWS:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids])).logits[0, row.prompt_length - 1 : -1]
        wanted = torch.tensor(row.input_ids[row.prompt_length :])
        theirs = float(cross_entropy(logits, wanted))
        errors.append(abs(float(cross_entropy(logits / 0.9, wanted)) - theirs) / theirs)
    assert check.value == pytest.approx(max(errors), rel=1e-3)
    assert check.value > 10 * check.limit


def test_a_lora_weight_used_elsewhere_is_found() -> None:
    """A second use that runs through no module, so that no hook sees it."""
    model = with_adapter(tiny_llama())
    layer = model.get_base_model().model.layers[0].self_attn.o_proj
    b, a = layer.lora_B["default"], layer.lora_A["default"]
    forward = layer.forward
    layer.forward = lambda x: (
        forward(x) + 0.1 * nn.functional.linear(nn.functional.linear(x, a.weight), b.weight)
    )
    check = failed(model)
    assert check.check == Property.HOOKS.title
    with RowGradients(model, PAD, 1) as source:
        hooked = source.whole(ROWS)
        order = [f"{factor.name}.weight" for factor in source.factors]
    names = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert order == names
    expected = max(relative(hooked[place], gradient(model, [row])) for place, row in enumerate(ROWS))
    assert check.value == pytest.approx(expected, rel=1e-3)
    assert check.value > 10 * check.limit


def test_padding_that_reaches_the_loss_is_found() -> None:
    model = patched(lambda x: x * (1 + 0.001 * x.shape[1]))
    check = failed(model)
    assert check.check == Property.PADDING.title
    longest = max(len(row.input_ids) for row in ROWS)
    expected = max(
        relative(gradient(model, [row], length=longest + 16), gradient(model, [row])) for row in ROWS
    )
    assert check.value == pytest.approx(expected, rel=1e-3)
    assert check.value > 10 * check.limit


def test_attention_that_mixes_the_rows_is_found() -> None:
    """A hundredth of the batch's mean: alone, a row sees only itself, however far it is padded."""
    rows = [token_row(prompt, 20 - prompt, seed) for seed, prompt in enumerate((5, 8, 10, 3, 12))]
    model = patched(lambda x: x + 0.01 * x.mean(0, keepdim=True).detach())
    check = failed(model, rows)
    assert check.check == Property.BATCH.title
    expected = max(
        relative(gradient(model, rows, place), gradient(model, [row])) for place, row in enumerate(rows)
    )
    assert check.value == pytest.approx(expected, rel=1e-3)
    assert check.value > 10 * check.limit


def test_so_is_mixing_that_the_backward_pass_goes_through() -> None:
    assert failed(patched(lambda x: x + 0.01 * x.mean(0, keepdim=True))).check == Property.BATCH.title


def test_what_is_no_number_fails_and_stays_out_of_the_json() -> None:
    check = failed(patched(lambda x: x * (float("nan") if len(x) > 1 else 1)))
    assert (check.check, check.value) == (Property.BATCH.title, None)
    assert "its loss is nan" in check.meaning
    for value in (float("nan"), float("inf")):
        for checked in (Property.HOOKS, Property.WARM):
            check = checked.measured(value, "a share")
            assert (check.passed, check.value, check.meaning) == (False, None, f"a share (it is {value})")


@pytest.mark.parametrize("change", [lambda x: x * (1 + 0.001 * x.shape[1]), lambda x: x + x.mean(0)])
def test_one_row_a_batch_is_the_way_out(change: Callable[[Tensor], Tensor]) -> None:
    """As the advice says: with clusters.micro_batch_tokens=1 nothing is padded or batched."""
    checks = diagnose(patched(change), ROWS, PAD, 1)
    require_healthy(checks)
    for checked in (Property.PADDING, Property.BATCH, Property.ORDER):
        assert by_name(checks)[checked.title].passed is None
        assert "not measured" in by_name(checks)[checked.title].meaning


def test_rows_that_come_back_in_another_order_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Sorted(RowGradients):
        def whole(self, rows: Any, *args: Any) -> Tensor:
            return super().whole(sorted(rows, key=lambda row: row.origin), *args)

    monkeypatch.setattr(training.diagnosis.diagnosis, "RowGradients", Sorted)
    check = failed(with_adapter(tiny_llama()))
    assert check.check == Property.ORDER.title
    with RowGradients(with_adapter(tiny_llama()), PAD, BUDGET) as source:
        right = source.whole(ROWS)
    expected = max(relative(one, other) for one, other in zip(right.flip(0), right, strict=True))
    assert check.value == pytest.approx(expected, rel=1e-3)


def test_a_model_that_float32_is_too_coarse_for_is_found() -> None:
    """It adds a large number and takes it away again."""
    model = patched(lambda x: (x + 1e6) - 1e6)
    check = failed(model)
    assert check.check == Property.PRECISION.title
    rounded = [gradient(model, [row]) for row in SHORTEST]
    exact = [gradient(model.double(), [row]).float() for row in SHORTEST]
    expected = max(relative(one, other) for one, other in zip(rounded, exact, strict=True))
    assert check.value == pytest.approx(expected, rel=0.05)


def test_a_big_model_gets_no_float64_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.diagnosis.diagnosis, "_FLOAT64_WEIGHTS", 1000)
    found = by_name(diagnose(with_adapter(tiny_llama()), ROWS, PAD, BUDGET))
    assert found[Property.PRECISION.title].passed is None
    assert "too many for a float64 copy" in found[Property.PRECISION.title].meaning
    assert found[Property.BFLOAT16.title].value is not None
    assert "against float32" in found[Property.BFLOAT16.title].meaning


def test_one_row_is_enough_for_all_but_batches() -> None:
    checks = diagnose(with_adapter(tiny_llama()), ROWS[:1], PAD, BUDGET)
    require_healthy(checks)
    assert by_name(checks)[Property.BATCH.title].passed is None
    assert by_name(checks)[Property.HOOKS.title].passed is True


def test_rows_as_long_as_the_model_can_read_are_not_padded_beyond() -> None:
    model = with_adapter(tiny_llama(max_position_embeddings=20))
    rows = [token_row(10, 10, 0), token_row(5, 8, 1)]
    check = by_name(diagnose(model, rows, PAD, BUDGET))[Property.PADDING.title]
    assert check.passed is True
    assert "padded to 20 tokens" in check.meaning


def test_a_base_alone_is_diagnosed_with_a_stand_in_for_the_warm_up() -> None:
    model = with_adapter(tiny_llama(), fresh=True)
    checks = diagnose_base(model, ROWS, PAD, BUDGET)
    require_healthy(checks)
    found = by_name(checks)
    for checked in (Property.WARM, Property.A_SET):
        assert found[checked.title].passed is None
        assert "no adapter was given" in found[checked.title].meaning
    assert found[Property.HOOKS.title].passed is True
    with RowGradients(model, PAD, BUDGET) as source:
        in_a = source.contracted(ROWS, torch.zeros(1, source.dimension)).squared_norm_a
    assert float(in_a.min()) > 0  # A takes part in the comparison
