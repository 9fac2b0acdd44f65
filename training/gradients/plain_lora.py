"""Refuse what the per-row gradients would not be exact for, by name."""

from __future__ import annotations

from typing import Any, cast

from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from training.errors import AdapterRefused


def check_adapter(model: PeftModel) -> None:
    """Check that the model carries exactly one active, unmerged, plain LoRA adapter on linear layers of its blocks.

    Raises:
        AdapterRefused: names the first thing that is not so.

    """
    active = model.active_adapters
    if len(active) != 1:
        raise AdapterRefused(f"Per-row gradients need exactly one active adapter, there are {active}.")
    config: Any = model.peft_config[active[0]]
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind != "LORA":  # the other kinds' configurations have not even the fields below
        raise AdapterRefused(
            f"Per-row gradients are not exact for an adapter of type {kind}. Use plain LoRA."
        )
    refused = {
        "DoRA (use_dora)": getattr(config, "use_dora", False),
        f"bias={config.bias!r}": config.bias != "none",
        "lora_bias": getattr(config, "lora_bias", False),
        "modules_to_save": bool(config.modules_to_save),
        "trainable_token_indices": bool(getattr(config, "trainable_token_indices", None)),
        "layer_replication": bool(getattr(config, "layer_replication", None)),
        "aLoRA (alora_invocation_tokens)": bool(getattr(config, "alora_invocation_tokens", None)),
        "Arrow (arrow_config)": bool(getattr(config, "arrow_config", None)),
    }
    if getattr(config, "target_parameters", None):
        raise AdapterRefused(
            "Per-row gradients are not exact for LoRA on the experts of a mixture of experts (target_parameters), "
            "where a row's tokens are mixed with others'. Use lora.target_modules=attention, or a list of dense layers."
        )
    for what, present in refused.items():
        if present:
            raise AdapterRefused(
                f"Per-row gradients are not exact for an adapter with {what}. Use plain LoRA."
            )
    _check_layers(model, active[0])


def _check_layers(model: PeftModel, adapter: str) -> None:
    base = cast("PreTrainedModel", model.get_base_model())
    outside = (base.get_input_embeddings(), base.get_output_embeddings())
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if layer in outside or not isinstance(layer, LoraLinear):
            kind = "an embedding or head" if layer in outside else type(layer).__name__
            raise AdapterRefused(
                f"{name}: per-row gradients need LoRA on linear layers only, this is {kind}."
            )
        if layer.merged:
            raise AdapterRefused(f"{name}: the adapter is merged into the base. Unmerge it first.")
        if layer.disable_adapters:
            raise AdapterRefused(f"{name}: the adapter is switched off. Switch it on first.")
        if adapter in layer.lora_variant:
            variant = type(layer.lora_variant[adapter]).__name__
            raise AdapterRefused(f"{name}: per-row gradients are not exact for the LoRA variant {variant}.")
        for factor in (layer.lora_A[adapter], layer.lora_B[adapter]):
            if type(factor) is not nn.Linear or factor.bias is not None:
                raise AdapterRefused(f"{name}: its LoRA factors are not plain linear layers without bias.")
