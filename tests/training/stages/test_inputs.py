"""What is wrong with a run's inputs is said before any weight moves."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.stand_ins.tiny_encoder import save_encoder
from training.errors import RowsError, TrainingError
from training.progress import Narrator
from training.recipe import read_recipe
from training.stages.inputs import Inputs, read_inputs

GOOD = {"instruction": "Add.", "output": "5"}
BAD = {"instruction": "Add.", "output": ""}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


class Reading:
    def __init__(self, folder: Path, base: Path, encoder: Path) -> None:
        self.file = folder / "rows.jsonl"
        self.given: dict[str, Any] = {
            "data.files": [str(self.file)], "base.model": str(base), "router.encoder": str(encoder),
            "router.max_tokens": 64, "output": str(folder / "run"), "data.max_length": 100,
            "split.validation_at_least": 2, "split.probe_at_least": 8,
        }  # fmt: skip
        self.said = io.StringIO()

    def __call__(self, records: list[Any], **changes: Any) -> Inputs:
        # Each row with a prompt of its own, but for those that are to be left out.
        told = [
            {**each, "instruction": f"{each['instruction']} {n}"} if each is GOOD else each
            for n, each in enumerate(records)
        ]
        self.file.write_text("".join(json.dumps(record) + "\n" for record in told))
        given = self.given | {key.replace("__", "."): value for key, value in changes.items()}
        narrator = Narrator(Console(file=self.said, width=300, highlight=False))
        return read_inputs(read_recipe(None, given, []), narrator)


@pytest.fixture
def reading(tmp_path: Path, base_folder: Path, encoder: Path) -> Reading:
    return Reading(tmp_path, base_folder, encoder)


@pytest.mark.parametrize(("bad", "limit"), [(1, 0.05), (2, 0.1), (29, 0.29), (7, 0.07)])
def test_exactly_at_the_limit_goes_on_and_one_more_stops(reading: Reading, bad: int, limit: float) -> None:
    total = round(bad / limit)
    inputs = reading([*[GOOD] * (total - bad), *[BAD] * bad], data__max_unusable=limit)
    assert (len(inputs.rows), len(inputs.unusable)) == (total - bad, bad)
    with pytest.raises(RowsError) as caught:
        reading([*[GOOD] * (total - bad - 1), *[BAD] * (bad + 1)], data__max_unusable=limit)
    message = str(caught.value)
    assert f"{bad + 1} of {total} rows can't be used, more than data.max_unusable = {limit:.0%}" in message
    assert f"rows.jsonl:{total - bad}: it has no response" in message


def test_every_row_left_out_is_warned_of(reading: Reading) -> None:
    inputs = reading([*[GOOD] * 60, BAD, {"instruction": "word " * 200, "output": "5"}])
    said = reading.said.getvalue()
    assert "left out rows.jsonl:61: it has no response" in said
    assert re.search(r"left out rows\.jsonl:62: it has \d+ tokens, more than the limit of 100", said)
    assert [row.origin for row in inputs.unusable] == ["rows.jsonl:61", "rows.jsonl:62"]
    assert len(inputs.texts) == len(inputs.rows) == 60
    assert inputs.texts[0] == "Add. 0\n5"


def test_the_resolved_values_are_said_as_they_are(reading: Reading) -> None:
    reading([GOOD] * 30, data__licenses=["[mit]", "[/x]"])
    said = reading.said.getvalue()
    assert "lora.rank = 32  (paper)" in said
    assert "data.licenses = ('[mit]', '[/x]')  (recipe)" in said


def test_the_digest_follows_rows_and_template(reading: Reading, tmp_path: Path) -> None:
    first, again = reading([GOOD] * 30), reading([GOOD] * 30)
    assert first.digest == again.digest
    assert reading([*[GOOD] * 29, {"instruction": "Add.", "output": "6"}]).digest != first.digest
    (tmp_path / "t.jinja").write_text(first.chat_template + "{# another #}")
    assert reading([GOOD] * 30, base__chat_template=str(tmp_path / "t.jinja")).digest != first.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"base__model": "nobody/no-model-of-this-name"},
            "base.model: 'nobody/no-model-of-this-name' is neither",
        ),
        ({"router__encoder": "./nowhere"}, "router.encoder"),
        ({"router__max_tokens": 65}, "reads at most 64 tokens, not 65"),
        ({"data__files": ["no.jsonl"]}, "no.jsonl: there is no such file"),
        ({"split__validation_at_least": 500}, "30 rows are too few"),
    ],
)
def test_each_wrong_input_is_a_sentence(reading: Reading, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=re.escape(said)):
        reading([GOOD] * 30, **changes)


def test_a_folder_that_is_no_base(reading: Reading, base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nobase"
    folder.mkdir()
    with pytest.raises(TrainingError, match=r"nobase has no config\.json"):
        reading([GOOD] * 30, base__model=str(folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(
        TrainingError, match=r"knows no model of the kind that the config of '.*nobase' names"
    ):
        reading([GOOD] * 30, base__model=str(folder))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TrainingError, match=r"nobase has no tokenizer"):
        reading([GOOD] * 30, base__model=str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base_folder / name, folder)
    with pytest.raises(TrainingError, match=r"nobase.*safetensors"):
        reading([GOOD] * 30, base__model=str(folder))


@pytest.mark.parametrize(
    "card", ["---\nlicense: [a\n---\n", "no front matter", "---\nlicense: mit\n---\n", "---\nx: 1\n---\n"]
)
def test_a_model_card_may_be_broken(reading: Reading, base_folder: Path, tmp_path: Path, card: str) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    for path in base_folder.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "README.md").write_text(card)
    expected = "mit" if "mit" in card else None
    assert reading([GOOD] * 30, base__model=str(folder)).base.record.license == expected


def test_a_row_longer_than_the_base_can_read_is_left_out(reading: Reading) -> None:
    long = {"instruction": "word " * 600, "output": "5"}
    inputs = reading([*[GOOD] * 60, long], data__max_length=100_000)
    assert "more than the limit of 512" in inputs.unusable[0].reason
