"""What a base's config says of it, read in one way everywhere: a folder, a config.json, or a hub id.

Names differ by family, and models that also see or hear keep their language model's values in a config inside the
config. Transformers' own attribute names and `get_text_config` know both.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from training.errors import RecipeError

_NO_END = (
    1 << 20
)  # positions of a model whose config names no end: BLOOM counts distances, Mamba keeps a state
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


def read_config(model: str, revision: str | None = None) -> Any:
    """Return Transformers' config of a folder, a config.json, or a hub id (only its config is fetched).

    Raises:
        RecipeError: there is no such config, or its model is code that the config names.

    """
    try:
        # Given, so that nobody is asked on a terminal whether that code may run: it never may.
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    except Exception as error:  # Transformers and the hub's client raise many kinds
        said = str(error)
        if "trust_remote_code" in said or "custom code" in said:
            raise RecipeError(
                f"Recipe, base.model: {model!r} needs code of its own (auto_map in its config.json), and code of a "
                "model is never run here. Use a base model that Transformers knows by itself."
            ) from error
        if "does not recognize this architecture" in said or "Unrecognized model" in said:
            raise RecipeError(
                f"Recipe, base.model: Transformers knows no model of the kind that the config of {model!r} names. Use "
                "another base, or a newer Transformers."
            ) from error
        raise RecipeError(
            f"Recipe, base.model: no model config was found for {model!r} ({type(error).__name__}). Give a model's "
            "folder, a config.json, or a hub id; only the config is read, no weights."
        ) from error


def text_config(config: Any) -> Any:
    """Return the config of the language model, which may stand inside the config."""
    return config.get_text_config(decoder=True)


def max_positions(config: Any) -> int:
    """How many tokens the model can read at all."""
    text = text_config(config)
    stated = next((getattr(text, name) for name in _POSITIONS if getattr(text, name, None)), _NO_END)
    return int(stated)


def model_class(config: Any, name: str) -> type[PreTrainedModel]:
    """Return the class of the model that generates text.

    Raises:
        RecipeError: there is none, or it encodes its prompt with another model than it answers with.

    """
    if getattr(config, "is_encoder_decoder", False):
        raise RecipeError(
            f"Recipe, base.model: {name!r} is an encoder-decoder model; the experts are adapters of a decoder. Use a "
            "base that only decodes."
        )
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        if type(config) in auto._model_mapping:
            found = auto._model_mapping[type(config)]
            return cast("type[PreTrainedModel]", found[0] if isinstance(found, tuple) else found)
    raise RecipeError(
        f"Recipe, base.model: {name!r} ({config.model_type}) is no model that generates text. Use another base."
    )


def attention_of(config: Any, name: str) -> str:
    """Return how attention is computed: as one product on PyTorch's own kernels, or as the model alone knows how.

    Some have no other way than their own (gpt-oss attends to a learned sink as well); it is as exact.
    """
    return "sdpa" if getattr(model_class(config, name), "_supports_sdpa", False) else "eager"


def has_other_parts(config: Any) -> bool:
    """Whether the model has more than its language model: an eye, an ear."""
    return text_config(config) is not config


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the part that makes hidden states of tokens, without the head."""
    decoder = model.get_decoder()
    return cast("nn.Module", getattr(model, model.base_model_prefix) if decoder is model else decoder)
