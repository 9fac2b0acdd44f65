"""Render and tokenise each row, once: the same ids feed training, gradients and evaluation.

The prompt's ids are what the served `/tokenize` gives for the same messages; the completion's ids are what
the model then has to write, up to and with the token that ends its turn.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from bundle.manifest import RoutedTextRule
from router.text import routed_text
from training.errors import RecipeError
from training.rows.reading import Message, Row, Unusable

IGNORED = -100  # the label of a token that no loss is computed on, PyTorch's own convention
DEFAULT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


@dataclass(frozen=True)
class TokenRow:
    """A rendered row: `input_ids` [T], the length of its prompt, and what the router reads of it."""

    origin: str
    source: str | None
    routed_text: str
    input_ids: Sequence[int]  # compact: four bytes a token, for as many rows as there are
    prompt_length: int

    @property
    def labels(self) -> list[int]:
        """[T]: the completion's own ids, `IGNORED` over the prompt."""
        return [IGNORED] * self.prompt_length + list(self.input_ids[self.prompt_length :])


def use_chat_template(tokenizer: PreTrainedTokenizerBase, chosen: Path | None) -> str:
    """Set and return the chat template: the recipe's, else the tokenizer's own, else ours.

    Raises:
        RecipeError: the chosen file can't be read.

    """
    if chosen is not None:
        try:
            tokenizer.chat_template = chosen.read_text(encoding="utf-8")
        except OSError as error:
            raise RecipeError(
                f"Recipe, base.chat_template: {chosen} can't be read ({error.strerror})."
            ) from error
    elif not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_TEMPLATE.read_text(encoding="utf-8")
    return str(tokenizer.chat_template)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...]) -> list[int]:
    """Token ids [P] of a prompt, with the assistant's turn opened."""
    return list(
        cast(
            "list[int]",
            tokenizer.apply_chat_template(
                list(prompt), add_generation_prompt=True, tokenize=True, return_dict=False
            ),
        )
    )


def render(
    tokenizer: PreTrainedTokenizerBase, row: Row, rule: RoutedTextRule, max_length: int
) -> TokenRow | Unusable:
    """Render one row, or say why it can't be used.

    Raises:
        RecipeError: the chat template itself is at fault, for any row.

    """
    answer = {"role": "assistant", "content": row.completion}
    try:
        prompt_text = _as_text(tokenizer, list(row.prompt), open_turn=True)
        whole_text = _as_text(tokenizer, [*row.prompt, answer], open_turn=False)
    except TemplateError as error:
        return Unusable(row.origin, f"the chat template refuses it ({error})")
    if not whole_text.startswith(prompt_text):
        raise RecipeError(
            "The chat template's opening of the assistant's turn is not how it renders that turn later "
            f"(row {row.origin}). Give another template with base.chat_template."
        )
    before = prompt_ids(tokenizer, row.prompt)
    # Only at the beginning is it the template's doing: a user may write "<s>", which is also HTML.
    if tokenizer.bos_token_id is not None and before[:2] == [tokenizer.bos_token_id] * 2:
        raise RecipeError("The chat template renders the beginning-of-text token twice. Write it once.")
    completion = _up_to_end_of_turn(tokenizer, whole_text[len(prompt_text) :])
    length = len(before) + len(completion)
    if length > max_length:
        return Unusable(
            row.origin,
            f"it has {length} tokens, more than the limit of {max_length} (data.max_length, or what the base can read)",
        )
    return TokenRow(
        origin=row.origin,
        source=row.source,
        routed_text=routed_text(row.prompt, rule),
        input_ids=array("i", (*before, *completion)),
        prompt_length=len(before),
    )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return every token that is no text, with its id; a tokenizer's named ones need not be all of them."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    added = ((str(token), place) for place, token in tokenizer.added_tokens_decoder.items() if token.special)
    return dict((*named, *added))


def _as_text(tokenizer: PreTrainedTokenizerBase, messages: list[Message], open_turn: bool) -> str:
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=open_turn, tokenize=False)
    return cast("str", rendered)


def _up_to_end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # A template may close the turn with a special token and then a newline that no model should have to write;
    # or with nothing at all, and then the model would never learn to stop.
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    special = set(special_tokens(tokenizer).values())
    last_special = next((place for place in reversed(range(len(ids))) if ids[place] in special), None)
    if last_special is not None and not str(tokenizer.decode(ids[last_special + 1 :])).strip():
        return ids[: last_special + 1]
    return [*ids, int(tokenizer.eos_token_id)]
