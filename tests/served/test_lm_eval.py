"""lm-evaluation-harness's client for OpenAI's completions runs a small local task against the service."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from demo.rows import make_rows
from tests.stand_ins.live_server import LiveServer

pytestmark = (
    pytest.mark.slow
)  # a harness of another house over the endpoints that test_openai_client asks in seconds

_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{instruction}}}}"
{rest}
"""
_WRITTEN = """\
doc_to_target: output
generation_kwargs: {until: ["</s>"], max_gen_toks: 8, temperature: 0.0, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
_CHOSEN = """\
doc_to_choice: [" 1", " 2"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def test_lm_evals_client_writes_and_scores(
    server: LiveServer, http: httpx.Client, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="NOT TESTED: lm-eval is not installed")
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows(1, 1, "heldout")))
    (tmp_path / "tasks").mkdir()
    for name, kind, rest in (("written", "generate_until", _WRITTEN), ("chosen", "multiple_choice", _CHOSEN)):
        text = _TASK.format(name=name, kind=kind, rows=rows, rest=rest)
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text)
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "auto",
            "base_url": f"{server.url}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": str(base),
            "max_length": 256,
        },
        tasks=["written", "chosen"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    assert found["results"]["written"]["exact_match,none"] >= 0
    assert 0 <= found["results"]["chosen"]["acc,none"] <= 1
    for sample in found["samples"]["written"]:
        prompt = sample["arguments"][0][0]
        ids = http.post("/tokenize", json={"prompt": prompt, "add_special_tokens": False}).json()["tokens"]
        asked = {"model": "auto", "prompt": ids, "max_tokens": 8, "temperature": 0, "stop": ["</s>"]}
        ours = http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        assert sample["resps"][0][0] == ours
    for sample in found["samples"]["chosen"]:
        assert all(float(answer[0][0]) < 0 for answer in sample["resps"])
