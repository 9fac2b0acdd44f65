"""How large a regular expression really is: `[a-z]{1,5000}` is written in 13 characters and means 5,000 letters."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

MAX_POSITIONS = 5_000
"""ours: up to two seconds of the engine's time on a small machine, which grow with the square."""
_REPEATED = re.compile(r"\{(\d*)(,?)(\d*)\}")
_PATTERN_FIELDS = ("pattern", "regex", "patternProperties")
_ANY, _CLASS, _ONE = 3, 2, 1  # what they cost the engine's compiler, measured


def positions(pattern: str) -> int:
    """Return how many characters a pattern stands for, each repetition counted as often as it may occur."""
    groups: list[int] = []
    total = last = at = 0
    while at < len(pattern):
        letter = pattern[at]
        at += 1
        if letter == "(":
            groups.append(total)
            total = last = 0
        elif letter == ")":
            last = total
            total += groups.pop() if groups else 0
        elif letter == "{" and (repeated := _REPEATED.match(pattern, at - 1)):
            at = repeated.end()
            times = max(int(number or 1) for number in repeated.group(1, 3))
            total += last * (max(1, times) - 1)
            last *= max(1, times)
        elif letter not in "*+?|^$":
            last, at = _atom(pattern, at - 1)
            total += last
    return total + sum(groups)


def _atom(pattern: str, at: int) -> tuple[int, int]:
    """Return what one character or class costs, and where the next begins."""
    if pattern[at] == "\\":
        kind = pattern[at + 1 : at + 2]
        end = at + 2
        if kind in ("p", "P", "u", "x") and pattern.startswith("{", end):
            end = pattern.find("}", end) + 1 or len(pattern)
        return _CLASS if kind in tuple("wWsSdDpP") else _ONE, end
    if pattern[at] == "[":
        end = at + 2
        while end < len(pattern) and pattern[end] != "]":
            end += 2 if pattern[end] == "\\" else 1
        return _ANY if pattern.startswith("[^", at) else _ONE, end + 1
    return _ANY if pattern[at] == "." else _ONE, at + 1


def patterns(constraint: Any) -> Iterator[str]:
    """Yield every regular expression in a constraint of an answer's form."""
    waiting = [constraint]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            for name, value in one.items():
                if name in _PATTERN_FIELDS and isinstance(value, str):
                    yield value
                elif name == "patternProperties" and isinstance(value, dict):
                    yield from value
                if isinstance(value, dict | list):
                    waiting.append(value)
                elif name == "json" and isinstance(value, str):  # a schema as a text
                    with contextlib.suppress(ValueError, RecursionError):
                        waiting.append(json.loads(value))
