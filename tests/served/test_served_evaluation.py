"""`gradientspace evaluate --endpoint` against the live service, and against PEFT's own losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bundle.read import Bundle
from cli.main import app
from demo.rows import make_rows
from tests.stand_ins.live_server import LiveServer
from training.models.base_model import find_base
from training.models.finetune import load_adapter
from training.models.row_loss import pad_rows, row_losses
from training.recipe import BaseSection
from training.rows.reading import Row, parse_row
from training.rows.rendering import TokenRow, render


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in make_rows(2, 1, "heldout")))
    return path


def test_the_served_loss_is_that_of_the_adapter_with_peft(
    server: LiveServer, bundle: Bundle, base: Path, rows: Path, tmp_path: Path
) -> None:
    command = ["evaluate", "--endpoint", server.url, "--rows", str(rows), "--output", str(tmp_path)]
    ended = CliRunner().invoke(app, [*command, "--max-new-tokens", "24"])
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "served.json").read_text())["served"]
    records = [json.loads(line) for line in rows.read_text().splitlines()]
    assert set(found) == {record["source"] for record in records}
    assert all(one["exact_match"] is not None for one in found.values())
    assert f"| {records[0]['source']} | 2 |" in ended.stdout
    model = find_base(BaseSection(model=str(base), dtype="float32"))
    tokenizer = model.tokenizer()
    tokenizer.chat_template = (bundle.folder / "chat_template.jinja").read_text()
    for source, one in found.items():
        if len(one["answered_by"]) > 1:
            continue  # which of the two rows went where, the table doesn't say
        expert = bundle.expert_folder(int(next(iter(one["answered_by"])).removeprefix("expert-")))
        rendered = []
        for record in (record for record in records if record["source"] == source):
            row = parse_row("row", record)
            assert isinstance(row, Row)
            made = render(tokenizer, row, "last_user", 512)
            assert isinstance(made, TokenRow)
            rendered.append(made)
        adapted = load_adapter(model, expert, trainable=False, dtype=torch.float32).eval()
        with torch.no_grad():
            losses = row_losses(adapted.get_base_model(), pad_rows(rendered, 0, torch.device("cpu")))
        tokens = torch.tensor([len(row.input_ids) - row.prompt_length for row in rendered])
        assert one["response_tokens"] == int(tokens.sum())
        assert one["loss"] == pytest.approx(float((losses * tokens).sum() / tokens.sum()), abs=2e-3)
    assert any(len(one["answered_by"]) == 1 for one in found.values())


def test_a_named_model_answers_everything(server: LiveServer, rows: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--endpoint", f"{server.url}/v1", "--rows", str(rows), "--model", "expert-1"]
    ended = CliRunner().invoke(app, [*command, "--output", str(tmp_path), "--max-new-tokens", "4"])
    assert ended.exit_code == 0, ended.output
    found = json.loads((tmp_path / "served.json").read_text())["served"]
    assert {name for one in found.values() for name in one["answered_by"]} == {"expert-1"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rows", "{rows}", "--model", "no-such-model"], "answers 404"),
        ([], "--endpoint needs rows"),
        (["--rows", "no_such.jsonl"], "there is no such file"),
    ],
)
def test_mistakes_are_one_sentence(server: LiveServer, rows: Path, options: list[str], said: str) -> None:
    given = [option.format(rows=rows) for option in options]
    ended = CliRunner().invoke(app, ["evaluate", "--endpoint", server.url, *given])
    assert ended.exit_code == 2
    assert said in ended.output
    assert isinstance(ended.exception, SystemExit)


def test_nobody_there_is_one_sentence(rows: Path) -> None:
    ended = CliRunner().invoke(app, ["evaluate", "--endpoint", "http://127.0.0.1:9", "--rows", str(rows)])
    assert ended.exit_code == 2
    assert "can't be asked" in ended.output
