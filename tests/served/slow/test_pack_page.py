"""docs/pack.md as it stands: adapters made there are packed, routed, served and pushed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bundle.read import Bundle, read_bundle
from tests.stand_ins.live_server import started

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "pack.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()
]
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
RUN_ELSEWHERE = {
    "gradientspace serve": "test_both_experts_answer, below (slow)",
    "gradientspace push": "tests/bundle/test_push.py",
}
PROMPTS = {
    "code": "Write a Python function for what happens to the coins.",
    "story": "Tell a bedtime story about the coins.",
}


class Page:
    """Runs the page's lines with `runs/pack` in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def here(self, text: str) -> str:
        return text.replace("runs/pack", str(self.folder))

    def run(self, line: str) -> str:
        program, *arguments = shlex.split(self.here(line))
        start = ["-m", "cli.main"] if program == "gradientspace" else []
        return self.python(*start, *arguments)

    def python(self, *arguments: str) -> str:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def bundle(self) -> Bundle:
        return read_bundle(self.folder / "bundle")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page, run down to the first bundle."""
    page = Page(tmp_path_factory.mktemp("pack"))
    page.run(COMMANDS[0])
    page.python("-c", page.here(EXAMPLE))
    page.run(COMMANDS[1])
    return page


def test_no_command_is_left_out() -> None:
    run_here = ("python -m demo.rows", *(f"gradientspace {verb}" for verb in ("pack", "inspect", "route")))
    assert [line for line in COMMANDS if not line.startswith((*run_here, *RUN_ELSEWHERE))] == []
    assert [line.split(" --")[0] for line in COMMANDS[:2]] == ["python -m demo.rows", "gradientspace pack"]


@pytest.mark.slow
def test_adapters_and_rows_became_a_bundle(page: Page) -> None:
    manifest = page.bundle.manifest
    assert manifest.label_order == ("code", "story")
    assert [expert.lora.rank for expert in manifest.experts if expert.lora] == [8, 16]
    assert manifest.calibration.agreement is not None
    assert manifest.calibration.agreement > 0.9
    (inspect,) = (line for line in COMMANDS if line.startswith("gradientspace inspect"))
    assert "K = 2" in page.run(inspect)


@pytest.mark.slow
def test_route_sends_each_prompt_to_its_adapter(page: Page) -> None:
    (route,) = (line for line in COMMANDS if line.startswith("gradientspace route"))
    assert all(prompt in route for prompt in PROMPTS.values())
    rows = json.loads(page.run(f"{route} --json"))
    assert {row["text"]: row["expert"] for row in rows} == {prompt: name for name, prompt in PROMPTS.items()}


@pytest.mark.slow
def test_a_head_takes_the_place_of_rows(page: Page) -> None:
    (pack,) = (line for line in COMMANDS if "--head" in line)
    page.run(pack)
    manifest = read_bundle(page.folder / "bundle-of-a-head").manifest
    assert manifest.label_order == ("code", "story")
    assert manifest.calibration.held_out_rows == 0


@pytest.mark.slow
def test_both_experts_answer(page: Page, tmp_path: Path) -> None:
    situation = "Tom has 14 coins. Mia takes 5 of them."
    asks = {"code": "Put Tom's rule into Python.", "story": "Turn this into a bedtime story."}
    expected = {"code": r"^def \w+\(", "story": r"The end\.$"}
    with started(page.folder / "bundle", tmp_path) as live:
        live.wait_until_ready()
        with httpx.Client(base_url=live.url, timeout=600) as http:
            for expert in page.bundle.manifest.experts:
                messages = [{"role": "user", "content": f"{situation} {asks[expert.name]}"}]
                body = {"messages": messages, "temperature": 0, "max_tokens": 60}
                routed = http.post("/v1/chat/completions", json=body | {"model": "auto"})
                assert routed.status_code == 200, routed.text
                assert routed.headers["x-gradientspace-expert"] == expert.name
                assert routed.json()["model"] == expert.engine_name
                said = routed.json()["choices"][0]["message"]["content"]
                assert re.search(expected[expert.name], said.strip()), said
                named = http.post("/v1/chat/completions", json=body | {"model": expert.name})
                assert named.json()["choices"][0]["message"]["content"] == said
            listed = {card["id"] for card in http.get("/v1/models").json()["data"]}
            assert {"auto", "code", "story", "base"} <= listed
