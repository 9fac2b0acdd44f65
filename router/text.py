"""Which text of a request is routed: one rule, the same for training rows and for requests.

The response is never part of it (section 5.4.2 routes on the input alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

from bundle.manifest import RoutedTextRule
from router.chat_template import ChatTemplate

_Turn = TypeVar("_Turn")
_TEXT_PARTS = ("text", "input_text")


def routed_text(messages: Sequence[Mapping[str, Any]], rule: RoutedTextRule) -> str:
    r"""Return the text of a conversation that the router reads.

    Rule `last_user`: the text of the last user turn; `first_user`: of the first; `all_user`: of all of them,
    joined by "\n". System prompts and answers are never part of it. Text parts (types `text` and `input_text`)
    are joined by "\n", images and other parts ignored. Without a user turn: "". A user turn that only carries
    tool results (the way of `/v1/messages`) is a tool's answer, and is passed over.

    Raises:
        ValueError: a rule this version does not know.

    """
    return _by_rule(
        (turn for turn in messages if _asks(turn)), rule, lambda turn: _text_of(turn.get("content"))
    )


def _by_rule(turns: Iterable[_Turn], rule: RoutedTextRule, text_of: Callable[[_Turn], str]) -> str:
    asked = list(turns)
    match rule:
        case "last_user":
            chosen = asked[-1:]
        case "first_user":
            chosen = asked[:1]
        case "all_user":
            chosen = asked
        case _:
            raise ValueError(
                f"routed_text.rule: unknown rule {rule!r}. Use 'last_user', 'first_user' or 'all_user'"
            )
    return "\n".join(text_of(turn) for turn in chosen)


def _asks(message: Mapping[str, Any]) -> bool:
    return message.get("role") == "user" and not _is_tool_answer(message.get("content"))


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        str(part.get("text") or "") for part in _parts(content) if part.get("type") in _TEXT_PARTS
    )


def _is_tool_answer(content: object) -> bool:
    parts = _parts(content)
    return bool(parts) and all(part.get("type") == "tool_result" for part in parts)


def _parts(content: object) -> list[Mapping[str, Any]]:
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


@dataclass(frozen=True)
class _Markers:
    """What a chat template puts around the text of a user turn."""

    opening: str
    closing: str
    """Up to where the assistant speaks."""
    ending: str
    """Instead of `closing`, at the very end of a prompt rendered without a generation prompt."""
    system_end: str
    """Between a system text and the user's, where the template writes both into the user turn; or ""."""

    @property
    def marker(self) -> str:
        """The opening as a client may send it, who trims what the template put around it."""
        return self.opening.rstrip()


class PromptReader:
    """Finds the user turns in a raw completion prompt that is already in the chat template.

    The markers are found by rendering conversations of sentinels. A template that can't be understood
    this way means that prompts are taken as they are.
    """

    def __init__(self, chat_template: str, bos_token: str | None, eos_token: str | None) -> None:
        """`chat_template` is its source; the tokens are those of the base model's tokenizer."""
        self._markers = _markers_of(chat_template, bos_token, eos_token)

    def user_turn(self, prompt: str, rule: RoutedTextRule = "last_user") -> str:
        """Return what `routed_text` gives for the prompt's turns, or the prompt unchanged if it has none."""
        if self._markers is None:
            return prompt
        turns = _last_turn(prompt, self._markers) if rule == "last_user" else _turns(prompt, self._markers)
        return _by_rule(turns, rule, str) if turns else prompt


def _last_turn(prompt: str, marks: _Markers) -> list[str]:
    """The turn behind the last marker, or nothing: what stands before it may be of any form."""
    _, found, rest = prompt.rpartition(marks.marker)
    return _turns(found + rest, marks)


def _turns(prompt: str, marks: _Markers) -> list[str]:
    """Every user turn, from the first marker on; nothing if one of them never ends."""
    turns: list[str] = []
    _, found, rest = prompt.partition(marks.marker)
    while found:
        turn, closed, after = rest.removeprefix(marks.opening[len(marks.marker) :]).partition(marks.closing)
        if not closed:
            if not marks.ending or not turn.endswith(marks.ending):
                return []
            turn = turn.removesuffix(marks.ending)
        if marks.system_end:
            turn = turn.rpartition(marks.system_end)[2]
        turns.append(turn)
        _, found, rest = after.partition(marks.marker)
    return turns


_SYSTEM, *_TURNS = (f"QzSentinel{name}zQ" for name in ("Sys", "Ua", "Ab", "Uc", "Ad", "Ue"))
_ROLES = ("user", "assistant", "user", "assistant", "user")


def _markers_of(chat_template: str, bos_token: str | None, eos_token: str | None) -> _Markers | None:
    try:
        template = ChatTemplate(chat_template, bos_token, eos_token)
    except Exception:  # a template is a program: nothing it raises may stop a service
        return None
    for as_parts in (False, True):  # some templates only take content as a list of parts
        gaps = _gaps(template, _conversation(as_parts), _TURNS, generation=True)
        unprompted = _gaps(template, _conversation(as_parts), _TURNS, generation=False)
        if gaps is None or unprompted is None:
            continue
        # gaps: before user a | a to assistant b | b to user c | c to assistant d | d to user e | after e
        opening = _common_suffix([_after_tokens(gap, (bos_token, eos_token)) for gap in gaps[0::2]])
        closing = _common_prefix(gaps[1::2]).rstrip()
        if not opening.strip() or not closing.strip() or "'type':" in opening:
            continue  # nothing to go by, or a list of parts printed as it is
        system = _gaps(template, _conversation(as_parts, system=True), [_SYSTEM, *_TURNS], generation=True)
        between = system[1] if system else ""
        inside_the_turn = bool(between.strip()) and opening.strip() not in between
        return _Markers(opening, closing, unprompted[-1], between if inside_the_turn else "")
    return None


def _conversation(as_parts: bool, system: bool = False) -> list[dict[str, Any]]:
    turns = list(zip(_ROLES, _TURNS, strict=True))
    if system:
        turns.insert(0, ("system", _SYSTEM))
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if as_parts else text}
        for role, text in turns
    ]


def _gaps(
    template: ChatTemplate, messages: list[dict[str, Any]], sentinels: list[str], *, generation: bool
) -> list[str] | None:
    """Return what stands before, between and after the sentinels, or None if they are not all there once."""
    try:
        rest = template.render(messages, add_generation_prompt=generation)
    except Exception:  # as above
        return None
    gaps = []
    for sentinel in sentinels:
        if rest.count(sentinel) != 1:
            return None
        gap, _, rest = rest.partition(sentinel)
        gaps.append(gap)
    return [*gaps, rest]


def _after_tokens(gap: str, tokens: tuple[str | None, ...]) -> str:
    """Cut up to the last bos or eos: raw prompts come without the one, and first turns without the other."""
    start = max((gap.rfind(token) + len(token) for token in tokens if token and token in gap), default=0)
    return gap[start:].lstrip() if start else gap


def _common_prefix(texts: Sequence[str]) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


def _common_suffix(texts: Sequence[str]) -> str:
    return _common_prefix([text[::-1] for text in texts])[::-1]
