"""Are the numbers of a weights file numbers? One NaN in it makes every comparison with the file pass."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

_MAX_HEADER_BYTES = 100_000_000  # safetensors' own bound
_EXPONENTS: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    # All bits of the exponent set: infinite, or not a number.
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
_CHUNK = 4_000_000


def not_finite(weights: Path) -> str | None:
    """Return the name of a tensor of a safetensors file that holds NaN or infinity, None if there is none.

    Raises:
        OSError: it can't be read.
        ValueError: it is no safetensors file.

    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its header is too long")
        header = json.loads(file.read(length))
    for name, tensor in header.items():
        known = _EXPONENTS.get(tensor.get("dtype", ""))
        if name == "__metadata__" or known is None or not math.prod(tensor["shape"]):
            continue
        kind, exponent = known
        start, end = tensor["data_offsets"]
        size = (end - start) // np.dtype(kind).itemsize
        numbers = np.memmap(weights, kind, "r", 8 + length + start, (size,))
        mask = kind(exponent)
        for first in range(0, size, _CHUNK):
            if np.any((numbers[first : first + _CHUNK] & mask) == mask):
                return str(name)
    return None
