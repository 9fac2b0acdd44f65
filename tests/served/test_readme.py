"""Every command of the README is run here, or named here with the test that runs it."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.stand_ins.live_server import LiveServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines() if line.strip()]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]

RUN_ELSEWHERE = {
    "make serve": "tests/test_make.py::test_serve_from_a_finished_bundle (slow)",
    "make test": "it is what runs this",
    "gradientspace train --data": "the demo_bundle fixture trains by --data, --base-model comes from the recipe",
    "gradientspace train recipes/demo.yaml": "the demo_bundle fixture",
    "gradientspace serve": "the server fixture; engine flags in tests/service/engine/test_start.py",
}


def _gradientspace(arguments: list[str], bundle: Path) -> str:
    (rows,) = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["recipe"]["data"]["files"]
    here = {"runs/mine": str(bundle), "runs/demo/rows.jsonl": rows}
    with contextlib.chdir(ROOT):
        done = CliRunner().invoke(app, [here.get(word, word) for word in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_no_command_is_left_out() -> None:
    run_here = (
        *("gradientspace train --help-recipe", "gradientspace plan", "gradientspace diagnose"),
        *("gradientspace inspect", "gradientspace route", "curl"),
    )
    unknown = [line for line in COMMANDS if not line.startswith((*run_here, *RUN_ELSEWHERE))]
    assert unknown == []
    assert all(any(line.startswith(start) for line in COMMANDS) for start in (*run_here, *RUN_ELSEWHERE))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (line, says)
        for line in COMMANDS
        for start, says in (
            ("gradientspace train --help-recipe", "lora.rank = 32  (paper)"),
            ("gradientspace plan", "22,544,384"),
            ("gradientspace diagnose", "float32"),
            ("gradientspace inspect", "expert-0"),
            ("gradientspace route", "expert-"),
        )
        if line.startswith(start)
    ],
)
def test_commands_without_a_server(line: str, says: str, demo_bundle: Path) -> None:
    assert says in _gradientspace(shlex.split(line)[1:], demo_bundle)


def test_curl_lines(server: LiveServer) -> None:
    outputs = []
    for line in (line for line in COMMANDS if line.startswith("curl")):
        here = line.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        outputs.append(done.stdout)
    assert '"ready"' in outputs[0]
    assert "gradientspace_router_seconds_bucket" in outputs[1]


def test_the_sdk_example(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = PYTHON
    exec(compile(example.replace("http://127.0.0.1:8000", server.url), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.match(r"expert-\d@[0-9a-f]{12} \S", printed)


def test_the_table_of_headers_is_the_code() -> None:
    from service import headers

    named = {*headers.ON_EVERY_ANSWER, *headers.ON_EVERY_DECISION}
    assert set(re.findall(r"^\| `(x-[a-z-]+)` \|", README, flags=re.MULTILINE)) == named
