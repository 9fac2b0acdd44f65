"""The file that tells what is unlike anything in training, as `training/router/unfamiliar.py` writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from bundle.errors import BundleError
from bundle.read import ROUTER_FAMILIAR, Bundle
from router.familiarity import Familiarity
from router.known_pairs import BITS, KnownPairs


def read_familiarity(bundle: Bundle) -> Familiarity | None:
    """Return what tells it by a text's encoding; None: nothing does.

    Raises:
        BundleError: the file can't be read, or is of another encoder.

    """
    record = bundle.manifest.router.unfamiliar
    if record is None or record.by != "encoding":
        return None
    hidden = bundle.manifest.router.hidden
    whitening = _tensor(bundle, "whitening", (hidden, hidden))
    prototypes = _tensor(bundle, "prototypes", (None, hidden))
    return Familiarity(whitening, prototypes, record.threshold)


def read_known_pairs(bundle: Bundle) -> KnownPairs | None:
    """Return the pairs of words of training's prompts, for a cascade or a router without an encoder; None: nobody asks.

    Raises:
        BundleError: the file can't be read.

    """
    record = bundle.manifest.router.unfamiliar
    if record is None:
        return None
    most_unknown = record.threshold if record.by == "word_pairs" else record.most_unknown
    if most_unknown is None:
        return None
    max_tokens = bundle.manifest.routed_text.max_tokens
    return KnownPairs(_tensor(bundle, "pairs", (BITS // 8,), "uint8"), max_tokens, most_unknown)


def _tensor(bundle: Bundle, name: str, shape: tuple[int | None, ...], dtype: str = "float32") -> NDArray[Any]:
    """Read one tensor; a size of None may be any."""
    try:
        with safe_open(bundle.folder / ROUTER_FAMILIAR, framework="np") as file:
            tensor: NDArray[Any] = file.get_tensor(name)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        problem = f"it can't be read ({error})"
        raise BundleError(ROUTER_FAMILIAR, name, problem, "Train the bundle again") from error
    fits = tensor.ndim == len(shape) and all(
        size and wanted in (None, size) for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits or tensor.dtype != np.dtype(dtype):
        problem = f"it is {tensor.dtype} {list(tensor.shape)}, not {dtype} {[size or 'P' for size in shape]}"
        raise BundleError(ROUTER_FAMILIAR, name, problem, "Train the bundle again")
    return tensor
