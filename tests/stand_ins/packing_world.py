"""A tiny base, adapters of different shapes, an encoder and labelled rows: all that `pack` takes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.torch import load_file, save_file

from bundle.read import Bundle
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import make_random, save_base, tiny_llama, with_adapter
from training.pack.pack import Packing, pack
from training.progress import Narrator
from training.recipe import BaseSection

PROMPTS = {
    "math": ["Give the total of 14 and 5.", "Tom has 8 coins, what is the sum?", "Add 3 to 9."],
    "story": ["Tell a bedtime story.", "Once upon a time a fox sang, go on.", "A tale of the moon, please."],
}


def save_adapter(folder: Path, seed: int, **changes: Any) -> Path:
    """Save an adapter on the tiny base with PEFT; `changes` go to its LoraConfig."""
    model = with_adapter(tiny_llama(), **changes)
    make_random(model, seed)
    model.peft_config["default"].base_model_name_or_path = "somebody/else"
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def labelled(times: int = 4) -> list[dict[str, Any]]:
    """Rows of both labels in the three forms, with and without a response."""
    rows: list[dict[str, Any]] = []
    for turn in range(times):
        for name, (one, two, three) in PROMPTS.items():
            rows.append({"prompt": f"{one} {turn}", "expert": name})
            rows.append({"instruction": f"{two} {turn}", "output": "Yes.", "expert": name})
            rows.append({"messages": [{"role": "user", "content": f"{three} {turn}"}], "expert": name})
    return rows


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@dataclass
class PackingWorld:
    """What can be packed, and a way to pack it."""

    packing: Packing
    said: list[str] = field(default_factory=list)

    def pack(self, output: Path, **changes: Any) -> Bundle:
        screen = io.StringIO()
        try:
            narrator = Narrator(Console(file=screen, width=400, highlight=False))
            return pack(replace(self.packing, output=output, **changes), narrator)
        finally:
            self.said.append(screen.getvalue())


def make_world(root: Path) -> PackingWorld:
    """Write it all: `math` of rank 4 on every linear layer, `story` of rank 8 on two modules."""
    adapters = {
        "math": save_adapter(root / "math", 2),
        "story": save_adapter(root / "story", 3, r=8, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
    }
    return PackingWorld(
        Packing(
            base=BaseSection(model=str(save_base(root / "base"))),
            adapters=adapters,
            rows=(str(write_rows(root / "rows.jsonl", labelled())),),
            label_column="expert",
            head=None,
            encoder=str(save_encoder(root / "encoder")),
            max_tokens=32,
            fallback=None,
            data_licenses=("mit",),
            output=root / "unused",
        )
    )
