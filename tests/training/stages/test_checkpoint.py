"""Where a stage stands: read back bit for bit, or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stand_ins.thread_world import together
from tests.stand_ins.tiny_model import ROOT
from training.stages.checkpoint import Checkpoint, SavedState, _checksum
from training.stages.processes import World

FACTS = {"done": 64, "epochs": [{"drift": 0.1 + 0.2, "sizes": [1, 2]}]}
TENSORS = {
    "now": torch.randn(3, 50, generator=torch.Generator().manual_seed(0)),
    "sums": torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    "labels": torch.arange(40),
}


def checkpoint(
    folder: Path, digest: str = "soup", every: float = 0.0, world: World | None = None
) -> Checkpoint:
    return Checkpoint(folder / "deep" / "state", digest, every, world or World())


def same(found: SavedState | None, facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> bool:
    return (
        found is not None
        and found.facts == facts
        and found.tensors.keys() == tensors.keys()
        and all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)
    )


def test_nothing_saved_is_nothing(tmp_path: Path) -> None:
    assert checkpoint(tmp_path).load() is None
    assert not list(tmp_path.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint(tmp_path).save(FACTS, TENSORS)
    found = checkpoint(tmp_path).load()
    assert same(found, FACTS, TENSORS)
    assert found is not None
    assert found.tensors["sums"].dtype == torch.float64


def test_tensors_that_are_views_are_saved_too(tmp_path: Path) -> None:
    checkpoint(tmp_path).save({}, {"turned": TENSORS["now"].T})
    assert same(checkpoint(tmp_path).load(), {}, {"turned": TENSORS["now"].T})


def test_the_last_save_counts_and_is_all_that_lies_there(tmp_path: Path) -> None:
    first = checkpoint(tmp_path)
    first.save(FACTS, TENSORS)
    first.save({"done": 2}, {"now": torch.zeros(1)})
    again = checkpoint(tmp_path)
    assert same(again.load(), {"done": 2}, {"now": torch.zeros(1)})
    again.save({"done": 3}, {"now": torch.ones(1)})  # after a kill the numbers go on
    assert same(checkpoint(tmp_path).load(), {"done": 3}, {"now": torch.ones(1)})
    assert sorted(path.suffix for path in again.folder.iterdir()) == [".json", ".safetensors"]


def test_another_digest_counts_for_nothing_and_is_written_over(tmp_path: Path) -> None:
    checkpoint(tmp_path).save(FACTS, TENSORS)
    other = checkpoint(tmp_path, "stew")
    assert other.load() is None
    other.save({"done": 1}, {})
    assert checkpoint(tmp_path).load() is None
    assert same(checkpoint(tmp_path, "stew").load(), {"done": 1}, {})


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "empty"])
def test_a_damaged_file_counts_for_nothing(damage: str, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save(FACTS, TENSORS)
    (file,) = saved.folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    {
        "flip": lambda: file.write_bytes(content),
        "cut": lambda: file.write_bytes(content[:-8]),
        "gone": file.unlink,
        "empty": lambda: file.write_bytes(b""),
    }[damage]()
    again = checkpoint(tmp_path)
    assert again.load() is None
    again.save({"done": 9}, {"now": torch.ones(2)})
    assert same(checkpoint(tmp_path).load(), {"done": 9}, {"now": torch.ones(2)})


def test_a_file_that_holds_no_tensors_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = checkpoint(tmp_path)
    saved.save(FACTS, TENSORS)
    (file,) = saved.folder.glob("*.safetensors")
    original = _checksum(file)
    file.write_bytes(b"not tensors")
    monkeypatch.setattr("training.stages.checkpoint._checksum", lambda file: original)
    assert checkpoint(tmp_path).load() is None


@pytest.mark.parametrize(
    "state", ["", "{", "[]", "3", "{}", '{"state": {"digest": "soup"}}', '{"state": {}, "checksum": "a"}']
)
def test_a_damaged_state_counts_for_nothing(state: str, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save(FACTS, TENSORS)
    (saved.folder / "state.json").write_text(state)
    assert checkpoint(tmp_path).load() is None


@pytest.mark.parametrize(
    ("what", "instead"), [('"done": 64', '"done": 65'), ("[1, 2]", "[1, 3]"), ("soup", "goup")]
)
def test_a_changed_fact_counts_for_nothing(what: str, instead: str, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path)
    saved.save(FACTS, TENSORS)
    state = (saved.folder / "state.json").read_text()
    assert what in state
    (saved.folder / "state.json").write_text(state.replace(what, instead))
    assert checkpoint(tmp_path, "goup" if what == "soup" else "soup").load() is None


def test_a_kill_while_saving_leaves_the_save_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = checkpoint(tmp_path)
    saved.save(FACTS, TENSORS)

    def killed(*anything: object, **more: object) -> None:
        raise KeyboardInterrupt

    moments = {"before the state is written": "write_text", "before it is in its place": "replace"}
    for method in moments.values():
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, killed)
            with pytest.raises(KeyboardInterrupt):
                saved.save({"done": 1000}, {"now": torch.zeros(7)})
        assert same(checkpoint(tmp_path).load(), FACTS, TENSORS)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            saved.save({"done": 1000}, {"now": torch.zeros(7)})
    assert same(checkpoint(tmp_path).load(), {"done": 1000}, {"now": torch.zeros(7)})


LITTLE_ROOM = """
import resource, signal, sys
from pathlib import Path
import torch
from training.stages.checkpoint import Checkpoint
from training.errors import TrainingError
from training.stages.processes import World

