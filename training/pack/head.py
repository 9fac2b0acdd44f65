"""A classifier head that somebody trained already, read and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from training.errors import PackError
from training.router.head import Head

_FORM = "a safetensors file with W [K, hidden] and b [K]"


def read_head(path: Path, names: Sequence[str], hidden: int, encoder: str) -> tuple[Head, tuple[str, ...]]:
    """Return the head and the names of its outputs: those that its metadata `labels` states, else `names`.

    `names` are the adapters', in the order they were given; `hidden` is the width of the encoder's embeddings.

    Raises:
        PackError: it can't be read, or fits neither the adapters nor the encoder.

    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118
            stated = (file.metadata() or {}).get("labels")
    except (OSError, SafetensorError) as error:
        raise PackError(f"--head {path}: it can't be read ({error}). Give {_FORM}.") from error
    if set(tensors) != {"W", "b"}:
        raise PackError(f"--head {path}: it holds {', '.join(sorted(tensors)) or 'nothing'}. Give {_FORM}.")
    head = Head(tensors["W"], tensors["b"])
    _check_shapes(path, head, names, hidden, encoder)
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise PackError(
                f"--head {path}, {name}: not every number in it is finite. Give the trained head."
            )
    return head, _label_order(path, stated, names)


def _check_shapes(path: Path, head: Head, names: Sequence[str], hidden: int, encoder: str) -> None:
    k = len(names)
    if head.W.ndim != 2 or head.b.shape != head.W.shape[:1]:
        shapes = f"W {list(head.W.shape)} and b {list(head.b.shape)}"
        raise PackError(f"--head {path}: {shapes} don't fit each other. Give {_FORM}.")
    if len(head.W) != k:
        raise PackError(
            f"--head {path}, W: it has {len(head.W)} outputs for {k} adapters. Give one --adapter for each output."
        )
    if head.W.shape[1] != hidden:
        raise PackError(
            f"--head {path}, W: it reads {head.W.shape[1]} features, and the encoder {encoder!r} gives {hidden}. "
            "Name the encoder it was trained on with --encoder."
        )


def _label_order(path: Path, stated: str | None, names: Sequence[str]) -> tuple[str, ...]:
    if stated is None:
        return tuple(names)
    try:
        labels = json.loads(stated)
    except ValueError:
        labels = None
    if not isinstance(labels, list) or sorted(map(str, labels)) != sorted(names):
        raise PackError(
            f"--head {path}, metadata 'labels': it states {stated}, and the adapters are {', '.join(names)}. Name "
            "the adapters as the head does."
        )
    return tuple(labels)
