from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from benchmarks.router import main, over_eager
from benchmarks.router_rows import Rows, held_out_rows
from benchmarks.router_timing import latencies, percentiles, texts_of_length
from benchmarks.serving_servers import BenchmarkError
from router.protocol import Router
from tests.stand_ins.commands import run_command

ROOT = Path(__file__).parents[2]


def written(folder: Path, **changed: Any) -> Any:
    columns: dict[str, Any] = {
        "text": [f"text {number}" for number in range(6)],
        "response": ["answer"] * 6,
        "label": list(range(6)),
        "use": ["fit", "judge", "teach"] * 2,
    }
    (folder / "report").mkdir()
    columns = {name: column for name, column in (columns | changed).items() if column is not None}
    pq.write_table(pa.table(columns), folder / "report" / "held_out.parquet")
    return SimpleNamespace(folder=folder)


def test_only_rows_that_nothing_was_fitted_on_judge(tmp_path: Path) -> None:
    found = held_out_rows(written(tmp_path))
    assert sorted(found.judged.labels.tolist()) == [1, 4]
    assert sorted(found.fitted.labels.tolist()) == [0, 3]
    assert sorted(found.teaching.labels.tolist()) == [2, 5]
    for text, label in zip(found.judged.texts, found.judged.labels, strict=True):
        assert text == f"text {label}"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"text": pa.array([None] * 6, pa.string())}, "labels without texts"),
        ({"use": ["fit", "teach"] * 3}, "none can judge"),
        ({"use": None}, "no column 'use'"),
    ],
)
def test_rows_that_can_not_judge_are_a_sentence(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=said):
        held_out_rows(written(tmp_path, **changed))


def test_no_held_out_rows_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"holds no held-out rows.*Train it again"):
        held_out_rows(SimpleNamespace(folder=tmp_path))  # type: ignore[arg-type]


def test_texts_of_a_length_are_of_one_label_and_that_long() -> None:
    tokenizer = Tokenizer(WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    rows = Rows(["a a a", "b b b b", "a a", "b b"], [""] * 4, np.array([0, 1, 0, 1]))
    texts = texts_of_length(rows, tokenizer, 5, 2)
    assert texts == ["a a a a a", "b b b b b"]


def test_routers_are_timed_in_turn_and_each_text_once() -> None:
    calls: list[tuple[str, str]] = []

    class Named(Router):
        labels = ("expert-0",)

        def __init__(self, name: str) -> None:
            self.name = name

        def probabilities(self, texts: Any) -> Any:
            calls.extend((self.name, text) for text in texts)
            return np.ones((len(texts), 1), np.float32)

    found = latencies({"a": Named("a"), "b": Named("b")}, ["one", "two"])
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2}
    assert calls[2:] == [("b", "one"), ("a", "one"), ("a", "two"), ("b", "two")]
    assert percentiles([1.0] * 98 + [5.0, 9.0])["p50_ms"] == 1.0


def test_the_pipeline_as_it_comes_counts_first_and_in_batches_beside_it() -> None:
    rates = {"semantic": 300.0, "eager, one by one": 60.0, "eager, batches of 8": 150.0}
    found = over_eager(rates, "semantic")
    assert found == {"throughput_over_eager": 5.0, "throughput_over_eager_batched": 2.0}
    assert set(over_eager({"keyword": 9.0}, "gradient").values()) == {None}


def test_a_bundle_without_held_out_rows_ends_with_one_sentence(tmp_path: Path) -> None:
    done = run_command(main, str(tmp_path))
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)  # no traceback
    assert "there is no bundle.json in it" in done.stderr


@pytest.mark.slow
def test_the_quick_benchmark(demo_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.router", str(demo_bundle), "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(file.read_text())
    assert record["served"] == "semantic"
    assert set(record["routers"]) >= {"keyword", "embedding", "semantic", "gradient"}
    for found in record["routers"].values():
        assert {"agreement", "macro_f1", "ece", "p50_ms", "p95_ms", "p99_ms"} <= set(found)
    assert record["throughput_over_eager"] > 0 < record["throughput_over_eager_batched"]
    assert 0 < record["ceiling"] <= 1