saved = Checkpoint(Path(sys.argv[1]), "soup", 0.0, World())
saved.save({"done": 1}, {"now": torch.ones(9)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), 1 << 20))
try:
    saved.save({"done": 2, "long": ["word"] * 100}, {"now": torch.ones(1000)})
except TrainingError as error:
    print(error)
"""


@pytest.mark.parametrize(("room", "file"), [(2000, "2-0.safetensors"), (300, ".state.json")])
def test_no_room_to_save_is_said_and_costs_nothing(room: int, file: str, tmp_path: Path) -> None:
    """A real limit on what a process may write; the tensors (4 kB), or after them the state, don't fit."""
    script = LITTLE_ROOM if file[0] != "." else LITTLE_ROOM.replace("torch.ones(1000)", "torch.ones(1)")
    folder = tmp_path / "deep" / "state"
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(room)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith(f"{folder / file}: where the stage stands can't be saved"), done.stderr
    assert "File too large" in done.stdout
    assert "start the same command again" in done.stdout
    assert same(checkpoint(tmp_path).load(), {"done": 1}, {"now": torch.ones(9)})
    assert not (folder / file).exists()


def test_it_is_due_by_the_clock_since_the_last_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("training.stages.checkpoint.time.monotonic", lambda: now[0])
    assert checkpoint(tmp_path).due()
    slow = checkpoint(tmp_path, every=60)
    now[0] += 59
    assert not slow.due()
    now[0] += 1
    assert slow.due()
    slow.save({}, {})
    assert not slow.due()
    assert not checkpoint(tmp_path, every=1e9).due()


def own(rank: int) -> dict[str, torch.Tensor]:
    return {"mine": torch.full((4,), float(rank))}


def test_processes_save_together_and_each_reads_its_own(tmp_path: Path) -> None:
    def save(world: World) -> None:
        at = checkpoint(tmp_path, world=world)
        assert at.load() is None
        at.save({"rank": world.rank}, own(world.rank))
        at.save({"rank": world.rank, "again": True}, own(world.rank + 10))

    together(3, save)
    assert len(list((tmp_path / "deep" / "state").iterdir())) == 4
    for rank, found in enumerate(together(3, lambda world: checkpoint(tmp_path, world=world).load())):
        assert same(found, {"rank": 0, "again": True}, own(rank + 10))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_another_number_of_processes_starts_over(size: int, tmp_path: Path) -> None:
    together(3, lambda world: checkpoint(tmp_path, world=world).save({}, own(world.rank)))
    assert together(size, lambda world: checkpoint(tmp_path, world=world).load()) == [None] * size


@pytest.mark.parametrize("damaged", [0, 2])
def test_one_process_without_its_part_means_none_goes_on(damaged: int, tmp_path: Path) -> None:
    together(3, lambda world: checkpoint(tmp_path, world=world).save({}, own(world.rank)))
    (file,) = tmp_path.glob(f"deep/state/*-{damaged}.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert together(3, lambda world: checkpoint(tmp_path, world=world).load()) == [None] * 3


def test_no_process_drops_its_last_save_before_the_next_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is lost just before the new state is in its place: the others must still have the old one's files."""
    together(2, lambda world: checkpoint(tmp_path, world=world).save({"done": 1}, own(world.rank)))

    def lost(*anything: object) -> None:
        time.sleep(0.1)  # what the others do meanwhile, they do
        raise KeyboardInterrupt

    def save(world: World) -> None:
        at = checkpoint(tmp_path, world=world)
        at.load()
        at.save({"done": 2}, own(world.rank + 10))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lost)
        with pytest.raises(KeyboardInterrupt):
            together(2, save)
    found = together(2, lambda world: checkpoint(tmp_path, world=world).load())
    assert [same(one, {"done": 1}, own(rank)) for rank, one in enumerate(found)] == [True, True]
