from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.stand_ins.tiny_comparison import silent
from tests.stand_ins.tiny_line import TinyRun
from training.errors import TrainingError
from training.run import Run, finished_run


@pytest.fixture
def copied(smaller: TinyRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(smaller.folder, tmp_path / "run"))


def test_a_run_is_read_back_from_wherever_it_was_copied_to(tiny_run: Run, copied: Path) -> None:
    run = finished_run(copied, silent())
    assert run.warmup.folder == copied / "stages" / "warmup"
    assert run.assigned.assignment.labels.tolist() == tiny_run.assigned.assignment.labels.tolist()


def test_a_folder_without_a_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"run\.json can't be read"):
        finished_run(tmp_path, silent())
    (tmp_path / "run.json").write_text('{"recipe": {"no": "such"}}')
    with pytest.raises(TrainingError, match="no recipe of this version"):
        finished_run(tmp_path, silent())


def test_a_missing_stage_is_named(copied: Path) -> None:
    shutil.rmtree(copied / "stages" / "assignment")
    with pytest.raises(TrainingError, match="stage 'assignment' is not there"):
        _ = finished_run(copied, silent()).assigned


def test_rows_that_changed_since_are_noticed(copied: Path, tmp_path: Path) -> None:
    record = json.loads((copied / "run.json").read_text())
    rows = Path(record["recipe"]["data"]["files"][0]).read_text().splitlines(keepends=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(rows[:-3]))  # two rows and one that can't be used
    record["recipe"]["data"]["files"] = [str(fewer)]
    (copied / "run.json").write_text(json.dumps(record))
    with pytest.raises(TrainingError, match=r"60 rows, and its files hold 58 now"):
        _ = finished_run(copied, silent()).assigned


@pytest.mark.parametrize("name", ["warmup", "assignment", "router"])
def test_what_another_version_left_is_a_sentence(name: str, copied: Path) -> None:
    file = copied / "stages" / name / "stage.json"
    record = json.loads(file.read_text())
    record["facts"] = {"of": "another form"}
    file.write_text(json.dumps(record))
    run = finished_run(copied, silent())
    with pytest.raises(TrainingError, match=rf"{name}: another version of this software left it"):
        _ = {"warmup": lambda: run.warmup, "assignment": lambda: run.assigned, "router": lambda: run.router}[
            name
        ]()
