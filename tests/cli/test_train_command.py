from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[2]


def _refusal(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["train", *arguments])
    assert done.exit_code == 2
    assert "Traceback" not in done.output
    return done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "data.files: no rows are given. Use --data FILE"),
        (["--data", "x.jsonl"], "base.model: no base model is given. Use --base-model"),
        (["--data", "x.jsonl", "--base-model", "b"], "output: no run folder is given. Use --output"),
        (["no-such-recipe.yaml"], "The recipe no-such-recipe.yaml can't be read"),
        (["recipes/demo.yaml", "--set", "lora.rnak=8"], "Recipe, lora.rnak"),
        (["recipes/demo.yaml", "--set", "lora.rank=many"], "Recipe, lora.rank"),
        (["recipes/demo.yaml", "--set", "lora.rank"], "is not of the form section.key=value"),
        (
            ["recipes/demo.yaml", "--base-model", "/no/such/model"],
            "base.model: '/no/such/model' is neither a folder",
        ),
        (["recipes/demo.yaml", "--set", "router.encoder=package:no_such_package"], "no_such_package"),
        (["recipes/demo.yaml", "--data", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (
            ["recipes/demo.yaml", "--memory-budget", "8quarts"],
            "memory_budget: this is not a size; write it as 8GB",
        ),
        (["recipes/demo.yaml", "--disk-budget", "-1GB"], "disk_budget: this is not a size"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert says in _refusal(*arguments)


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from cli.main import app\n"
        "for command in 'train plan diagnose serve route inspect pack push'.split():\n"
        "    assert CliRunner().invoke(app, [command, '--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'vllm', 'transformers', 'onnxruntime', 'sklearn', 'fastapi'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
