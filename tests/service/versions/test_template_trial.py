"""A chat template that never ends is noticed from outside."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundle.errors import BundleError
from service.versions import template_trial

_ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}"
)


def trial(folder: Path, template: str) -> None:
    (folder / "t.jinja").write_text(template)
    bundle: Any = SimpleNamespace(chat_template=folder / "t.jinja")
    template_trial.try_template(bundle, "<s>", "</s>")


def test_one_that_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_trial, "TRIAL_SECONDS", 4.0)
    with pytest.raises(BundleError, match=r"chat_template\.jinja.*not rendered within 4 seconds"):
        trial(tmp_path, _ENDLESS)


def test_one_that_ends_or_raises_is_left_to_the_version(tmp_path: Path) -> None:
    trial(tmp_path, "{{ messages[0].content }}")
    trial(tmp_path, "{{ raise_exception('no') }}")
