"""How a recipe's values are read: by the type of their key, never by what YAML takes a word for.

YAML 1.1 reads `off` as false, `no` as false, `1234567` as a number and `1e-4` as a word, whatever they are for.
Here a plain word stays a word until its key says what it is; only null is read by YAML itself.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, WrapValidator, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

_READ_BY_YAML = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
# What YAML 1.1 reads as a truth value, for those who write one where a word is asked for.
_NO, _YES = ("off", "no", "false"), ("on", "yes", "true")


class _PlainLoader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and kind
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _READ_BY_YAML]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def plain_yaml(text: str) -> Any:
    """Read YAML; every plain scalar but null is a string.

    Raises:
        yaml.YAMLError: it is none.

    """
    return yaml.load(text, _PlainLoader)


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, and a choice among words takes YAML's truth values too."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _read_word(cls, value: Any, info: ValidationInfo) -> Any:
        words = _words(cls.model_fields[str(info.field_name)])
        return _word(value, words) if words else value


def _words(field: FieldInfo) -> tuple[str, ...]:
    """The words that a key chooses among; none where it is no such key."""
    kinds = (field.annotation, *get_args(field.annotation))
    return tuple(
        str(word)
        for kind in kinds
        if get_origin(kind) is Literal
        for word in get_args(kind)
        if word is not None
    )


def _word(value: Any, words: tuple[str, ...]) -> Any:
    """`off`, `Off`, `no`, `false` and False all mean the choice of that sense, if there is just one."""
    said = str(value).lower() if isinstance(value, (bool, str)) else ""
    if value in words or said in words:
        return value if value in words else said
    for sense in (_NO, _YES):
        meant = [word for word in words if word in sense]
        if said in sense and len(meant) == 1:
            return meant[0]
    return value


def _read_size(value: Any, read: Any) -> ByteSize:
    try:
        return read(value.strip() if isinstance(value, str) else value)
    except ValueError as error:
        raise PydanticCustomError("size", "this is not a size; write it as 8GB, 512MB or 1.5GiB") from error


Size = Annotated[ByteSize, WrapValidator(_read_size)]
"""Bytes, as people write them."""

COLUMN_PARTS = (
    *("prompt", "context", "answer", "system", "history", "thinking", "messages", "tools"),
    *("label", "weight", "source", "ignore"),
)
"""What `data.columns` can say of a column: training/rows/forms.py has what each means."""
_PARTS_KNOWN = f"the parts are {', '.join(COLUMN_PARTS)}"


def columns_of(value: Any) -> dict[str, Any]:
    """Check `data.columns`, and make a list of each part's columns.

    Raises:
        ValueError: it names a part that there is not.

    """
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 - pydantic turns only this one into an answer
            f"it maps parts to columns, as in {{prompt: Frage, answer: Antwort}}; {_PARTS_KNOWN}"
        )
    for part, names in value.items():
        if part not in COLUMN_PARTS:
            turned = (
                ", and it is written PART: COLUMN" if isinstance(names, str) and names in COLUMN_PARTS else ""
            )
            raise ValueError(f"{part!r} is no part of a row; {_PARTS_KNOWN}{turned}")
    return {part: (names,) if isinstance(names, str) else names for part, names in value.items()}


def choice(default: Any, tag: str, why: str, **limits: Any) -> Any:
    """Return a field of a section, its default tagged with where it comes from (`training.recipe`)."""
    return Field(default=default, description=why, json_schema_extra={"tag": tag}, **limits)
