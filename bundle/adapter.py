"""What an adapter's weights file says of its shape, without loading the weights."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open


def tensor_shapes(weights: Path) -> dict[str, list[int]]:
    """Return every tensor's shape by name.

    Raises:
        OSError, SafetensorError: it can't be read, or is no safetensors file.

    """
    with safe_open(weights, framework="np") as tensors:
        names = tensors.keys()
        return {name: list(tensors.get_slice(name).get_shape()) for name in names}


def largest_rank(weights: Path) -> tuple[int, str]:
    """Return the largest LoRA rank in a PEFT weights file, and the tensor that has it.

    Raises:
        OSError, SafetensorError: it can't be read, or is no safetensors file.
        ValueError: there is no tensor in it.

    """
    ranks = {
        name: shape[0] if ".lora_A." in name else shape[1]  # A: [r, in], B: [out, r]
        for name, shape in tensor_shapes(weights).items()
    }
    if not ranks:
        raise ValueError("there is no tensor in it")
    largest = max(ranks, key=ranks.__getitem__)
    return ranks[largest], largest
