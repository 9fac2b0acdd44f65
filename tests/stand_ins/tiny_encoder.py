"""A tiny random BERT over the demo's tokenizer, to stand for the router's encoder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from tests.stand_ins.tiny_model import TOKENIZER, VOCABULARY


def save_encoder(folder: Path) -> Path:
    """Save it; it reads texts of up to 64 tokens."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder
