"""A small whole bundle: a tiny Llama, three experts and a fallback by PEFT, a router on a tiny encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bundle.digests import adapter_digest, file_sha256, weights_sha256
from bundle.fingerprints import Fingerprints, FixedPrompt, TopTokens
from bundle.manifest import (
    MANIFEST_FILE,
    BaseRecord,
    Calibration,
    ExpertRecord,
    FallbackRecord,
    LoraRecord,
    Manifest,
    RoutedText,
    RouterRecord,
)
from bundle.write import BundleWriter
from training.models.encoder import load_encoder
from training.router.export import write_router
from training.router.head import Head

LABELS = ("expert-0", "expert-1", "expert-2")
MODULES = ("q_proj", "down_proj")
WORDS = ("add", "two", "numbers", "write", "a", "function", "tell", "me", "story")


def make_base(folder: Path, hidden: int = 32, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_encoder(folder: Path) -> Path:
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    )
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _write_adapters(base: Path, folder: Path) -> None:
    for seed, place in enumerate([*(f"experts/{label}" for label in LABELS), "fallback"]):
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=list(MODULES), init_lora_weights=False)
        model = get_peft_model(LlamaForCausalLM.from_pretrained(base), lora)
        model.save_pretrained(folder / place)


def made_up_fingerprints(adapters: Sequence[str] = (*LABELS, "fallback")) -> Fingerprints:
    """Well formed and far apart; that they are those of the adapters is for other tests."""
    prompts = (FixedPrompt(text="tell me a story", token_ids=(3, 1, 4)),)
    names = ("base", *adapters)
    of = {
        name: (TopTokens(token_ids=(place, place + 1), logprobs=(-0.5, -1.5)),)
        for place, name in enumerate(names)
    }
    return Fingerprints(prompts=prompts, base=of.pop("base"), adapters=of)


def make_bundle(base: Path, root: Path) -> Path:
    """Write `root/bundle` and return its folder."""
    encoder = load_encoder(str(make_encoder(root / "encoder")))
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(3, 16)).astype(np.float32), rng.normal(size=3).astype(np.float32))
    with BundleWriter(root / "bundle") as writer:
        _write_adapters(base, writer.folder)
        (writer.folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
        made_up_fingerprints().write(writer.folder)
        (writer.folder / "report").mkdir()
        (writer.folder / "report" / "report.json").write_text("{}")
        write_router(writer.folder / "router", encoder, head, LABELS, ["tell me a story"], max_tokens=32)
        manifest = Manifest(
            created="2026-01-01T00:00:00+00:00",
            base=BaseRecord(id="tiny", name="tiny", dtype="float32", weights_sha256=weights_sha256(base)),
            lora=LoraRecord(rank=4, alpha=8, target_modules=MODULES),
            label_order=LABELS,
            experts=tuple(
                ExpertRecord(
                    name=label,
                    folder=f"experts/{label}",
                    digest=adapter_digest(writer.folder / "experts" / label),
                    rows=10 * (place + 1),
                    share=(place + 1) / 6,
                    top_terms=(f"term{place}",),
                )
                for place, label in enumerate(LABELS)
            ),
            fallback=FallbackRecord(kind="warmup", digest=adapter_digest(writer.folder / "fallback")),
            router=RouterRecord(kind="semantic", encoder="tiny", encoder_sha256=encoder.sha256, hidden=16),
            routed_text=RoutedText(max_tokens=32),
            calibration=Calibration(temperature=2.0, held_out_rows=40, agreement=0.875),
            recipe={},
            versions={},
            files={},
        )
        return writer.finish(lambda files: manifest.model_copy(update={"files": files})).folder


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change bundle.json and leave its seal as it was."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def reseal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> None:
    """Change bundle.json, take all checksums anew and seal it: damage that no checksum shows."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    change(content)
    content["files"] = {name: file_sha256(folder / name) for name in content["files"]}
    sealed = Manifest.model_validate(content).sealed()
    (folder / MANIFEST_FILE).write_text(sealed.model_dump_json())
