"""Any Hugging Face encoder becomes a router that computes the same in serving."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from scipy.special import softmax
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

from router.semantic import SemanticRouter
from training.models.encoder import Encoder, EncoderError, load_encoder, mean_pooled
from training.router.export import RouterExportError, write_router
from training.router.head import agreement, fit_head

LABELS = ("expert-0", "expert-1")
TEXTS = [
    text
    for number in range(20)
    for text in (f"add {number} and {number * 7} to get the sum", f"tell a story about {number} small cats")
]
CLUSTERS = np.arange(len(TEXTS)) % 2


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DistilBERT (no token types) from its config, with a WordPiece tokenizer of the texts' words and letters."""
    folder = tmp_path_factory.mktemp("distilbert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = sorted(set("".join(TEXTS)) - {" "})
    words = sorted({word for text in TEXTS for word in text.split()} - set(letters))
    # Not a trained one: the trainer orders ties anew in each process, and the encoder would be another each time.
    vocabulary = {
        token: place
        for place, token in enumerate([*special, *letters, *(f"##{one}" for one in letters), *words])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=96, **names)
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=96,
        initializer_range=0.3,
    )
    DistilBertModel(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# An encoder\n")
    return folder


@pytest.fixture(scope="module")
def encoder(distilbert: Path) -> Encoder:
    return load_encoder(str(distilbert))


def test_a_distilbert_serves_as_it_was_trained(distilbert: Path, encoder: Encoder, tmp_path: Path) -> None:
    embeddings = encoder.embed(TEXTS, 64)
    head = fit_head(embeddings, CLUSTERS, 2, seed=0)
    assert agreement(head.logits(embeddings), CLUSTERS) == 1.0
    write_router(tmp_path, encoder, head, LABELS, TEXTS[:5], 64)
    served = SemanticRouter(tmp_path, LABELS, 64, temperature=1.5).probabilities(TEXTS)

    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), AutoModel.from_pretrained(distilbert).eval()
    for text, probabilities in zip(TEXTS, served, strict=True):
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state[0].mean(dim=0).numpy()
        assert probabilities == pytest.approx(softmax((head.W @ hidden + head.b) / 1.5), abs=1e-4)


def test_the_files_are_whole_and_carry_no_path(
    distilbert: Path,
    encoder: Encoder,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    head = fit_head(encoder.embed(TEXTS, 32), CLUSTERS, 2, seed=0)
    write_router(tmp_path, encoder, head, LABELS, TEXTS[:3], 32)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head.safetensors", "model.onnx", "tokenizer.json"]
    with safe_open(tmp_path / "head.safetensors", framework="np") as saved:
        assert np.array_equal(saved.get_tensor("W"), head.W)
        assert np.array_equal(saved.get_tensor("b"), head.b)
        assert json.loads(saved.metadata()["labels"]) == list(LABELS)
    graph = (tmp_path / "model.onnx").read_bytes()
    for path in (str(Path(torch.__file__).parent), str(Path(__file__).parents[3]), str(distilbert)):
        assert path.encode() not in graph
    inputs = [
        [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in _graph(tmp_path).input
    ]
    assert inputs == [["B", "T"], ["B", "T"]]


def _graph(folder: Path) -> onnx.GraphProto:
    return onnx.load(folder / "model.onnx").graph


def test_an_export_that_computes_something_else_is_refused(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = fit_head(encoder.embed(TEXTS, 32), CLUSTERS, 2, seed=0)

    def first_token(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_pooled(model, ids, mask) * 1.05

    monkeypatch.setattr("training.router.export.mean_pooled", first_token)
    with pytest.raises(RouterExportError, match="differs from the trained one"):
        write_router(tmp_path, encoder, head, LABELS, TEXTS[:3], 32)


def test_more_tokens_than_the_encoder_reads_are_refused(encoder: Encoder) -> None:
    with pytest.raises(EncoderError, match=r"at most 96 tokens, not 97\. Use --set router\.max_tokens=96"):
        encoder.embed(["text"], 97)
