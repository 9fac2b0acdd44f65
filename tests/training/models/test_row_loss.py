"""The loss that Stage II differentiates, against the model's own logits, one position at a time."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from tests.stand_ins.tiny_model import PAD, dozen_rows, tiny_llama
from training.errors import AdapterRefused
from training.models import row_loss
from training.models.finetune import _Examples
from training.models.row_loss import check_head, pad_rows, row_losses, token_losses
from training.rows.rendering import IGNORED, TokenRow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama().eval()


def by_hand(model: LlamaForCausalLM, row: TokenRow) -> float:
    """The mean over the completion's own positions: position t - 1 predicts token t."""
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
    completion = range(row.prompt_length, len(row.input_ids))
    return -sum(float(log_p[place - 1, row.input_ids[place]]) for place in completion) / len(completion)


def test_each_loss_is_the_mean_over_its_own_completion(model: LlamaForCausalLM, rows: list[TokenRow]) -> None:
    with torch.no_grad():
        found = row_losses(model, pad_rows(rows, PAD, CPU))
    assert found.tolist() == pytest.approx([by_hand(model, row) for row in rows], rel=1e-5)


def test_the_vocabulary_is_touched_at_completion_positions_only(
    model: LlamaForCausalLM, rows: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    handle = model.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel())
    )
    monkeypatch.setattr(row_loss, "_HEAD_CHUNK", 10)
    with torch.no_grad():
        found = row_losses(model, pad_rows(rows, PAD, CPU))
    handle.remove()
    assert sum(seen) == sum(len(row.input_ids) - row.prompt_length for row in rows)
    assert max(seen) <= 10
    assert found.tolist() == pytest.approx([by_hand(model, row) for row in rows], rel=1e-5)


