"""Which modules of a base get an adapter: `lora.target_modules`, made into what PEFT takes."""

from __future__ import annotations

import re
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from training.errors import RecipeError
from training.models.architecture import decoder_of
from training.recipe import LoraSection

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)


def lay_adapter(model: PreTrainedModel, lora: LoraSection, name: str) -> PeftModel:
    """Lay a fresh adapter over a model, in the modules that `lora.target_modules` means.

    Raises:
        RecipeError: no such adapter fits the model, with the setting that would help where there is one.

    """
    try:
        return cast("PeftModel", get_peft_model(model, lora_config(model, lora)))
    except RecipeError:
        raise
    except Exception as error:  # as many kinds as there are architectures
        reason = (str(error).splitlines() or [""])[0].partition(" Incompatible modules")[0]
        others = attention_modules(model) if lora.target_modules != "attention" else []
        remedy = (
            "Use lora.target_modules=attention" if others else "Name other modules in lora.target_modules"
        )
        raise RecipeError(
            f"Recipe, lora.target_modules: {lora.target_modules!r} can't be laid over {name!r} "
            f"({type(error).__name__}: {reason}). {remedy}, or use another base model."
        ) from error


def lora_config(model: PreTrainedModel, lora: LoraSection) -> LoraConfig:
    """Return PEFT's configuration of a fresh adapter on this model: plain LoRA, only in its language model.

    Raises:
        RecipeError: no linear layer of the model is meant.

    """
    chosen = lora.target_modules
    targets: Any = chosen if isinstance(chosen, str) else list(chosen)
    if chosen == "attention":
        targets = attention_modules(model)
        if not targets:
            raise RecipeError(
                f"Recipe, lora.target_modules: {type(model).__name__} has no linear layers of attention. Name its "
                "modules in a list."
            )
    elif chosen != "all-linear":
        _check_meant(model, targets)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        exclude_modules=_other_parts(model),
        task_type="CAUSAL_LM",
        bias="none",
    )


def _decoder_name(model: PreTrainedModel) -> str:
    decoder = decoder_of(model)
    return next(name for name, module in model.named_modules() if module is decoder)


def _other_parts(model: PreTrainedModel) -> str | None:
    """Return a pattern of what lies outside the language model, where there is such: an eye sees no text."""
    name = _decoder_name(model)
    outside = [other for other, module in _linear(model) if not other.startswith(f"{name}.")]
    head = model.get_output_embeddings()
    others = [other for other in outside if model.get_submodule(other) is not head]
    return rf"(?!{re.escape(name)}\.).*" if others else None


def _linear(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)
    ]


def attention_modules(model: PreTrainedModel) -> list[str]:
    """Return the last two parts of the names of the linear layers of attention, such as `self_attn.q_proj`."""
    names = [name for name, _ in _linear(decoder_of(model))]
    return sorted({".".join(name.split(".")[-2:]) for name in names if _ATTENTION.search(name)})


def _check_meant(model: PreTrainedModel, targets: str | list[str]) -> None:
    names = [name for name, _ in _linear(decoder_of(model))]
    if isinstance(targets, str):
        try:
            whole = re.compile(targets)
        except re.error as error:
            raise RecipeError(
                f"Recipe, lora.target_modules: {targets!r} is no regular expression ({error})."
            ) from error
        prefix = _decoder_name(model)
        missing = [] if any(whole.fullmatch(f"{prefix}.{name}") for name in names) else [targets]
    else:
        missing = [
            target
            for target in targets
            if not any(name == target or name.endswith(f".{target}") for name in names)
        ]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise RecipeError(
            f"Recipe, lora.target_modules: no linear layer of {type(model).__name__} is called {missing[0]!r}; they "
            f"are called {', '.join(known)}."
        )
