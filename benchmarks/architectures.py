"""Which architectures can be trained and served: `python -m benchmarks.architectures`.

Each is a small random model made from Transformers' own config. Of each: is it planned (d from the config alone), are
the rows' gradients exact (`diagnose`), does a PEFT step lower the loss, and does the engine serve LoRA on it. The table
in docs/diagnose.md is what this prints.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import CONFIG_MAPPING, logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from training.diagnosis.diagnosis import diagnose_base
from training.errors import TrainingError
from training.memory.model_shape import read_shape
from training.models.architecture import attention_of, model_class, read_config
from training.models.lora_targets import lay_adapter
from training.models.row_loss import attention_kernels, pad_rows, row_losses
from training.models.servable import not_servable
from training.recipe import LoraSection
from training.rows.rendering import TokenRow

_VOCABULARY = 128
# What makes a model small, by the names that configs have for it; those that a config lacks are left out.
_SMALL: dict[str, Any] = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "intermediate_size": 96,
    "ffn_hidden_size": 96,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 8,
    "rank": 8,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "max_seq_len": 128,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_num_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 16,
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_expand": 2,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "chunk_size": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "sliding_window": 64,
    "layer_types": None,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# What else a family needs to be a small model, or to do what its large ones do (scaled or capped logits).
_ALSO: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 4.0},
    "granitemoehybrid": {"logits_scaling": 4.0, "layer_types": ["attention", "attention"]},
    "gemma2": {"final_logit_softcapping": 5.0},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 32},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_dt_rank": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "olmo2": {"num_key_value_heads": 4},
    "mpt": {"expansion_ratio": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8},
    },
}


@dataclass(frozen=True)
class Found:
    """What one architecture does."""

    name: str
    architecture: str
    target_modules: str
    d: int
    error: float | None
    """The worst relative error of a row's gradient against autograd."""
    learns: bool
    refused: str
    not_served: str


def kinds() -> list[str]:
    """Every model type of Transformers that generates text by itself."""
    return sorted(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in CONFIG_MAPPING)


def small_config(kind: str) -> Any:
    """Return the config of a small model of this type."""
    made = CONFIG_MAPPING[kind]()
    known = set(made.to_dict()) | set(made.attribute_map)
    small = {name: value for name, value in _SMALL.items() if name in known and value is not None}
    return CONFIG_MAPPING[kind](**(small | _ALSO.get(kind, {})))


def try_architecture(kind: str, targets: str = "all-linear") -> Found:
    """Make a small model, and try with it what training does."""
    try:
        config = small_config(kind)
    except Exception as broken:  # the config refuses small values; it wants some of its own in _ALSO
        reason = f"not tried: no small config ({(str(broken).splitlines() or [''])[-1].strip()})"
        return Found(kind, kind, targets, 0, None, False, reason, "")
    return try_config(kind, config, targets)


def try_config(kind: str, config: Any, targets: str) -> Found:
    """As `try_architecture`, with a config that is there already."""
    lora = LoraSection(rank=4, alpha=8, target_modules=targets)
    architecture, d, error, learns, refused = kind, 0, None, False, ""
    try:
        found = model_class(config, kind)
        architecture = found.__name__
        with TemporaryDirectory() as folder:
            config.architectures = [architecture]
            config.save_pretrained(folder)
            d = read_shape(folder, lora).dimension
            config = read_config(folder)
        torch.manual_seed(0)
        model = found._from_config(
            config, dtype=torch.float32, attn_implementation=attention_of(config, kind)
        )
        adapted = lay_adapter(model, lora, kind)
        checks = diagnose_base(adapted, _rows(), 0, 1 << 10)
        failed = [check for check in checks if check.passed is False]
        refused = f"{failed[0].check}: {failed[0].meaning}" if failed else ""
        error = next((check.value for check in checks if check.check == "hooks against autograd"), None)
        learns = not failed and _learns(adapted)
    except TrainingError as refusal:
        refused = str(refusal)
    except Exception as broken:  # as many kinds as there are architectures; each is a line of the table
        refused = f"{type(broken).__name__}: {(str(broken).splitlines() or [''])[0]}"
    return Found(kind, architecture, targets, d, error, learns, refused, not_servable([architecture]) or "")


def _rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(0)
    lengths = ((7, 9), (3, 4), (12, 6), (5, 11))
    return [
        TokenRow(
            f"rows:{number}",
            None,
            "",
            torch.randint(3, _VOCABULARY, (prompt + answer,), generator=generator).tolist(),
            prompt,
        )
        for number, (prompt, answer) in enumerate(lengths)
    ]


def _learns(model: Any) -> bool:
    """Whether a few steps of training the adapter lower the loss."""
    batch = pad_rows(_rows(), 0, torch.device("cpu"))
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(weights, lr=1e-2)
    losses = []
    for _ in range(4):
        with attention_kernels(torch.device("cpu")):
            loss = row_losses(model.get_base_model(), batch).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    return losses[-1] < losses[0]


def table(found: Iterable[Found]) -> str:
    """The table of the docs."""
    lines = [
        "| architecture | `lora.target_modules` | gradients exact (worst relative error) | trains | served |",
        "|---|---|---|---|---|",
    ]
    for one in found:
        exact = f"{one.error:.0e}" if one.error is not None and not one.refused else f"no: {one.refused}"
        lines.append(
            f"| {one.architecture} ({one.name}) | {one.target_modules} | {exact.replace('|', ' ')} | "
            f"{'yes' if one.learns else 'no'} | {f'no: {one.not_served}' if one.not_served else 'yes'} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Try all, or those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", help="model types; default: all that Transformers has")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = []
    for kind in arguments.kinds or kinds():
        one = try_architecture(kind)
        results.append(one)
        if one.refused:
            attention = try_architecture(kind, "attention")
            if not attention.refused:
                results.append(attention)
        print(table(results[-1:]).splitlines()[-1], flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n")
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
