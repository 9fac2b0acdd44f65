"""What can be seen of a model without running it: is it one whose per-row gradients are exact at all."""

from __future__ import annotations

from collections import defaultdict
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from training.diagnosis.properties import Check, Property, counted
from training.errors import AdapterRefused
from training.gradients.plain_lora import check_adapter

# Class names, looked for among a module's ancestors too: none of these libraries has to be installed.
_WRAPPERS = {
    "OptimizedModule": "torch.compile",
    "FullyShardedDataParallel": "FSDP",
    "FSDPModule": "FSDP",
    "DistributedDataParallel": "DDP",
    "DataParallel": "DataParallel",
    "DeepSpeedEngine": "DeepSpeed",
    "Linear4bit": "4-bit quantisation",
    "Linear8bitLt": "8-bit quantisation",
    "QuantLinear": "GPTQ quantisation",
    "WQLinear": "AWQ quantisation",
    "HQQLinear": "HQQ quantisation",
    "FP8Linear": "FP8 quantisation",
}


def structure_checks(model: PeftModel) -> list[Check]:
    """Check wrappers, adapter, shared weights, and the precision of weights and products."""
    wrapped = _wrapped(model)
    if wrapped.passed is False:  # a wrapper hides what the others look at
        return [wrapped]
    return [wrapped, _adapter(model), _shared(model), _float32(model), _products(model)]


def _wrapped(model: nn.Module) -> Check:
    found = []
    for name, module in model.named_modules():
        kinds = [_WRAPPERS[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in _WRAPPERS]
        if getattr(module, "_compiled_call_impl", None) is not None:  # module.compile() keeps the class
            kinds.append("torch.compile")
        if any(type(weight) is not nn.Parameter for weight in module.parameters(recurse=False)):
            kinds.append("a weight that is no plain tensor")
        if kinds:
            found.append(f"{name or 'the model'} ({type(module).__name__}: {kinds[0]})")
    return Property.WRAPPED.measured(len(found), counted("wrapped or quantised modules", found))


def _adapter(model: PeftModel) -> Check:
    try:
        check_adapter(model)
    except AdapterRefused as error:
        return Property.ADAPTER.measured(1, str(error))
    return Property.ADAPTER.measured(0, "reasons why per-row gradients could not be exact for it")


def _shared(model: nn.Module) -> Check:
    # With duplicates: a module that the model has in two places has two names.
    names: dict[int, list[str]] = defaultdict(list)
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, LoraLayer):
            for part, weight in cast("nn.Module", layer).named_parameters(remove_duplicate=False):
                if part.startswith(("lora_A.", "lora_B.")):
                    names[id(weight)].append(f"{name}.{part}")
    shared = [" = ".join(places) for places in names.values() if len(places) > 1]
    return Property.SHARED.measured(len(shared), counted("LoRA weights that stand in two places", shared))


def _float32(model: nn.Module) -> Check:
    others = [
        f"{name} ({str(weight.dtype).removeprefix('torch.')})"
        for name, weight in model.named_parameters()
        if weight.dtype != torch.float32
    ]
    return Property.FLOAT32.measured(len(others), counted("weights of another dtype", others))


def _products(model: nn.Module) -> Check:
    found = []
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # how torch says that one backend was set apart from the others
        precision = "set apart for one backend"
    if precision != "highest":
        found.append(f"float32_matmul_precision is {precision}")
    device = next(model.parameters()).device.type
    if torch.is_autocast_enabled(device):
        found.append(f"autocast to {torch.get_autocast_dtype(device)} is on")
    return Property.PRODUCTS.measured(
        len(found), counted("settings that round products below float32", found)
    )
