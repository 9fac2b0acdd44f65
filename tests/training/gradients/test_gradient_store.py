"""Gradients on disk: what is kept, what a kill or a damaged byte costs, what a full disk says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from tests.stand_ins.planted_store import (
    BY_LENGTH,
    GRADIENTS,
    LENGTHS,
    ROWS,
    UNIT,
    D,
    N,
    Planted,
    file_of,
    fill,
    filled,
    open_files,
    opened,
)
from tests.stand_ins.thread_world import together
from tests.stand_ins.tiny_model import PAD, tiny_llama, token_row, with_adapter
from training.errors import TrainingError
from training.gradients import store as gradient_store
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed
from training.gradients.store import StoredGradients, remove_gradients
from training.progress import ignore_progress
from training.stages.processes import World


def flip(file: Path, place: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 16]))


def test_rows_are_computed_once_shortest_first_in_pieces(tmp_path: Path) -> None:
    stored, advanced, source = opened(tmp_path), list[int](), Planted()
    assert stored.missing == BY_LENGTH
    stored.fill(source, ROWS, advanced.append)  # type: ignore[arg-type]
    assert source.computed == BY_LENGTH
    assert [len(call) for call in source.calls] == [64, 64, 22]
    assert sum(advanced) == N
    assert stored.missing == []
    assert fill(stored).calls == []


def test_wide_gradients_go_through_memory_in_smaller_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradient_store, "_PIECE_BYTES", 10 * 4 * D + 17)
    assert {len(call) for call in fill(opened(tmp_path)).calls} == {10}
    monkeypatch.setattr(gradient_store, "_PIECE_BYTES", 5)
    assert {len(call) for call in fill(opened(tmp_path, "stew")).calls} == {1}


def test_what_is_read_is_what_was_computed(tmp_path: Path) -> None:
    stored, advanced = filled(tmp_path), list[int]()
    asked = [3, 149, 0, 77, 3]
    found = stored.unit(asked, advanced.append)
    assert found.dtype == torch.float32
    assert torch.allclose(found, UNIT[asked], atol=1e-7)
    assert torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-6)
    assert sum(advanced) == 5
    assert torch.allclose(stored.unit(range(N)), UNIT, atol=1e-7)
    assert stored.unit([]).shape == (0, D)
    assert (stored.dimension, stored.owners(asked)) == (D, [0] * 5)
    assert file_of(stored).stat().st_size == 4 * N * D


def test_norms_and_the_share_of_b_are_those_of_the_raw_gradients(tmp_path: Path) -> None:
    filled(tmp_path).close()
    for stored in (opened(tmp_path), filled(tmp_path / "other")):  # also when it is opened again
        asked = [149, 2, 40]
        centroids = UNIT[:3].clone()
        found = stored.compare(asked, centroids)
        raw = GRADIENTS[asked].double()
        assert found.norm.tolist() == pytest.approx(raw.norm(dim=1).tolist(), rel=1e-6)
        of_b = raw[:, 300:500].square().sum(1) + raw[:, 600:].square().sum(1)
        assert found.share_b.tolist() == pytest.approx((of_b / raw.square().sum(1)).tolist(), rel=1e-6)
        assert torch.allclose(found.cosines, (UNIT[asked] @ centroids.T).double(), atol=1e-6)
        assert found.cosines.dtype == torch.float64


def test_on_a_real_model_it_is_what_is_computed_anew(tmp_path: Path) -> None:
    rows = [token_row(3 + seed % 6, 2 + seed % 11, seed) for seed in range(70)]
    lengths = [len(row.input_ids) for row in rows]
    with RowGradients(with_adapter(tiny_llama()), PAD, 200) as source:
        stored = StoredGradients(tmp_path, "soup", lengths, source.dimension, World())
        stored.fill(source, rows, ignore_progress)
        computed = Recomputed(source, rows, World())
        asked = [5, 69, 1]
        assert torch.allclose(stored.unit(asked), computed.unit(asked), atol=1e-5)
        centroids = normalize(source.whole(rows[:3]), dim=1)
        one, other = (given.compare(asked, centroids) for given in (stored, computed))
        assert stored.owners(range(70)) == computed.owners(range(70))
    assert torch.allclose(one.cosines, other.cosines, atol=1e-5)
    assert one.norm.tolist() == pytest.approx(other.norm.tolist(), rel=1e-5)
    assert one.share_b.tolist() == pytest.approx(other.share_b.tolist(), rel=1e-5)


def test_a_row_without_a_gradient(tmp_path: Path) -> None:
    zeroed = GRADIENTS.clone()
    zeroed[7] = 0
    stored = opened(tmp_path)
    fill(stored, Planted(gradients=zeroed))
    found = stored.compare([7, 8], UNIT[:2])
    assert found.cosines[0].tolist() == [0.0, 0.0]
    assert (found.norm[0], found.share_b[0]) == (0.0, 0.0)


def test_a_killed_run_goes_on_after_its_last_piece(tmp_path: Path) -> None:
    source, stored = Planted(dies_after=2), opened(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fill(stored, source)
    assert torch.allclose(stored.unit(source.computed), UNIT[source.computed], atol=1e-7)
    again = opened(tmp_path)
    assert again.missing == BY_LENGTH[128:]
    assert fill(again).computed == BY_LENGTH[128:]
    assert torch.allclose(again.unit(range(N)), UNIT, atol=1e-7)
    last = opened(tmp_path)
    assert last.missing == []
    assert torch.equal(last.unit(range(N)), filled(tmp_path / "undisturbed").unit(range(N)))


@pytest.mark.parametrize("rest", [0, 1, 40, -1])
def test_a_line_of_the_journal_that_is_cut_off_costs_its_piece_and_no_other(
    rest: int, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(opened(tmp_path), Planted(dies_after=1))
    journal = file_of(opened(tmp_path), "journal.jsonl")
    whole = journal.read_text()
    with pytest.raises(KeyboardInterrupt):
        fill(opened(tmp_path), Planted(dies_after=1))
    second = journal.read_text()[len(whole) :]
    journal.write_text(whole + second[: rest if rest >= 0 else len(second) + rest])
    # What comes after it is kept, and is still kept when it is opened once more.
    assert fill(opened(tmp_path)).computed == BY_LENGTH[64:]
    assert opened(tmp_path).missing == []


def test_lines_that_are_not_the_journals_are_passed_over(tmp_path: Path) -> None:
    stored = filled(tmp_path)
    journal = file_of(stored, "journal.jsonl")
    content = journal.read_text()
    strange = [
        '{"rows": [5000], "checksums": ["a"], "norm": [1], "share_b": [0]}',
        "[1]",
        "7",
        '{"rows": [1]}',
        "{}",
    ]
    journal.write_bytes("\n".join([*strange, content, ""]).encode() + b"\xff\xfe\n")
    assert opened(tmp_path).missing == []


@pytest.mark.parametrize("what", ["norm", "share_b", "rows"])
def test_a_line_of_the_journal_that_was_changed_costs_its_piece(what: str, tmp_path: Path) -> None:
    """Norms are nowhere else: a changed digit must not become a figure of the report."""
    journal = file_of(filled(tmp_path), "journal.jsonl")
    lines = journal.read_text().splitlines()
    place = next(number for number, line in enumerate(lines) if line)
    start = lines[place].index("[", lines[place].index(f'"{what}"')) + 1
    digit = next(i for i in range(start, start + 99) if lines[place][i] in "12345678")
    lines[place] = lines[place][:digit] + "9" + lines[place][digit + 1 :]
    journal.write_text("\n".join(lines))
    assert opened(tmp_path).missing == BY_LENGTH[:64]


@pytest.mark.parametrize("slot", [0, 63, 64, 149])
@pytest.mark.parametrize("byte", [0, 4 * D - 1])
def test_a_flipped_byte_is_found_on_opening_and_its_piece_computed_again(
    slot: int, byte: int, tmp_path: Path
) -> None:
    stored = filled(tmp_path)
    before = stored.unit(range(N))
    flip(file_of(stored), 4 * D * slot + byte)
    again = opened(tmp_path)
    piece = BY_LENGTH[slot // 64 * 64 :][:64]
    assert again.missing == piece
    assert fill(again).computed == piece
    assert torch.equal(again.unit(range(N)), before)
    assert opened(tmp_path).missing == []


def test_a_byte_flipped_during_the_run_is_never_used(tmp_path: Path) -> None:
    stored = filled(tmp_path)
    row = BY_LENGTH[20]
    flip(file_of(stored), 4 * D * 20 + 99)
    assert stored.unit([BY_LENGTH[19], BY_LENGTH[21]]).shape == (2, D)
    for read in (
        lambda: stored.unit([BY_LENGTH[3], row]),
        lambda: stored.compare([row], UNIT[:1]),
    ):
        with pytest.raises(TrainingError) as refused:
            read()
        assert str(refused.value).startswith(
            f"{file_of(stored)}: the gradient of row number {row} is not what was"
        )
        assert "Start the same command again" in str(refused.value)
    assert set(opened(tmp_path).missing) == set(BY_LENGTH[:64])


@pytest.mark.parametrize("damage", ["short", "gone", "no journal", "no head"])
def test_a_file_that_is_short_or_gone_is_made_anew(damage: str, tmp_path: Path) -> None:
    stored = filled(tmp_path)
    stored.close()
    if damage == "short":
        os.truncate(file_of(stored), 4 * D * 70)
    else:
        names = {"gone": "gradients.f32", "no journal": "journal.jsonl", "no head": "head.json"}
        file_of(stored, names[damage]).unlink()
    again = opened(tmp_path)
    assert again.missing == (BY_LENGTH[64:] if damage == "short" else BY_LENGTH)
    fill(again)
    assert torch.allclose(again.unit(range(N)), UNIT, atol=1e-7)


@pytest.mark.parametrize("changed", ["digest", "rows", "dimension"])
def test_other_inputs_start_anew(changed: str, tmp_path: Path) -> None:
    filled(tmp_path).close()
    folder = tmp_path / "gradients"
    if changed == "digest":
        other = StoredGradients(folder, "stew", LENGTHS, D, World())
    elif changed == "rows":
        other = StoredGradients(folder, "soup", LENGTHS[:-1], D, World())
    else:
        other = StoredGradients(folder, "soup", LENGTHS, D - 1, World())
    assert len(other.missing) == N - (changed == "rows")
    assert not file_of(other, "journal.jsonl").exists()
    assert opened(tmp_path).missing == BY_LENGTH  # and nothing of the old remains


def test_the_room_is_taken_before_the_first_gradient(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    taken = file_of(stored).stat()
    assert taken.st_size == 4 * N * D
    assert taken.st_blocks * 512 >= 4 * N * D  # not a sparse file


def test_no_rows_need_no_room(tmp_path: Path) -> None:
    stored = StoredGradients(tmp_path, "soup", [], D, World())
    stored.fill(Planted(), [], ignore_progress)  # type: ignore[arg-type]
    assert stored.unit([]).shape == (0, D)


def test_removed_means_nothing_is_left(tmp_path: Path) -> None:
    filled(tmp_path).close()
    remove_gradients(tmp_path / "gradients")
    assert not list(tmp_path.iterdir())
    remove_gradients(tmp_path / "gradients")  # nor to be removed


def test_it_closes_what_it_opens(tmp_path: Path) -> None:
    before = open_files()
    stored = filled(tmp_path)
    stored.unit([1, 2, 3])
    stored.close()
    opened(tmp_path).close()
    assert open_files() == before


@pytest.mark.parametrize("size", [2, 3])
def test_each_process_keeps_its_own_rows(size: int, tmp_path: Path) -> None:
    def work(world: World) -> tuple[list[int], list[int], list[int]]:
        stored = opened(tmp_path, world=world)
        missing, owners = stored.missing, stored.owners(range(N))
        computed = fill(stored).computed
        mine = [row for row in range(N) if owners[row] == world.rank]
        assert torch.allclose(stored.unit(mine), UNIT[mine], atol=1e-7)
        assert file_of(stored).stat().st_size == 4 * D * len(mine)
        assert missing == computed
        return owners, sorted(computed), mine

    everyone = together(size, work)
    assert sorted(row for _, computed, _ in everyone for row in computed) == list(range(N))
    for owners, computed, mine in everyone:
        assert owners == everyone[0][0]
        assert computed == mine
        assert abs(sum(LENGTHS[row] for row in mine) - sum(LENGTHS) / size) < 40 * size


def test_a_write_that_takes_only_a_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:1000], offset))
    assert torch.allclose(filled(tmp_path).unit(range(N)), UNIT, atol=1e-7)


def test_the_head_says_what_it_is_of(tmp_path: Path) -> None:
    head = json.loads(file_of(opened(tmp_path), "head.json").read_text())
    assert head == {"digest": "soup", "rows": N, "dimension": D}