def test_its_gradient_is_that_of_the_models_own_logits(
    model: LlamaForCausalLM, rows: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk is differentiated at once and its logits dropped; rows weigh in as whoever sums them says."""
    monkeypatch.setattr(row_loss, "_HEAD_CHUNK", 10)
    weights = torch.linspace(-1, 2, len(rows))  # [B]
    embeddings = model.get_input_embeddings().weight
    (found,) = torch.autograd.grad((weights * row_losses(model, pad_rows(rows, PAD, CPU))).sum(), embeddings)
    total = torch.zeros(())
    for row, weight in zip(rows, weights, strict=True):
        ids = torch.tensor([row.input_ids])
        logits = model.lm_head(model.model(input_ids=ids).last_hidden_state)[0, row.prompt_length - 1 : -1]
        total = total + weight * cross_entropy(logits, ids[0, row.prompt_length :])
    (expected,) = torch.autograd.grad(total, embeddings)
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_logits_of_all_positions_never_exist_together(
    model: LlamaForCausalLM, rows: list[TokenRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What autograd keeps for the backward pass is [n, h], not [n, V], as long as the head itself is not trained."""
    monkeypatch.setattr(row_loss, "_HEAD_CHUNK", 10)
    monkeypatch.setattr(model.lm_head.weight, "requires_grad", False)
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() != model.lm_head.weight.data_ptr():
            kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        row_losses(model, pad_rows(rows, PAD, CPU)).sum().backward()
    assert kept
    vocabulary = model.config.vocab_size
    assert max(shape.numel() // vocabulary for shape in kept if shape[-1:] == (vocabulary,)) <= 10


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_that_is_trained_gets_its_gradient(rows: list[TokenRow], tied: bool) -> None:
    """Full fine-tuning: the gradient of every weight is that of the model's own loss."""
    torch.manual_seed(0)
    model = tiny_llama(tie_word_embeddings=tied)
    losses, row_of = token_losses(model, pad_rows(rows[:3], PAD, CPU))
    losses.mean().backward()
    assert sorted(set(row_of.tolist())) == [0, 1, 2]
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    batch = pad_rows(rows[:3], PAD, CPU)
    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss.backward()
    for name, weight in model.named_parameters():
        assert torch.allclose(ours[name], weight.grad, atol=1e-6), name


def test_a_row_sees_no_other_row(model: LlamaForCausalLM, rows: list[TokenRow]) -> None:
    others = [dataclasses.replace(row, input_ids=row.input_ids[::-1]) for row in rows[1:]]
    with torch.no_grad():
        among = row_losses(model, pad_rows(rows, PAD, CPU))[0]
        among_others = row_losses(model, pad_rows([rows[0], *others], PAD, CPU))[0]
    assert float(among) == pytest.approx(float(among_others), rel=1e-6)


def test_no_label_stands_on_a_prompt_token_or_on_padding(rows: list[TokenRow]) -> None:
    batch = pad_rows(rows, PAD, CPU)
    for place, row in enumerate(rows):
        length = len(row.input_ids)
        assert row.labels == [IGNORED] * row.prompt_length + list(row.input_ids[row.prompt_length :])
        assert batch.labels[place, :length].tolist() == row.labels
        assert set(batch.labels[place, length:].tolist()) <= {IGNORED}
        assert batch.input_ids[place, :length].tolist() == list(row.input_ids)
        assert batch.attention_mask[place].tolist() == [1] * length + [0] * (batch.labels.shape[1] - length)


def test_the_trainer_learns_from_the_same_labels(model: LlamaForCausalLM) -> None:
    """Fine-tuning and gradients must mean the same row: Trainer's loss of one row is ours."""
    rows = dozen_rows()
    examples = _Examples(rows)
    assert len(examples) == len(rows)
    for place, row in enumerate(rows):
        example = {name: torch.tensor([values]) for name, values in examples[place].items()}
        with torch.no_grad():
            assert float(model(**example).loss) == pytest.approx(by_hand(model, row), rel=1e-5)


def test_a_prompt_length_that_is_off_by_one_is_another_loss(
    model: LlamaForCausalLM, rows: list[TokenRow]
) -> None:
    """The comparisons above can tell: with one token more or less in the prompt the losses differ."""
    row = rows[0]
    for wrong in (row.prompt_length - 1, row.prompt_length + 1):
        shifted = dataclasses.replace(row, prompt_length=wrong)
        with torch.no_grad():
            found = float(row_losses(model, pad_rows([shifted], PAD, CPU)))
        assert found == pytest.approx(by_hand(model, shifted), rel=1e-5)
        assert abs(found - by_hand(model, row)) > 1e-3


def test_the_head_of_a_llama_passes(model: LlamaForCausalLM, rows: list[TokenRow]) -> None:
    check_head(model, pad_rows(rows, PAD, CPU))


class ScaledLogits(LlamaForCausalLM):
    def forward(self, *args: object, **kwargs: object) -> CausalLMOutputWithPast:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 0.9
        return output


class CappedLogits(LlamaForCausalLM):
    def forward(self, *args: object, **kwargs: object) -> CausalLMOutputWithPast:
        output = super().forward(*args, **kwargs)
        output.logits = 2 * torch.tanh(output.logits / 2)
        return output


@pytest.mark.parametrize("kind", [ScaledLogits, CappedLogits])
def test_a_head_does_to_its_logits_what_the_model_does(
    kind: type[LlamaForCausalLM], model: LlamaForCausalLM, rows: list[TokenRow]
) -> None:
    other = kind(model.config).eval()
    other.load_state_dict(model.state_dict())
    check_head(other, pad_rows(rows, PAD, CPU))
    with torch.no_grad():
        assert float(row_losses(other, pad_rows(rows[:1], PAD, CPU))) != pytest.approx(
            by_hand(model, rows[0]), rel=1e-3
        )


class ScaledByToken(LlamaForCausalLM):
    """What happens to a token's logits depends on the tokens: no function of its state says it."""

    def forward(self, *args: object, **kwargs: object) -> CausalLMOutputWithPast:
        output = super().forward(*args, **kwargs)
        tokens = kwargs["input_ids"]
        assert isinstance(tokens, Tensor)
        output.logits = output.logits * torch.where(tokens == PAD, 1.0, 0.9)[..., None]
        return output


class Flattened(LlamaForCausalLM):
    """Not even a number comes out of it."""

    def forward(self, *args: object, **kwargs: object) -> CausalLMOutputWithPast:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * float("nan")
        return output


@pytest.mark.parametrize("kind", [ScaledByToken, Flattened])
def test_a_model_with_another_head_is_refused(
    kind: type[LlamaForCausalLM], model: LlamaForCausalLM, rows: list[TokenRow]
) -> None:
    assert isinstance(model.config, LlamaConfig)
    other = kind(model.config).eval()
    with pytest.raises(AdapterRefused, match=rf"{kind.__name__}: the loss from its head .* differs"):
        check_head(other, pad_rows(rows, PAD, CPU))
