"""Rows of training: records of any known form, made one kind of thing; what can't be one is said with the reason."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from training.errors import RowsError
from training.recipe import DataSection
from training.rows.conversations import (
    Message,
    WrongRow,
    conversation,
    history,
    json_of,
    text_of,
    tools_of,
    weight_of,
)
from training.rows.field_use import FileRead
from training.rows.files import Broken, records
from training.rows.forms import PARTS, ColumnMap, Form, form_of, how_unread, setting, what_would_do

TrainOn = Literal["last", "all"]
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """One training example: a conversation up to the answer, and the answer.

    `answer` is the answer as a message where it is more than the text `completion`. `earlier` are the places in
    `prompt` of the answers that are trained on too. `tools` are those that the answer could call.
    """

    origin: str
    prompt: tuple[Message, ...]
    completion: str
    source: str | None = None
    answer: Message | None = None
    earlier: tuple[int, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def answer_message(self) -> Message:
        """The answer as a message."""
        return self.answer or {"role": "assistant", "content": self.completion}


@dataclass(frozen=True)
class Unusable:
    """A row that can't be used, and why."""

    origin: str
    reason: str


@dataclass(frozen=True)
class HowToRead:
    """What the recipe chooses of reading: `data.train_on` and `data.columns`."""

    train_on: TrainOn = "last"
    columns: ColumnMap = field(default_factory=dict)

    @classmethod
    def of(cls, data: DataSection) -> HowToRead:
        """Return what a recipe chooses."""
        return cls(data.train_on, data.columns)


_AS_FOUND = HowToRead()


def read_rows(
    files: tuple[str, ...], how: HowToRead = _AS_FOUND, told: list[FileRead] | None = None
) -> tuple[list[Row], list[Unusable]]:
    """Read every row of every file, in order; none is dropped without being listed. `told` takes what was read how.

    Raises:
        RowsError: a file is missing, of an unknown kind, unreadable or empty; or has none of the columns of
            `data.columns`.

    """
    rows: list[Row] = []
    unusable: list[Unusable] = []
    mapped = {name for names in how.columns.values() for name in names}
    known: dict[str, None] = {}
    for file in files:
        read = FileRead(file)
        for origin, record in records(file, read.notes.append):
            parsed = parse_row(origin, record, how, read)
            if isinstance(record, dict):
                known |= dict.fromkeys(map(str, record))
            if isinstance(parsed, Row):
                rows.append(parsed)
                read.rows += 1
            else:
                unusable.append(parsed)
                read.unusable += 1
        if not read.rows + read.unusable:
            raise RowsError(f"{file}: there is not one row in it.")
        if told is not None:
            told.append(read)
    if missing := sorted(mapped - known.keys()):
        raise RowsError(
            f"Recipe, data.columns: no row has a column {missing[0]!r}. The columns are {', '.join(known) or 'none'}."
        )
    return rows, unusable


def parse_row(
    origin: str, record: Any, how: HowToRead = _AS_FOUND, read: FileRead | None = None
) -> Row | Unusable:
    """Make a row of one record of any known form, or say why it can't be one."""
    try:
        read = read or FileRead("")
        messages, tools, source, form = _parsed(record, how, read)
        _refuse_bad_answers(record, form)
        row = _row(origin, messages, tools, source, how, read)
        _refuse_surrogates(row)
    except WrongRow as wrong:
        return Unusable(origin, str(wrong))
    return row


def parse_prompt(origin: str, record: Any, how: HowToRead = _AS_FOUND) -> Row | Unusable:
    """As `parse_row`, of a record that may lack the answer; the completion is then empty."""
    try:
        messages, tools, source, _ = _parsed(record, how, FileRead(""))
        answered = messages[-1]["role"] == "assistant" and messages[:-1]
        prompt = tuple(_plain(message) for message in (messages[:-1] if answered else messages))
        row = Row(origin, prompt, messages[-1]["content"] if answered else "", source, tools=tools)
        _refuse_no_prompt(row.prompt)
        _refuse_surrogates(row)
    except WrongRow as wrong:
        return Unusable(origin, str(wrong))
    return row


