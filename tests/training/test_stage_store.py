"""Stages: kept while nothing they depend on changed, there whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from training.progress import Narrator
from training.stage_store import StageStore


class Kitchen:
    """A store and a stage that counts how often it is done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = 0
        self.said = io.StringIO()

    def run(self, *, fail: bool = False, name: str = "soup", **depends_on: Any) -> Any:
        def work(folder: Path) -> dict[str, Any]:
            self.done += 1
            (folder / "pot.txt").write_text(f"{self.done} {depends_on}")
            if fail:
                raise RuntimeError("burnt")
            return {"salt": 0.1, "sizes": (1, 2), "deep": {"a": [None, True]}}

        store = StageStore(self.folder, Narrator(Console(file=self.said, width=200)))
        result = store.run(name, "Cook the soup", depends_on, work)
        assert store.results == {name: result}
        return result


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path / "run" / "stages")


def test_a_finished_stage_is_kept_with_its_facts(kitchen: Kitchen) -> None:
    first, second = kitchen.run(water=1), kitchen.run(water=1)
    assert (first.kept, second.kept, kitchen.done) == (False, True, 1)
    assert second.folder == first.folder == kitchen.folder / "soup"
    assert (second.digest, second.facts) == (first.digest, first.facts)
    assert (second.seconds, second.peak_memory_mb) == (first.seconds, first.peak_memory_mb)
    assert second.facts == {"salt": 0.1, "sizes": [1, 2], "deep": {"a": [None, True]}}
    assert (first.folder / "pot.txt").read_text() == "1 {'water': 1}"
    assert first.peak_memory_mb > 10
    assert "Cook the soup" in kitchen.said.getvalue()
    assert "done before, kept" in kitchen.said.getvalue()


def test_the_order_of_what_it_depends_on_does_not_matter(kitchen: Kitchen) -> None:
    kitchen.run(water=1, salt={"a": 1, "b": 2})
    assert kitchen.run(salt={"b": 2, "a": 1}, water=1).kept


@pytest.mark.parametrize("changed", [{"water": 2}, {"water": 1, "salt": 1}, {"water": "1"}, {}])
def test_a_changed_dependency_does_it_again(kitchen: Kitchen, changed: dict[str, Any]) -> None:
    first = kitchen.run(water=1)
    second = kitchen.run(**changed)
    assert not second.kept
    assert second.digest != first.digest
    assert (second.folder / "pot.txt").read_text() == f"2 {changed}"
    record = json.loads((second.folder / "stage.json").read_text())
    assert record["depends_on"] == changed  # for whoever wants to know why it was done again


def test_two_stages_do_not_stand_for_each_other(kitchen: Kitchen) -> None:
    assert kitchen.run(water=1).digest != kitchen.run(name="stew", water=1).digest
    assert kitchen.done == 2


def test_a_stage_that_fails_leaves_nothing_and_is_done_again(kitchen: Kitchen) -> None:
    with pytest.raises(RuntimeError, match="burnt"):
        kitchen.run(fail=True, water=1)
    assert not (kitchen.folder / "soup").exists()
    again = kitchen.run(water=1)
    assert not again.kept
    assert sorted(path.name for path in kitchen.folder.iterdir()) == ["soup"]
    assert sorted(path.name for path in again.folder.iterdir()) == ["pot.txt", "stage.json"]


def test_a_stage_that_fails_to_be_done_again_leaves_the_old_one(kitchen: Kitchen) -> None:
    kitchen.run(water=1)
    with pytest.raises(RuntimeError, match="burnt"):
        kitchen.run(fail=True, water=2)
    assert kitchen.run(water=1).kept


@pytest.mark.parametrize("record", ["", "{", "[]", '{"digest": 3}', "{}"])
def test_a_broken_record_is_no_stage(kitchen: Kitchen, record: str) -> None:
    first = kitchen.run(water=1)
    (first.folder / "stage.json").write_text(record)
    assert not kitchen.run(water=1).kept


def test_what_a_killed_run_left_half_done_is_swept_away(kitchen: Kitchen) -> None:
    kitchen.folder.mkdir(parents=True)
    partial = kitchen.folder / ".soup.partial-stage"
    partial.mkdir()
    (partial / "old.txt").write_text("half")
    result = kitchen.run(water=1)
    assert not (result.folder / "old.txt").exists()
    assert not partial.exists()
