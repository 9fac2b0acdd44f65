"""`gradientspace inspect` and `gradientspace route` on a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bundle.read import read_bundle
from cli.inspect import inspect
from cli.route import route
from router.load import load_router
from tests.stand_ins.small_bundle import reseal

ROOT = Path(__file__).parents[2]

app = typer.Typer()
app.command()(inspect)
app.command()(route)


def run(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_inspect_shows_experts_router_and_base(pristine: Path) -> None:
    code, out, _ = run("inspect", pristine)
    bundle = read_bundle(pristine)
    assert code == 0
    expert = bundle.manifest.experts[1]
    line = next(line for line in out.splitlines() if "expert-1" in line)
    assert all(part in line for part in ("20", "33.3%", "term1", expert.digest[:12], "kB"))
    for part in ("tiny", "K = 3", "87.5% of 40 held-out rows", "2.000", bundle.digest, "fallback"):
        assert part in out


def test_inspect_json_is_complete(pristine: Path) -> None:
    code, out, _ = run("inspect", pristine, "--json")
    summary = json.loads(out)
    assert code == 0
    assert summary["k"] == 3
    assert summary["router"]["agreement"] == 0.875
    assert [expert["rows"] for expert in summary["experts"]] == [10, 20, 30]
    sizes = [path.stat().st_size for path in pristine.rglob("*") if path.is_file()]
    assert summary["bytes"] == sum(sizes)


def test_route_says_what_the_router_says(pristine: Path) -> None:
    texts = ["tell me a story", "add two numbers [bold]"]
    code, out, _ = run("route", pristine, *texts, "--json")
    assert code == 0
    rows = json.loads(out)
    bundle = read_bundle(pristine)
    expected = load_router(bundle).probabilities(texts)
    for row, text, probabilities in zip(rows, texts, expected, strict=True):
        assert row["text"] == text
        assert list(row["probabilities"].values()) == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert row["expert"] == bundle.manifest.label_order[probabilities.argmax()]
        assert row["confidence"] == pytest.approx(probabilities.max(), abs=1e-6)


def test_route_takes_lines_of_stdin_and_prints_a_table(pristine: Path) -> None:
    code, out, _ = run("route", pristine, stdin="tell me [a] story\nadd two numbers\n")
    assert code == 0
    asked = ["tell me [a] story", "add two numbers"]
    best = load_router(read_bundle(pristine)).probabilities(asked)
    for text, row in zip(asked, best, strict=True):
        line = next(line for line in out.splitlines() if text in line)
        assert f"expert-{row.argmax()}" in line
        assert f"{row.max():.3f}" in line


def test_route_below_the_threshold_names_the_fallback(bundle_folder: Path) -> None:
    reseal(bundle_folder, lambda content: content["calibration"].update(threshold=1.0))
    _, out, _ = run("route", bundle_folder, "tell me a story", "--json")
    assert json.loads(out)[0]["expert"] == "fallback"


@pytest.mark.parametrize("command", ["inspect", "route"])
def test_a_damaged_bundle_is_one_sentence_and_exit_code_2(bundle_folder: Path, command: str) -> None:
    (bundle_folder / "router" / "head.safetensors").unlink()
    code, out, err = run(command, bundle_folder, stdin="")
    assert code == 2
    assert out == ""
    assert err.startswith("router/head.safetensors")
    assert "missing" in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_router_that_can_not_be_loaded_is_a_sentence_too(bundle_folder: Path) -> None:
    (bundle_folder / "router" / "model.onnx").write_bytes(b"no graph")
    reseal(bundle_folder)
    code, _, err = run("route", bundle_folder, "text")
    assert code == 2
    assert err.startswith("router/model.onnx")


def test_the_commands_are_light_to_import() -> None:
    heavy = "{'numpy', 'onnxruntime', 'pydantic', 'torch', 'tokenizers'}"
    code = f"import sys, cli.route, cli.inspect; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
