"""What a repository of a model hub is called on a command line: `ID` or `ID@REVISION`. Nothing is fetched here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FORM = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)(?:@([\w][\w./-]*))?")


@dataclass(frozen=True)
class HubName:
    """A repository, and the branch, tag or commit of it; None: what its main branch holds now."""

    id: str
    revision: str | None


def hub_name(given: str) -> HubName | None:
    """Return the repository that is meant, None where it is a path: one that is there, or that looks like one."""
    match = _FORM.fullmatch(given)
    if match is None or Path(given).exists():
        return None
    return HubName(match.group(1), match.group(2))
