"""The wheel: one package, whatever a user's own modules are called; what stands in it, and that it runs."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.wheel.one_package import PACKAGE, ROOMS, lay_out, renamed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("laid-out")
    lay_out(ROOT, folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A user's folder, whose modules are called as our rooms are."""
    for room in ROOMS:
        (tmp_path / f"{room}.py").write_text(f"raise SystemExit('somebody took the user's own {room}')\n")
    return tmp_path


def _run(laid_out: Path, elsewhere: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the laid-out package, standing in the user's folder."""
    return subprocess.run(
        [sys.executable, "-m", PACKAGE, *arguments],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(laid_out), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_of_a_room_is_one_from_inside_the_package(laid_out: Path) -> None:
    files = sorted((laid_out / PACKAGE).rglob("*.py"))
    assert len(files) > 150
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            named += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in named if name.split(".")[0] in ROOMS], path


def test_no_string_names_a_module_as_it_is_called_in_the_repository(laid_out: Path) -> None:
    """What loads by name (a worker's extension, a log handler, `python -m`) has to be told the name it runs under."""
    dotted = re.compile(rf"(?:{'|'.join(ROOMS)})(?:\.\w+)+")

    def is_module(name: str) -> bool:
        parts = name.split(".")
        return any(
            (ROOT.joinpath(*parts[:length])).with_suffix(".py").is_file() and len(parts) - length <= 1
            for length in range(2, len(parts) + 1)
        )

    wrong = []
    for path in (laid_out / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if dotted.fullmatch(text) and is_module(text):
                wrong.append((path.name, text))
    for path in (laid_out / PACKAGE / "service").rglob("*.json"):
        wrong += [(path.name, text) for text in re.findall(rf'"({dotted.pattern})"', path.read_text())]
    # A logger's name, and the name of a settings file.
    assert [each for each in wrong if each[1] not in ("service.console", "bundle.json")] == []


def test_it_runs_beside_modules_of_the_same_names(laid_out: Path, elsewhere: Path) -> None:
    for asked, says in (
        (["train", "--help-recipe"], "lora.rank = 32"),
        (["plan", "--base-model", str(ROOT / "demo" / "base"), "--rows", "2000"], "peak memory"),
        (["serve", "--print-config", "some/bundle"], 'bundle: "some/bundle"'),
        (["serve", "--help"], "--print-config"),
    ):
        done = _run(laid_out, elsewhere, *asked)
        assert done.returncode == 0, done.stderr
        assert says in done.stdout


def test_recipes_come_along(laid_out: Path, elsewhere: Path) -> None:
    done = _run(laid_out, elsewhere, "train", "recipes/demo.yaml", "--output", "run", "--base-model", "none")
    assert done.returncode == 2
    assert "'none' is neither a folder" in done.stderr  # so the recipe was read


@pytest.mark.parametrize(
    ("code", "becomes"),
    [
        ("from training.recipe import Recipe\n", "from gradientspace.training.recipe import Recipe\n"),
        ("if x:\n    from bundle import (a,\n b)\n", "if x:\n    from gradientspace.bundle import (a,\n b)\n"),
        ("import demo\n", "import gradientspace.demo as demo\n"),
        ("import demo.rows as rows\n", "import gradientspace.demo.rows as rows\n"),
        ("from . import training\nfrom trainings import a\n", "from . import training\nfrom trainings import a\n"),
        ('text = "from training.x import y"\n', 'text = "from training.x import y"\n'),
    ],
)  # fmt: skip
def test_imports_are_renamed_and_nothing_else(code: str, becomes: str) -> None:
    assert renamed(code, "a.py") == becomes


@pytest.mark.parametrize("code", ["import training.recipe\n", "import os, demo\n"])
def test_an_import_that_would_change_its_meaning_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match=r"a\.py:1: write it as `from"):
        renamed(code, "a.py")


@pytest.mark.slow
def test_the_wheel_installs_one_name(tmp_path: Path) -> None:
    wheel = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*wheel, str(ROOT)], check=True, capture_output=True, cwd=tmp_path)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = archive.namelist()
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert b"gradientspace = gradientspace.__main__:main" in archive.read(entries)
    assert {name.split("/")[0].removesuffix(".dist-info").split("-")[0] for name in names} == {PACKAGE}
    inside = {name.split("/")[1] for name in names if name.startswith(f"{PACKAGE}/")}
    assert {*ROOMS, "recipes", "__init__.py", "__main__.py"} == inside
    for data in (
        "recipes/demo.yaml",
        "recipes/shapes/llama-2-7b/config.json",
        "service/playground/index.html",
        "service/engine/vllm_logging.json",
        "training/rows/chat_template.jinja",
        "training/report/report.html.jinja",
        "demo/base/model.safetensors",
    ):
        assert f"{PACKAGE}/{data}" in names