def _parsed(
    record: Any, how: HowToRead, read: FileRead
) -> tuple[list[Message], tuple[dict[str, Any], ...], str | None, Form]:
    if isinstance(record, Broken):
        raise WrongRow(record.reason)
    if isinstance(record, list) and record and all(isinstance(turn, dict) for turn in record):
        record = {"messages": record}
    if not isinstance(record, dict):
        raise WrongRow(f"a row must be an object, this is {type(record).__name__}")
    record = _openai_preference(record)
    form = form_of(record, how.columns)
    if form is None:
        raise what_would_do(record)
    notes: set[str] = set()
    messages = (
        _whole_conversation(record, form, notes)
        if "messages" in form.parts
        else _question_and_answer(record, form, notes)
    )
    if system := form.first("system"):
        text = text_of(record[system], system)
        if text.strip() and messages[0]["role"] in ("system", "developer"):
            if messages[0]["content"].strip() != text.strip():
                raise WrongRow(f"{system!r} and the conversation's own system turn differ. Keep one of them")
        elif text.strip():
            messages = [{"role": "system", "content": text}, *messages]
    tools: tuple[dict[str, Any], ...] = ()
    if column := form.first("tools"):
        tools = tools_of(record[column], column)
    _refuse_lost_prompts(record, form, messages)
    source = record.get(form.first("source") or "source")
    read.forms[form.name] += 1
    for part, names in form.parts.items():
        for place, name in enumerate(names):
            use = PARTS["context"] if part == "prompt" and place else PARTS[part]
            if part == "source" and not isinstance(source, str):
                read.unread[name] += 1
            elif name in record and (record[name] not in (None, "", [], {}) or part in ("prompt", "answer")):
                read.fields[name, use] += 1
    for name in form.beside:
        read.fields[name, "said in the conversation already"] += 1
    read.unread.update([*(how_unread(name) for name in form.unread), *sorted(notes)])
    return messages, tools, source if isinstance(source, str) else None, form


def _openai_preference(record: dict[str, Any]) -> dict[str, Any]:
    asked = record.get("input")
    if not isinstance(asked, dict) or not isinstance(record.get("preferred_output"), list):
        return record
    rest = {name: value for name, value in record.items() if name not in ("input", "preferred_output")}
    return {**asked, **rest, "messages": [*(asked.get("messages") or []), *record["preferred_output"]]}


def _whole_conversation(record: Mapping[str, Any], form: Form, notes: set[str]) -> list[Message]:
    (name,) = form.parts["messages"]
    messages = conversation(record[name], name, notes)
    if earlier := form.first("history"):
        messages = [*history(record[earlier], earlier, notes), *messages]
    return messages


def _question_and_answer(record: Mapping[str, Any], form: Form, notes: set[str]) -> list[Message]:
    first, *others = (*form.parts["prompt"], *form.parts.get("context", ()))
    asked = record.get(first)
    if isinstance(asked, list) and not all(isinstance(turn, str) for turn in asked):
        messages = conversation(asked, first, notes)
        extra = [text for name in others if (text := text_of(record.get(name), name)).strip()]
        if extra:
            raise WrongRow(
                f"{first!r} is a conversation, and {others[0]!r} stands beside it. Put it into the conversation"
            )
    else:
        texts = [text_of(asked, first), *(text_of(record.get(name), name) for name in others)]
        content = "\n".join(text for place, text in enumerate(texts) if text or not place)
        messages = [{"role": "user", "content": content}]
    if earlier := form.first("history"):
        before = history(record[earlier], earlier, notes)
        systems = [message for message in messages[:1] if message["role"] == "system"]
        messages = [*systems, *before, *messages[len(systems) :]]
    answers = form.parts.get("answer", ())
    answer = _answer([record.get(name) for name in answers], answers, notes)
    if thoughts := form.first("thinking"):
        answer["reasoning_content"] = text_of(record[thoughts], thoughts)
    return [*messages, answer]


def _answer(values: list[Any], names: tuple[str, ...], notes: set[str]) -> Message:
    if len(values) == 1 and isinstance(values[0], list) and values[0] and isinstance(values[0][0], dict):
        turns = conversation(values[0], names[0], notes)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            raise WrongRow(f"{names[0]!r} must be one assistant message")
        return turns[0]
    texts = []
    for value, name in zip(values, names, strict=True):
        if isinstance(value, str) and name == "answers" and value.lstrip()[:2] == "{'":
            value = json_of(value, name)
        if isinstance(value, dict) and isinstance(value.get("text"), list):  # as SQuAD has them
            value = value["text"]
        if isinstance(value, list) and all(isinstance(text, str) for text in value):
            if len(set(value)) > 1:
                raise WrongRow(
                    f"{name!r} holds {len(set(value))} answers that differ: write a row of each, or keep one"
                )
            value = value[0] if value else ""
        texts.append(text_of(value, name))
    return {"role": "assistant", "content": "\n".join(filter(None, texts))}


