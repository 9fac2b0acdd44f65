from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import scale_table, shapes_table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_shapes_in_the_docs_are_what_the_code_gives() -> None:
    assert shapes_table() in (DOCS / "plan.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_scale_in_the_docs_is_what_the_code_gives() -> None:
    assert scale_table() in (DOCS / "measurements" / "scale.md").read_text(encoding="utf-8")
