"""Stages: kept while nothing they depend on changed, there whole or not at all."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.stand_ins.thread_world import together
from training.progress import Narrator
from training.stages.processes import World
from training.stages.store import Stage, StageResult, StageStore


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

        store = StageStore(self.folder, Narrator(Console(file=self.said, width=200)), World())
        result = store.run(Stage(name, "Cook the soup", depends_on), work)
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


SOUP, STEW, TEA = (Stage(name, f"Cook the {name}", {"water": 1}) for name in ("soup", "stew", "tea"))


def store_in(folder: Path, world: World | None = None) -> StageStore:
    return StageStore(folder, Narrator(Console(file=io.StringIO())), world or World())


def cook(folder: Path) -> dict[str, Any]:
    (folder / "pot.txt").write_text("hot")
    return {"salt": 1}


def test_what_comes_before_is_done_only_if_the_stage_is(tmp_path: Path) -> None:
    called: list[str] = []
    for _ in range(2):
        store_in(tmp_path).run(SOUP, cook, before=lambda: called.append("shopping"))
    assert called == ["shopping"]


def test_a_forgotten_stage_is_done_again(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.forget(SOUP)  # never done: nothing to forget
    store.run(SOUP, cook)
    store.forget(SOUP)
    assert store.kept(SOUP) is None
    assert not store.run(SOUP, cook).kept


def test_a_stages_standing_is_kept_until_it_is_done(tmp_path: Path) -> None:
    store = store_in(tmp_path)

    def burnt(folder: Path) -> dict[str, Any]:
        store.checkpoint(SOUP, 0.0).save({"stirred": 3}, {"spoon": torch.ones(2)})
        store.checkpoint(SOUP, 0.0, "lid").save({"stirred": 4}, {})
        raise RuntimeError("burnt")

    with pytest.raises(RuntimeError, match="burnt"):
        store.run(SOUP, burnt)
    again = store_in(tmp_path)
    saved, lid = again.checkpoint(SOUP, 0.0).load(), again.checkpoint(SOUP, 0.0, "lid").load()
    assert saved is not None
    assert lid is not None
    assert (saved.facts, lid.facts) == ({"stirred": 3}, {"stirred": 4})
    assert again.checkpoint(STEW, 0.0).load() is None
    assert again.checkpoint(Stage("soup", "", {"water": 2}), 0.0).load() is None
    again.run(SOUP, cook)
    assert [path.name for path in tmp_path.iterdir()] == ["soup"]


def test_a_standing_that_outlived_its_stage_is_swept_away(tmp_path: Path) -> None:
    """A kill between the stage's last rename and its clearing up: it may be as large as the cache."""
    store = store_in(tmp_path)
    store.run(SOUP, cook)
    store.checkpoint(SOUP, 0.0).save({"stirred": 3}, {"spoon": torch.ones(2)})
    assert store_in(tmp_path).run(SOUP, cook).kept
    assert [path.name for path in tmp_path.iterdir()] == ["soup"]


def test_processes_do_a_stage_together_and_the_first_ones_counts(tmp_path: Path) -> None:
    def work(world: World) -> tuple[StageResult, StageResult, list[Path]]:
        folders: list[Path] = []

        def together_(folder: Path) -> dict[str, Any]:
            folders.append(folder)
            (folder / "by.txt").write_text(str(world.rank))
            return {"ranks": world.gather(world.rank), "by": world.rank}

        store = store_in(tmp_path, world)
        first, again = (store.run(SOUP, together_) for _ in range(2))
        return first, again, folders

    everyone = together(3, work)
    for first, again, folders in everyone:
        assert (first.kept, again.kept, len(folders)) == (False, True, 1)
        assert first.facts == again.facts == {"ranks": [0, 1, 2], "by": 0}
        assert (first.folder / "by.txt").read_text() == "0"
    assert len({folder for _, _, (folder,) in everyone}) == 3
    assert not any(folder.exists() for _, _, (folder,) in everyone)
    assert [path.name for path in tmp_path.iterdir()] == ["soup"]


def test_dealt_out_stages_are_one_processs_each_and_what_is_kept_is_not_dealt(tmp_path: Path) -> None:
    store_in(tmp_path).run(STEW, cook)
    done_by: list[tuple[str, int]] = []
    lock = threading.Lock()

    def work(world: World) -> list[StageResult]:
        def job(stage: Stage) -> Any:
            def do(folder: Path) -> dict[str, Any]:
                with lock:
                    done_by.append((stage.name, world.rank))
                return {"of": stage.name}

            return stage, do

        store = store_in(tmp_path, world)
        results = store.deal_out([job(stage) for stage in (SOUP, STEW, TEA)])
        assert list(store.results) == ["soup", "stew", "tea"]
        return results

    for results in together(2, work):
        assert [result.kept for result in results] == [False, True, False]
        assert [result.facts for result in results] == [{"of": "soup"}, {"salt": 1}, {"of": "tea"}]
    assert sorted(done_by) == [("soup", 0), ("tea", 1)]
