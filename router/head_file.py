"""The file of a router's linear part: tensors, and the experts' names in the order of their rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bundle.errors import BundleError


def read_head(
    path: Path, shown: str, labels: tuple[str, ...], needed: tuple[str, ...] = ("W",)
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return the tensors and the metadata of a file whose `W` has a row for each of `labels`.

    `shown` is what a user knows the file as, `needed` what must be in it.

    Raises:
        BundleError: it can't be read, or is of other experts.

    """
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in needed}
            metadata = dict(file.metadata() or {})
        rows, _ = tensors["W"].shape
        named = tuple(json.loads(metadata.get("labels", "[]")))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(shown, "W", f"it can't be read ({error})", "Train the bundle again") from error
    if rows != len(labels) or named != labels:
        raise BundleError(
            shown,
            "W",
            f"it was made for {rows} experts ({', '.join(named)}), the bundle has {len(labels)} ({', '.join(labels)})",
            "Train the bundle again",
        )
    return tensors, metadata
