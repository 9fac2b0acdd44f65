"""What `make shop` writes is what its recipe reads, and the table asks that run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from training.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "shop.yaml"


def _would_do(target: str) -> str:
    """What make would run if nothing were there yet."""
    return subprocess.run(
        ["make", "--always-make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_the_rows_are_written_where_the_recipe_reads_them() -> None:
    recipe = read_recipe(RECIPE, {}, [])
    written = dict(re.findall(r"-m demo\.shop .*--split (\w+) --output (\S+)", _would_do("shop")))
    assert recipe.data.files == (written["train"],)
    assert recipe.data.held_out == (written["routing"],)
    assert re.findall(r"gradientspace train (\S+)", _would_do("shop")) == ["recipes/shop.yaml"]


def test_the_recipe_says_how_its_rows_are_made() -> None:
    lines = re.findall(r"python -m demo\.shop .*", _would_do("shop"))
    assert lines
    assert all(line in RECIPE.read_text(encoding="utf-8") for line in lines)


def test_what_is_served_and_judged_is_that_run() -> None:
    output = read_recipe(RECIPE, {}, []).output
    assert f"gradientspace serve {output}/bundle " in _would_do("shop")
    assert f"benchmarks.demo_skills {output} --demo shop" in _would_do("shop-table")
