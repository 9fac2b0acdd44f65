"""The heads of the paper's routers (Table 3) that are counted rather than solved for, and the files of all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from training.clusters.terms import top_terms

_KEYWORDS = 100  # of each expert


def mean_embeddings(
    embeddings: NDArray[np.float32], labels: NDArray[np.int64], k: int
) -> NDArray[np.float32]:
    """ES: the unit mean `[K, H]` of each expert's embeddings `[N, H]`; zero for one without rows."""
    means = np.stack(
        [
            embeddings[labels == label].mean(axis=0)
            if (labels == label).any()
            else np.zeros(embeddings.shape[1])
            for label in range(k)
        ]
    )
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return (means / np.maximum(norms, np.finfo(np.float32).tiny)).astype(np.float32)


def keywords(
    texts: Sequence[str], labels: NDArray[np.int64], k: int
) -> tuple[list[str], NDArray[np.float32]]:
    """KS: V words and whose they are `[K, V]`: the hundred that set each expert's prompts apart most."""
    of_expert = top_terms(texts, labels, k, count=_KEYWORDS)
    words = sorted({word for own in of_expert for word in own}) or [""]
    weights = np.array([[float(word in set(own)) for word in words] for own in of_expert], dtype=np.float32)
    return words, weights


def write_head(
    path: Path,
    tensors: Mapping[str, NDArray[np.float32]],
    label_order: tuple[str, ...],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a head as `router.head_file.read_head` reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"labels": json.dumps(list(label_order)), **(metadata or {})})
