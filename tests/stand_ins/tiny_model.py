"""A tiny random Llama over the demo's tokenizer, its adapters, and rows to feed them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from training.gradients.source import Compared
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "demo" / "base"
VOCABULARY = 768
PAD = 0


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """A random Llama: 2 layers, hidden 64, 4 heads of 32 on 2 key-value heads, float32."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": PAD,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(shape | changes)))


def save_base(folder: Path) -> Path:
    """Save the tiny Llama with the demo's tokenizer, which carries a chat template."""
    tiny_llama().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def with_adapter(base: PreTrainedModel, *, fresh: bool = False, **changes: Any) -> PeftModel:
    """Lay an r = 4 adapter over a base; its B is random too, unless it is to be fresh."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear"}
    config = LoraConfig(**(settings | {"task_type": "CAUSAL_LM"} | changes))
    torch.manual_seed(1)
    model = get_peft_model(base, config)
    if not fresh:
        make_random(model)
    return model


def make_random(model: PeftModel, seed: int = 2) -> None:
    """Fill every A and B with random numbers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))


def token_row(prompt: int, completion: int, seed: int, source: str | None = None) -> TokenRow:
    """A row of random ordinary tokens with these lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, VOCABULARY, (prompt + completion,), generator=generator).tolist()
    return TokenRow(f"rows.jsonl:{seed}", source, f"prompt {seed}", tuple(ids), prompt)


def dozen_rows() -> list[TokenRow]:
    """Twelve rows of lengths 3 to 40, none sorted, the shortest prompt and completion one token long."""
    lengths = [
        (7, 9),
        (1, 2),
        (20, 20),
        (3, 1),
        (11, 4),
        (5, 5),
        (2, 30),
        (16, 1),
        (4, 4),
        (9, 9),
        (6, 2),
        (1, 12),
    ]
    return [token_row(prompt, completion, seed) for seed, (prompt, completion) in enumerate(lengths)]


@dataclass
class PlantedSource:
    """A source of gradients that were made up: row number i has the gradient planted at i."""

    gradients: Tensor  # [N, d]
    calls: list[int] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def dimension(self) -> int:
        return self.gradients.shape[1]

    def owners(self, rows: Sequence[int]) -> list[int]:
        return [0] * len(rows)

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        self.calls.append(len(rows))
        advance(len(rows))
        return normalize(self.gradients[list(rows)], dim=1)

    def compare(self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress) -> Compared:
        norm = self.gradients[list(rows)].double().norm(dim=1)
        return Compared((self.unit(rows, advance) @ centroids.T).double(), norm, norm * 0 + 0.75)


def no_checkpoint(folder: Path) -> Checkpoint:
    """One that is never due."""
    return Checkpoint(folder / "checkpoint", "digest", math.inf, World())
