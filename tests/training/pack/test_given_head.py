"""A head that somebody trained already is taken only if it fits adapters and encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from training.errors import PackError
from training.pack.head import read_head

NAMES = ("math", "story", "code")


def write(path: Path, labels: str | None = None, **tensors: torch.Tensor) -> Path:
    whole = {"W": torch.arange(12.0).reshape(3, 4), "b": torch.zeros(3)} | tensors
    save_file(whole, path, metadata=None if labels is None else {"labels": labels})
    return path


def test_the_order_of_the_adapters_is_that_of_the_outputs(tmp_path: Path) -> None:
    head, labels = read_head(write(tmp_path / "h"), NAMES, 4, "encoder")
    assert labels == NAMES
    assert head.W.dtype == np.float32
    assert head.logits(np.ones((1, 4), np.float32)).tolist() == [[6.0, 22.0, 38.0]]


def test_unless_the_file_states_another(tmp_path: Path) -> None:
    path = write(tmp_path / "h", '["code", "math", "story"]', W=torch.ones(3, 4, dtype=torch.bfloat16))
    assert read_head(path, NAMES, 4, "encoder")[1] == ("code", "math", "story")


@pytest.mark.parametrize(
    ("labels", "tensors", "says"),
    [
        (None, {"W": torch.ones(2, 4), "b": torch.ones(2)}, "W: it has 2 outputs for 3 adapters"),
        (None, {"W": torch.ones(3, 5)}, "W: it reads 5 features, and the encoder 'bert' gives 4"),
        (None, {"b": torch.ones(2)}, "W [3, 4] and b [2] don't fit each other"),
        (None, {"W": torch.ones(3)}, "W [3] and b [3] don't fit"),
        (None, {"bias": torch.ones(3)}, "it holds W, b, bias. Give a safetensors file with W"),
        (None, {"b": torch.tensor([1.0, float("inf"), 0.0])}, "b: not every number in it is finite"),
        ('["code", "math", "sql"]', {}, "metadata 'labels': it states"),
        ('["code", "math"]', {}, "metadata 'labels'"),
        ("code,math,story", {}, "metadata 'labels'"),
        ("7", {}, "metadata 'labels'"),
    ],
)
def test_a_head_that_does_not_fit(
    tmp_path: Path, labels: str | None, tensors: dict[str, torch.Tensor], says: str
) -> None:
    path = write(tmp_path / "head.safetensors", labels, **tensors)
    with pytest.raises(PackError) as caught:
        read_head(path, NAMES, 4, "bert")
    assert str(caught.value).startswith(f"--head {path}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_head_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="can't be read"):
        read_head(tmp_path / "nowhere", NAMES, 4, "bert")
    (tmp_path / "pickle").write_bytes(b"\x80\x04pickle")
    with pytest.raises(PackError, match="can't be read"):
        read_head(tmp_path / "pickle", NAMES, 4, "bert")
