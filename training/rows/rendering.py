"""Render and tokenise each row, once: the same ids feed training, gradients and evaluation.

The prompt's ids are what the served `/tokenize` gives for the same messages; the completion's ids are what
the model then has to write, up to and with the token that ends its turn.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from bundle.manifest import RoutedTextRule
from router.text import routed_text
from training.errors import RecipeError
from training.rows.conversations import Message
from training.rows.reading import Row, Unusable

IGNORED = -100  # the label of a token that no loss is computed on, PyTorch's own convention
DEFAULT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


@dataclass(frozen=True)
class TokenRow:
    """A rendered row: `input_ids` [T], the length of its prompt, and what the router reads of it.

    What stands behind the prompt is trained on, and so are the ranges [start, stop) of `earlier`, in order: the
    answers before the last one, where `data.train_on` is `all`.
    """

    origin: str
    source: str | None
    routed_text: str
    input_ids: Sequence[int]  # compact: four bytes a token, for as many rows as there are
    prompt_length: int
    earlier: tuple[tuple[int, int], ...] = ()

    @property
    def labels(self) -> list[int]:
        """[T]: the ids that are trained on, `IGNORED` over all others."""
        labels = [IGNORED] * self.prompt_length + list(self.input_ids[self.prompt_length :])
        for start, stop in self.earlier:
            labels[start:stop] = self.input_ids[start:stop]
        return labels

    @property
    def trained_tokens(self) -> int:
        """How many tokens the row's loss is the mean of."""
        earlier = sum(stop - start for start, stop in self.earlier)
        return len(self.input_ids) - self.prompt_length + earlier

    @property
    def parts(self) -> list[Any]:
        """All that a loss or a gradient of the row depends on, for a digest."""
        return [list(self.input_ids), self.prompt_length, *map(list, self.earlier)]


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


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: tuple[Message, ...], tools: Sequence[dict[str, Any]] = ()
) -> list[int]:
    """Token ids [P] of a prompt, with the assistant's turn opened."""
    return list(
        cast(
            "list[int]",
            tokenizer.apply_chat_template(
                _spelled_out(prompt),
                tools=list(tools) or None,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            ),
        )
    )


class _Refused(Exception):
    """Why the chat template can't render a row as it is."""


def render(
    tokenizer: PreTrainedTokenizerBase, row: Row, rule: RoutedTextRule, max_length: int
) -> TokenRow | Unusable:
    """Render one row, or say why it can't be used: also where the template would leave out or rewrite a part of it.

    Raises:
        RecipeError: the chat template itself is at fault, for any row.

    """
    try:
        prompt_text = _as_text(tokenizer, row.prompt, row.tools, open_turn=True)
        whole_text = _as_text(tokenizer, (*row.prompt, row.answer_message), row.tools, open_turn=False)
        if not whole_text.startswith(prompt_text):
            raise _Refused(
                "the chat template opens the answer otherwise than it renders it later: it ends a prompt with "
                f"{prompt_text[-20:]!r}, and drops or rewrites that (or thinking) in the answer. Give another template "
                "with base.chat_template"
            )
        _refuse_what_is_left_out(row, prompt_text, whole_text[len(prompt_text) :])
        spans = [_span(tokenizer, row, place, prompt_text) for place in row.earlier]
        before = prompt_ids(tokenizer, row.prompt, row.tools)
        earlier = _in_tokens(tokenizer, prompt_text, before, spans) if spans else ()
    except _Refused as why:
        return Unusable(row.origin, str(why))
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
        earlier=earlier,
    )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return every token that is no text, with its id; a tokenizer's named ones need not be all of them."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    added = ((str(token), place) for place, token in tokenizer.added_tokens_decoder.items() if token.special)
    return dict((*named, *added))


def _as_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    open_turn: bool,
) -> str:
    try:
        rendered = tokenizer.apply_chat_template(
            _spelled_out(messages), tools=list(tools) or None, add_generation_prompt=open_turn, tokenize=False
        )
    except Exception as error:  # a template is a program: it may raise anything
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise _Refused(f"the chat template refuses it ({said})") from error
    return cast("str", rendered)


def _spelled_out(messages: Sequence[Message]) -> list[Message]:
    """Thinking under each of the names that templates know it by."""
    return [
        {**message, "thinking": message["reasoning_content"], "reasoning": message["reasoning_content"]}
        if "reasoning_content" in message
        else dict(message)
        for message in messages
    ]


