"""Gradients that are computed when they are asked for, against the row gradients themselves."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from tests.stand_ins.tiny_model import PAD, tiny_llama, with_adapter
from training.errors import TrainingError
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed, check_norms, make_unit_
from training.rows.rendering import TokenRow
from training.stages.processes import World


def test_rows_are_picked_by_number_and_made_unit_vectors(rows: list[TokenRow]) -> None:
    with RowGradients(with_adapter(tiny_llama()), PAD, 64) as source:
        given = Recomputed(source, rows, World())
        whole = source.whole(rows)
        advanced: list[int] = []
        found = given.unit([7, 2, 2, 11], advanced.append)
        assert (given.dimension, given.device) == (source.dimension, source.device)
        assert torch.allclose(found, normalize(whole, dim=1)[[7, 2, 2, 11]], atol=1e-5)
        assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-6)
        assert sum(advanced) == 4
        assert given.unit([]).shape == (0, source.dimension)


def test_compared_rows_have_their_cosines_norms_and_share_of_b(rows: list[TokenRow]) -> None:
    with RowGradients(with_adapter(tiny_llama()), PAD, 64) as source:
        whole = source.whole(rows).double()
        centroids = normalize(whole[[0, 5, 9]], dim=1)
        asked = [3, 0, 9]
        found = Recomputed(source, rows, World()).compare(asked, centroids.float())
        b = torch.cat([torch.arange(factor.start, factor.stop) for factor in source.factors if factor.is_b])
    assert torch.allclose(found.cosines, (normalize(whole, dim=1) @ centroids.T)[asked], atol=1e-5)
    assert found.norm.tolist() == pytest.approx(whole.norm(dim=1)[asked].tolist(), rel=1e-5)
    share = whole[:, b].square().sum(1) / whole.square().sum(1)
    assert found.share_b.tolist() == pytest.approx(share[asked].tolist(), rel=1e-5)


def test_a_row_without_a_gradient_has_cosine_0_to_everything(rows: list[TokenRow]) -> None:
    model = with_adapter(tiny_llama())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.zero_()
    with RowGradients(model, PAD, 64) as source:
        given = Recomputed(source, rows, World())
        found = given.compare([0, 1], torch.eye(2, source.dimension))
        assert torch.equal(given.unit([0, 1]), torch.zeros(2, source.dimension))
    assert found.cosines.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert found.norm.tolist() == found.share_b.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_are_dealt_out_by_length(size: int, rows: list[TokenRow]) -> None:
    with RowGradients(with_adapter(tiny_llama()), PAD, 64) as source:
        worlds = [World(rank, size) for rank in range(size)]
        answers = [Recomputed(source, rows, world).owners([4, 9, 1, 6, 2, 0]) for world in worlds]
    assert all(answer == answers[0] for answer in answers)
    lengths = [len(rows[row].input_ids) for row in (4, 9, 1, 6, 2, 0)]
    assert set(answers[0]) == set(range(size))
    by_length = [owner for _, owner in sorted(zip(lengths, answers[0], strict=True))]
    assert by_length == [place % size for place in range(6)]  # neighbours in length go to different processes


def test_long_vectors_are_made_exactly_as_long_as_short_ones() -> None:
    """Where torch's own norm is 4e-4 off: drift is measured against thresholds of 1e-3."""
    vectors = torch.randn(2, 10_000_000, generator=torch.Generator().manual_seed(0))
    norms = make_unit_(vectors)
    assert norms.tolist() == pytest.approx([10_000_000**0.5] * 2, rel=1e-3)
    assert vectors.double().norm(dim=1).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    zero = torch.zeros(1, 3)
    assert make_unit_(zero).tolist() == [0.0]
    assert zero.tolist() == [[0.0, 0.0, 0.0]]
    assert make_unit_(torch.zeros(0, 3)).tolist() == []


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_is_named(broken: float) -> None:
    """Its loss may be a number all the same, and no later stage would notice."""
    rows = [TokenRow(f"mine.jsonl:{number}", None, "", (6, 7), 1) for number in range(3)]
    norms = make_unit_(torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, broken]]))
    with pytest.raises(
        TrainingError, match=r"Row mine\.jsonl:2: its loss is a number, but its gradient is not"
    ):
        check_norms(norms, rows)
    check_norms(norms[:2], rows)
