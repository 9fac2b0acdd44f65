"""The served router computes what Transformers and the head compute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from bundle.errors import BundleError
from router.semantic import SemanticRouter

if TYPE_CHECKING:
    from tests.stand_ins.exported_router import Exported

ROOT = Path(__file__).parents[2]
TEXTS = [
    "What is 17 times 24?",
    "",
    "Écrivez une fonction Python — 日本語 🙂 that sorts a list",
    "a",
    "Tell me a story about " + "a very small mouse and " * 60,
    "   spaces   and\nnew\n\nlines\t",
    "<s> [CLS] markers [SEP] in the text </s>",
    "What is 17 times 24?",
    "word " * 20,
]


def by_transformers(exported: Exported, text: str, max_tokens: int, temperature: float) -> list[float]:
    """The reference, one text at a time, with none of our tokenisation, pooling or export."""
    tokenizer = AutoTokenizer.from_pretrained(exported.encoder.folder)
    model = AutoModel.from_pretrained(exported.encoder.folder, dtype=torch.float32).eval()
    words = tokenizer(text, add_special_tokens=False)["input_ids"]
    room = max_tokens - 2
    if len(words) > room:
        words = words[: room // 2 + room % 2] + words[len(words) - room // 2 :]
    ids = torch.tensor([[tokenizer.cls_token_id, *words, tokenizer.sep_token_id]])
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(dim=0)
        logits = torch.from_numpy(exported.head.W) @ hidden + torch.from_numpy(exported.head.b)
    return torch.softmax(logits.double() / temperature, dim=0).tolist()


def test_probabilities_equal_those_of_transformers(exported: Exported) -> None:
    served = exported.router.probabilities(TEXTS)
    expected = np.array([by_transformers(exported, text, 48, 1.7) for text in TEXTS])
    assert served.dtype == np.float32
    assert served.shape == (len(TEXTS), 4)
    assert np.abs(served - expected).max() < 1e-4
    assert np.ptp(expected, axis=0).max() > 0.1  # else the comparison would say nothing


def test_order_and_batch_composition_do_not_matter(exported: Exported) -> None:
    together = exported.router.probabilities(TEXTS)
    alone = np.vstack([exported.router.probabilities([text]) for text in TEXTS])
    backwards = exported.router.probabilities(TEXTS[::-1])[::-1]
    many = exported.router.probabilities(TEXTS * 30)[-len(TEXTS) :]  # more than one forward pass holds
    for other in (alone, backwards, many):
        assert np.abs(together - other).max() < 1e-5


def test_rows_sum_to_one_and_no_texts_are_legal(exported: Exported) -> None:
    assert np.abs(exported.router.probabilities(TEXTS).sum(axis=1) - 1).max() < 1e-6
    assert exported.router.probabilities([]).shape == (0, 4)


def test_of_text_beyond_max_tokens_head_and_tail_are_read(exported: Exported) -> None:
    long = "cat " + "mouse " * 200 + "dog"
    shorter = SemanticRouter(exported.folder, exported.router.labels, 16, 1.0)
    assert shorter.probabilities([long])[0].tolist() == pytest.approx(
        by_transformers(exported, long, 16, 1.0), abs=1e-4
    )
    middle = "cat " + "mouse " * 90 + "a story of zebras " + "mouse " * 90 + "dog"
    assert np.array_equal(shorter.probabilities([long]), shorter.probabilities([middle]))
    assert not np.array_equal(shorter.probabilities([long]), shorter.probabilities([long + " and a cat"]))
    head = SemanticRouter(exported.folder, exported.router.labels, 16, 1.0, keeps="head")
    assert np.array_equal(head.probabilities([long]), head.probabilities([long + " and a cat"]))


def test_temperature_flattens_and_keeps_the_order(exported: Exported) -> None:
    labels = exported.router.labels
    sharp = SemanticRouter(exported.folder, labels, 48, 0.5).probabilities(TEXTS)
    flat = SemanticRouter(exported.folder, labels, 48, 5.0).probabilities(TEXTS)
    assert (sharp.max(axis=1) > flat.max(axis=1)).all()
    assert (sharp.argmax(axis=1) == flat.argmax(axis=1)).all()


def test_a_lone_surrogate_is_routed(exported: Exported) -> None:
    text = json.loads('"half \\ud83d a smile"')
    assert np.array_equal(
        exported.router.probabilities([text]), exported.router.probabilities(["half ? a smile"])
    )


def test_another_number_of_labels_is_refused(exported: Exported) -> None:
    with pytest.raises(BundleError, match="4 outputs, the bundle has 2 experts"):
        SemanticRouter(exported.folder, ("expert-0", "expert-1"), 48, 1.0)


def test_a_graph_that_is_none_is_refused(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"^router/model\.onnx: ONNX Runtime can't load it"):
        SemanticRouter(tmp_path, exported.router.labels, 48, 1.0)


def test_the_room_needs_no_training_libraries() -> None:
    code = (
        "import importlib, pkgutil, sys, router\n"
        "for found in pkgutil.iter_modules(router.__path__, 'router.'): importlib.import_module(found.name)\n"
        "print(sorted({'torch', 'transformers', 'sklearn', 'scipy', 'peft'} & set(sys.modules)))\n"
        "print('router.semantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]