def _refuse_what_is_left_out(row: Row, prompt_text: str, answer_text: str) -> None:
    other = "Give a template that has it with base.chat_template, or take it out of the row"
    for message in row.prompt:
        role, content = message["role"], message["content"].strip()
        if role == "assistant":  # templates leave earlier thinking out on purpose, of requests too
            content = content.rpartition("</think>")[2].strip()
        if content and not _stands_in(content, prompt_text):
            raise _Refused(f"the chat template leaves out or rewrites its {role} turn. {other}")
        _refuse_lost_calls(message, prompt_text, other)
    for tool in row.tools:
        if str(tool["function"].get("name")) not in prompt_text:
            raise _Refused(f"the chat template leaves out its tools. {other}")
    answer = row.answer_message
    if answer["content"].strip() and not _stands_in(answer["content"].strip(), answer_text):
        part = "thinking" if "</think>" in answer["content"] else "answer"
        raise _Refused(f"the chat template leaves out or rewrites its {part}. {other}")
    thoughts = answer.get("reasoning_content", "").strip()
    if not _stands_in(thoughts, answer_text):
        raise _Refused(f"the chat template leaves out its thinking. {other}")
    _refuse_lost_calls(answer, answer_text, other)


def _refuse_lost_calls(message: Message, text: str, other: str) -> None:
    for call in message.get("tool_calls", ()):
        function = call["function"]
        arguments = function["arguments"]
        values = arguments.values() if isinstance(arguments, dict) else (arguments,)
        said = [function["name"], *(value.strip() for value in values if isinstance(value, str))]
        if not all(_stands_in(value, text) for value in said):
            raise _Refused(f"the chat template leaves out or rewrites its tool calls. {other}")


def _stands_in(part: str, text: str) -> bool:
    if part in text:
        return True
    # As JSON, as templates write tools' answers; or with other white space.
    as_json = (json.dumps(part, ensure_ascii=ascii_only)[1:-1] for ascii_only in (False, True))
    return any(spelled in text for spelled in as_json) or "".join(part.split()) in "".join(text.split())


_OTHER_ANSWER = "\ue000\ue001"  # private use: no answer begins or ends with it


def _span(tokenizer: PreTrainedTokenizerBase, row: Row, place: int, prompt_text: str) -> tuple[int, int]:
    """Where the answer at `place` of the prompt stands in its text, [start, stop) in characters."""
    until = _as_text(tokenizer, row.prompt[:place], row.tools, open_turn=True)
    whole = _as_text(tokenizer, row.prompt[: place + 1], row.tools, open_turn=False)
    if prompt_text.startswith(whole) and whole.startswith(until):
        return len(until), len(whole)
    # Rendered otherwise where it is not the last, as Qwen3's is: found by what changes with it.
    message = row.prompt[place]
    if "</think>" in message["content"] or message.get("reasoning_content"):
        thoughts = message.get("reasoning_content") or message["content"].partition("</think>")[0]
        if not _stands_in(thoughts.removeprefix("<think>").strip(), prompt_text):
            raise _Refused(
                "the chat template leaves out the thinking of an earlier answer, so it can't be trained on there: "
                "write a row for each answer, or say data.train_on=last"
            )
    changed = (
        *row.prompt[:place],
        {"role": "assistant", "content": _OTHER_ANSWER},
        *row.prompt[place + 1 :],
    )
    other = _as_text(tokenizer, changed, row.tools, open_turn=True)
    start = _same(prompt_text, other)
    stop = len(prompt_text) - _same(prompt_text[start:][::-1], other[start:][::-1])
    if _OTHER_ANSWER not in other or not _stands_in(
        message["content"].rpartition("</think>")[2].strip(), prompt_text[start:stop]
    ):
        raise _Refused(
            "it can't be told where the chat template writes an earlier answer: say data.train_on=last, or give "
            "another template with base.chat_template"
        )
    return start, stop


def _same(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginnings."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _in_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], spans: list[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Where spans of the text stand in its tokens: up to and with the token that ends the turn."""
    if not tokenizer.is_fast:
        raise _Refused("data.train_on=all needs a fast tokenizer, and this base's is none")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert list(encoded["input_ids"]) == ids
    offsets = encoded["offset_mapping"]
    special = set(special_tokens(tokenizer).values())
    found = []
    for start, stop in spans:
        inside = [
            place for place, (first, last) in enumerate(offsets) if start <= first < stop and first < last
        ]
        # A token that began in the prompt is not one that the answer writes.
        end = inside[-1] + 1
        closing = [place for place in inside if ids[place] in special]
        if closing and not text[offsets[closing[-1]][1] : stop].strip():
            end = closing[-1] + 1
        elif end < len(ids) and ids[end] in special:
            end += 1
        found.append((inside[0], end))
    return tuple(found)


def _up_to_end_of_turn(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # A template may close the turn with a special token and then a newline that no model should have to write;
    # or with nothing at all, and then the model would never learn to stop.
    ids = [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    special = set(special_tokens(tokenizer).values())
    last_special = next((place for place in reversed(range(len(ids))) if ids[place] in special), None)
    if last_special is not None and not str(tokenizer.decode(ids[last_special + 1 :])).strip():
        return ids[: last_special + 1]
    return [*ids, int(tokenizer.eos_token_id)]
