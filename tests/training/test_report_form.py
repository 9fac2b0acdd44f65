"""The report of a real run, by either rule for K, and the fixtures of the report's tests held to its form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.small_report import judged_router, small_report
from tests.stand_ins.tiny_line import TinyRun

# Parts that a run may lack, and the page then says so.
_OPTIONAL = {"not_measured", "plan"}


def test_a_run_that_our_rule_chooses_k_for_trains_to_the_end_and_its_report_says_so(
    first: TinyRun, tmp_path: Path
) -> None:
    by_ours = first.copied_to(tmp_path / "run")
    by_ours.train(clusters__rule="routed")
    pages = {}
    for run, rule in ((first, "paper"), (by_ours, "routed")):
        folder = run.folder / "bundle" / "report"
        report, pages[rule] = (
            json.loads((folder / "report.json").read_text()),
            (folder / "report.html").read_text(),
        )
        assert report["spectrum"]["rule"] == rule
        _assert_form(small_report(), report, "report")
        _assert_form(judged_router(), report["router"], "report.router")
    assert "by the paper&#39;s rule, the highest silhouette" in pages["paper"]
    assert "was chosen by our rule" in pages["routed"]


def test_a_renamed_key_is_seen() -> None:
    with pytest.raises(AssertionError, match=r"report\.spectrum\.rule"):
        _assert_form(small_report(), small_report(spectrum={"k": 2}), "report")


def _assert_form(known: Any, real: Any, name: str) -> None:
    """Assert that every key of a fixture is one of the real thing, and its value of the same kind."""
    if known is None or real is None:
        return  # may be either: there was nothing to be measured
    if isinstance(known, dict):
        assert isinstance(real, dict), name
        if set(map(str.isdigit, known)) == {True} or name.endswith(("by_source", "stages", "kinds")):
            known, real = ({"any": next(iter(each.values()))} for each in (known, real) if each)
        for key in known:
            if key not in _OPTIONAL:
                assert key in real, f"{name}.{key} is in the fixture, and no real run writes it"
                _assert_form(known[key], real[key], f"{name}.{key}")
    elif isinstance(known, list):
        assert isinstance(real, list), name
        if known and real:
            _assert_form(known[0], real[0], f"{name}[0]")
    else:
        number = (int, float)
        assert isinstance(real, number if isinstance(known, number) else type(known)), name
