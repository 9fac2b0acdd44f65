"""Which column plays which part: recognised by its name, or as `data.columns` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from training.rows.conversations import WrongRow, transcript

ColumnMap = Mapping[str, tuple[str, ...]]
"""Part -> columns, as `data.columns` gives it."""

PARTS = {
    "messages": "the conversation",
    "system": "the system turn",
    "history": "earlier turns",
    "prompt": "the user's turn",
    "context": "the user's turn, below it",
    "answer": "the answer",
    "thinking": "the thinking before the answer",
    "tools": "the tools",
    "label": "whether the answer is a good one",
    "weight": "whether the row is trained on",
    "source": "the source",
    "ignore": "not used",
}

# In the order in which they are taken where a record has several.
_NAMES: dict[str, tuple[str, ...]] = {
    "messages": (
        "messages",
        "conversations",
        "conversation",
        "dialogue",
        "dialog",
        "chat",
        "turns",
        "contents",
    ),
    "system": ("system", "system_prompt", "system_message", "systeminstruction", "system_instruction"),
    "history": ("history",),
    "prompt": (
        *("instruction", "prompt", "question", "query", "problem", "human", "user", "inputs", "input"),
        *("user_input", "user_prompt", "instructions"),
    ),
    "context": ("input", "context", "passage"),
    "answer": (
        *("output", "completion", "response", "answer", "answers", "solution", "target", "targets", "chosen"),
        *("assistant", "bot", "reply", "outputs", "responses", "assistant_response"),
    ),
    "thinking": (
        *("reasoning_content", "thinking", "reasoning", "thought", "thoughts", "chain_of_thought", "cot"),
        *("complex_cot", "rationale"),
    ),
    "tools": ("tools", "functions"),
    "label": ("label",),
    "weight": ("weight",),
    "source": ("source",),
}
_WHOLE_TEXT = ("text", "transcript", "chosen")
_REJECTED = ("rejected", "non_preferred_output", "rejected_response")
_TREE = {"message_id", "parent_id", "role", "text"}


@dataclass(frozen=True)
class Form:
    """What the columns of a record are. `parts`: part -> its columns as the record spells them."""

    name: str
    parts: dict[str, tuple[str, ...]]
    beside: tuple[str, ...] = ()
    """Columns that could be the prompt too, and are not read."""
    unread: tuple[str, ...] = field(default=())
    """All other columns."""

    def first(self, part: str) -> str | None:
        """The one column of a part."""
        return self.parts.get(part, (None,))[0]


def form_of(record: Mapping[str, Any], columns: ColumnMap) -> Form | None:
    """Return the form of a record, or None where its columns are none that are known."""
    held = tuple(str(name) for name, value in record.items() if value not in (None, "", [], {}))
    texts = tuple(
        name
        for name in held
        if name.lower() in _WHOLE_TEXT and _is_conversation(record[name], name.lower() == "chosen")
    )
    lists = tuple(name for name in held if _may_be_turns(record[name]))
    return _form(
        held,
        tuple(map(str, record)),
        texts,
        lists,
        tuple((part, tuple(names)) for part, names in columns.items()),
    )


def _is_conversation(value: Any, may_be_list: bool) -> bool:
    if isinstance(value, str):
        return transcript(value) is not None
    return may_be_list and isinstance(value, list) and len(value) > 1 and isinstance(value[0], dict)


def _may_be_turns(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip()[:1] in ("[", "{") or transcript(value) is not None
    return isinstance(value, list | dict)


@lru_cache(maxsize=4096)
def _form(
    held: tuple[str, ...],
    names: tuple[str, ...],
    whole_texts: tuple[str, ...],
    lists: tuple[str, ...],
    columns: tuple[tuple[str, tuple[str, ...]], ...],
) -> Form | None:
    given = {part: named for part, named in columns if part != "ignore" and set(named) & set(names)}
    ignored = {name for part, named in columns if part == "ignore" for name in named}
    taken = {name for named in given.values() for name in named} | ignored
    free = [name for name in held if name not in taken]

    def known(part: str, among: Sequence[str] = free) -> list[str]:
        spelled = {_plain(name): name for name in reversed(among)}
        spelled |= {name: name for name in among if name in _NAMES[part]}
        return [spelled[name] for name in _NAMES[part] if name in spelled]

    parts: dict[str, tuple[str, ...]] = dict(given)
    for part in ("system", "history", "tools", "label", "weight", "source"):
        if part not in parts and (found := known(part)):
            parts[part] = tuple(found[:1])
    asked_by_hand = {"prompt", "answer", "context"} & given.keys()
    turns = [
        name for name in known("messages") if name in lists or name.lower() in ("messages", "conversations")
    ]
    if "messages" not in given and not asked_by_hand:
        whole = [name for name in whole_texts if name in free]
        if turns:
            parts["messages"] = (turns[0],)
        elif whole and (not known("prompt") or _plain(whole[0]) == "chosen"):
            parts["messages"] = (whole[0],)
    if "messages" in parts:
        name = parts["messages"][0]
        beside = [each for each in known("prompt") if each not in _flat(parts)]
        return _made("messages" if _plain(name) == "messages" else name, parts, beside, held, ignored)
    prompts = [name for name in known("prompt") if name not in _flat(parts)]
    if "prompt" not in parts:
        empty = [name for name in names if name not in taken]
        prompts = prompts or known("prompt", empty)[:1]
        if not prompts and (turns := known("messages", empty)):
            return _made(turns[0], parts | {"messages": (turns[0],)}, (), held, ignored)
        if not prompts:
            return None
        parts["prompt"] = (prompts.pop(0),)
    if "answer" not in parts:
        answers = known("answer") or known("answer", [name for name in names if name not in taken])
        answers = [name for name in answers if name not in _flat(parts)]
        parts |= {"answer": tuple(answers[:1])} if answers else {}
    if "context" not in parts:
        contexts = [name for name in known("context") if name not in _flat(parts)]
        parts |= {"context": tuple(contexts)} if contexts else {}
    if "thinking" not in parts and (
        found := [name for name in known("thinking") if name not in _flat(parts)]
    ):
        parts["thinking"] = (found[0],)
    beside = [name for name in prompts if name not in _flat(parts)]
    shown = [each for part in ("prompt", "context", "answer") for each in parts.get(part, ())]
    return _made("/".join(shown), parts, beside, held, ignored)


def _made(
    name: str,
    parts: dict[str, tuple[str, ...]],
    beside: Sequence[str],
    held: Sequence[str],
    ignored: set[str],
) -> Form:
    known = {*_flat(parts), *beside}
    unread = tuple(each for each in held if each not in known)
    return Form(name, parts, tuple(each for each in beside if each not in ignored), unread)


def _flat(parts: Mapping[str, tuple[str, ...]]) -> set[str]:
    return {name for named in parts.values() for name in named}


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def what_would_do(record: Mapping[str, Any]) -> WrongRow:
    """Say why a record is of no known form, and which mapping would make it one."""
    if record.keys() >= _TREE:
        return WrongRow(
            "it is a single message of a tree (message_id, parent_id): write each path from its root to an answer as "
            "one row with 'messages'"
        )
    if {"role", "content"} <= record.keys():
        return WrongRow("it is a single message: write the conversation as one row with 'messages'")
    said = f"its columns {sorted(map(str, record))} are of no known form (docs/data.md lists them)"
    texts = [str(name) for name, value in record.items() if isinstance(value, str) and value.strip() and name]
    # What may be an answer stands behind what may be its question, and a name or a number is neither.
    answers = [name for name in texts if _plain(name) in (*_NAMES["answer"], "label")]
    answer = answers[0] if answers else texts[-1] if len(texts) > 1 else None
    prompts = [name for name in texts if name != answer]
    if answer and prompts:
        longest = max(prompts, key=lambda name: len(str(record[name])))
        return WrongRow(f"{said}. If it is so, say {setting({'prompt': [longest], 'answer': [answer]})}")
    if texts:
        return WrongRow(f"{said}. {texts[0]!r} is its only text: split it into a question and an answer")
    return WrongRow(f"{said}. Name them with {setting({'prompt': ['QUESTION'], 'answer': ['ANSWER']})}")


def setting(columns: Mapping[str, Sequence[str]]) -> str:
    """Return a `--set` that maps columns so, in quotes for a shell."""

    def word(name: str) -> str:
        return name if name.replace("_", "").isalnum() else f'"{name}"'

    said = ", ".join(
        f"{part}: {word(names[0]) if len(names) == 1 else '[' + ', '.join(map(word, names)) + ']'}"
        for part, names in columns.items()
    )
    return f"--set 'data.columns={{{said}}}'"


def how_unread(name: str) -> str:
    """Say of a column that is not read what it is, where that is known."""
    if not name.strip() or name.lower().startswith("unnamed: "):
        return "the column without a name (an index)"
    if _plain(name) in _REJECTED:
        return f"{name} (rejected answers: training is on the chosen ones)"
    return name
