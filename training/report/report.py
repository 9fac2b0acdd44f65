"""What a run found: facts about its clusters, report.json for machines, report.html for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.report.page import render_page
from training.report.verdict import judge


def write_report(folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Write report.json and report.html (one page, nothing from the network), and return what report.json holds.

    `report` must have base, rows, spectrum, calibration, clusters, terms, warmup, experts, router and stages. It may
    have quality (`cluster_quality`), norm_shares (`norm_shares`), examples (`cluster_examples`), shuffle
    (`shuffle_agreement`), diagnosis (a list of checks) and plan; where one is missing or None the page says that it
    was not measured, with the reason in `not_measured` (part -> reason) if there is one. The verdict is added.

    Raises:
        jinja2.UndefinedError, KeyError: a part that must be there is not; nothing is written then.

    """
    whole = report | {"verdict": judge(report)}
    text = json.dumps(whole, indent=2, allow_nan=False) + "\n"
    page = render_page(whole)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")
    return whole