def _refuse_lost_prompts(record: Mapping[str, Any], form: Form, messages: list[Message]) -> None:
    said = " ".join("\n".join(message["content"] for message in messages).split())
    for name in form.beside:
        value = record[name]
        text = " ".join(value.split()) if isinstance(value, str) else ""
        # Said already, or the whole row in another rendering: then it says nothing that would be lost.
        if text and (text in said or _asked(form, record) in text):
            continue
        prompt = [*form.parts.get("prompt", ()), name]
        mapping = (
            setting({"prompt": prompt, "answer": form.parts["answer"]})
            if "answer" in form.parts and len(prompt) > 1
            else None
        )
        ways = [f"put it into the prompt with {mapping}"] if mapping else []
        ways.append(f"leave it out with {setting({'ignore': [name]})}")
        raise WrongRow(f"{name!r} may be part of the prompt too, beside {form.name}: {', or '.join(ways)}")


def _asked(form: Form, record: Mapping[str, Any]) -> str:
    """What no text holds by chance: the prompt in one line."""
    value = record.get(form.parts["prompt"][0]) if "prompt" in form.parts else None
    return " ".join(value.split()) if isinstance(value, str) and value.strip() else "\0"


def _refuse_bad_answers(record: Any, form: Form) -> None:
    if (name := form.first("label")) and str(record[name]).strip().lower() in ("false", "0", "0.0"):
        raise WrongRow(
            f"{name!r} is {record[name]!r}: its answer is marked as a bad one. If it says something else, leave it out "
            f"with {setting({'ignore': [name]})}"
        )
    if (name := form.first("weight")) and not weight_of(record[name], name):
        raise WrongRow(f"{name!r} is 0: it is not to be trained on")


def _row(
    origin: str,
    messages: list[Message],
    tools: tuple[dict[str, Any], ...],
    source: str | None,
    how: HowToRead,
    read: FileRead,
) -> Row:
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    trained = [
        place for place in answers if message_weight(messages[place]) and says_something(messages[place])
    ]
    if not trained:
        if answers and not any(map(message_weight, (messages[place] for place in answers))):
            raise WrongRow("it has no response to train on: the weight of every answer is 0")
        asked_last = not answers
        raise WrongRow(
            "it has no response" + (": the last message is not the assistant's" if asked_last else "")
        )
    last = trained[-1]
    if says_nothing_after_question(messages, last):
        raise WrongRow("it has no response: the last answer is empty")
    _refuse_no_prompt(messages[:last])
    earlier = tuple(trained[:-1]) if how.train_on == "all" else ()
    silent = len(answers) - len(trained)
    if silent:
        read.fields["weight", "answers of weight 0 are read, not trained on"] += 1
    if len(answers) > 1:
        use = (
            "every answer is trained on"
            if how.train_on == "all"
            else "the last answer is trained on, earlier ones are read"
        )
        read.fields["answers", f"{use} (data.train_on: {how.train_on})"] += 1
    if last + 1 < len(messages):
        read.fields["turns after the last answer trained on", "cut: no loss depends on them"] += 1
    for name in ("tool_calls", "reasoning_content", "name"):
        if any(message.get(name) for message in messages[: last + 1]):
            read.fields[name, "in the turn, as the chat template has it"] += 1
    answer = _plain(messages[last])
    return Row(
        origin,
        tuple(_plain(message) for message in messages[:last]),
        answer["content"],
        source,
        answer if answer.keys() > {"role", "content"} else None,
        earlier,
        tools,
    )


def says_nothing_after_question(messages: list[Message], last: int) -> bool:
    """Whether the conversation ends in an answer that is empty: then the row lacks what it was written for."""
    end = messages[-1]
    return (
        len(messages) - 1 > last
        and end["role"] == "assistant"
        and not says_something(end)
        and bool(message_weight(end))
    )


def message_weight(message: Message) -> int:
    """Whether an answer is to be trained on."""
    return int(message.get("weight", 1))


def says_something(message: Message) -> bool:
    """Whether an answer has a text, or calls a tool."""
    return bool(message["content"].strip() or message.get("tool_calls"))


def _plain(message: Message) -> Message:
    return {name: value for name, value in message.items() if name != "weight"}


def _refuse_no_prompt(prompt: tuple[Message, ...] | list[Message]) -> None:
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        raise WrongRow("it has no prompt")


def _refuse_surrogates(row: Row) -> None:
    whole = (*row.prompt, row.answer_message)
    texts = [*(message["content"] for message in whole), row.source or ""]
    texts += [
        json.dumps(message, ensure_ascii=False, default=str)
        for message in (*whole, *row.tools)
        if message.keys() - {"role", "content"}
    ]
    for text in texts:
        if not text.isascii() and (found := _LONE_SURROGATE.search(text)):
            raise WrongRow(
                f"it holds half a character (the lone surrogate U+{ord(found.group()):04X} at character "
                f"{found.start() + 1} of a text): mend or remove it"
            )
