"""The report as one page: numbers from report.json, figures drawn of them, no request to anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.report import count_figures
from training.report import figures as report_figures
from training.report.loss_figures import adapters_of, loss_curve
from training.report.splitting import told
from training.report.verdict import missing

_SHOWN_SOURCES = 40
_SHOWN_ROWS_LEFT_OUT = 50
_LEVELS = {"good": "Good", "care": "Caution", "bad": "Problem", "unknown": "Unknown"}


def render_page(report: dict[str, Any]) -> str:
    """Render a whole report (see `training.report.report.write_report`) as HTML.

    Raises:
        jinja2.UndefinedError, KeyError: a part that must be there is not.

    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "short": _short, "heat": _heat}
    environment.filters["difference"] = told
    return environment.get_template("report.html.jinja").render(
        _OPTIONAL
        | report
        | {
            "figures": draw_figures(report),
            "levels": _LEVELS,
            "missing": lambda part: missing(report, part),
            "tried": _tried(report["spectrum"]),
            "sources": _sources(report["clusters"]["by_source"]),
            "adapters": adapters_of(report),
            "loss_figures": {_loss_figure(name): name for name in adapters_of(report)},
            "planned": _planned(report.get("plan") or {}),
            "rows_left_out_shown": _SHOWN_ROWS_LEFT_OUT,
        }
    )


_OPTIONAL: dict[str, Any] = dict.fromkeys(
    ("gate", "quality", "norm_shares", "examples", "shuffle", "diagnosis", "plan")
)


def draw_figures(report: dict[str, Any]) -> dict[str, str]:
    """Draw every figure that the report has the numbers for: name -> SVG."""
    spectrum, clusters, calibration = report["spectrum"], report["clusters"], report["calibration"]
    thresholds = sorted({point["threshold"] for point in spectrum["grid"]})
    limits = calibration.get("limits") or {}
    figures = {
        "singular": report_figures.singular_values(spectrum["singular_values"], thresholds),
        "convergence": report_figures.convergence(
            calibration["epochs"], limits.get("drift"), limits.get("churn")
        ),
    }
    if len({point["k"] for point in spectrum["grid"]}) > 1:
        figures["grid"] = count_figures.silhouettes(spectrum)
    if spectrum.get("halves"):
        figures["routed"] = count_figures.routed_cosines(spectrum)
        figures["redrawn"] = count_figures.redrawn(spectrum)
    if clusters.get("margins"):
        figures["margins"] = report_figures.margins(clusters["margins"])
    if report.get("quality"):
        figures["variance"] = report_figures.variances(report["quality"])
    if report.get("norm_shares"):
        figures["layers"] = report_figures.layer_shares(report["norm_shares"]["layers"])
        figures["modules"] = report_figures.module_shares(report["norm_shares"]["modules"])
    for name, trained in adapters_of(report).items():
        if trained["losses"]:
            figures[_loss_figure(name)] = loss_curve(name, _loss_figure(name), trained)
    return figures


def _loss_figure(adapter: str) -> str:
    return f"losses-{adapter}"


def _tried(spectrum: dict[str, Any]) -> dict[str, Any]:
    """The grid as a table: a row per K with its points by threshold and what halves of the probe say of it."""
    grid = spectrum["grid"]
    thresholds = sorted({point["threshold"] for point in grid})
    halves = {each["k"]: each for each in (spectrum.get("halves") or {"by_k": []})["by_k"]}
    best = max(grid, key=lambda point: (point["silhouette"], -point["k"]))
    return {
        "subspaces": [
            (threshold, next(point["components"] for point in grid if point["threshold"] == threshold))
            for threshold in thresholds
        ],
        "rows": [
            {
                "k": k,
                "points": [
                    next((p for p in grid if p["threshold"] == threshold and p["k"] == k), None)
                    for threshold in thresholds
                ],
                "halves": halves.get(k),
            }
            for k in sorted({point["k"] for point in grid})
        ],
        "best": best,
        "lowest": min(point["silhouette"] for point in grid),
    }


def _sources(by_source: dict[str, list[int]]) -> dict[str, Any]:
    """The largest sources first, and what the others hold together, so that the table ends."""
    ordered = sorted(by_source.items(), key=lambda item: (-sum(item[1]), item[0]))
    shown, rest = ordered[:_SHOWN_SOURCES], ordered[_SHOWN_SOURCES:]
    if rest:
        together = [sum(counts) for counts in zip(*(counts for _, counts in rest), strict=True)]
        shown.append((f"{len(rest):,} other sources", together))
    return {"rows": shown, "carried": set(by_source) != {"-"}}


def _planned(plan: dict[str, Any]) -> list[tuple[str, str]]:
    """Each figure of the plan with its name, in the plan's order; its warnings stand at the top of the page."""
    lines: list[tuple[str, str]] = []
    for name, value in plan.items():
        if name in ("warnings", "trial", "seconds") or value is None:
            continue
        if isinstance(value, dict):
            of = name.removesuffix("s").replace("_", " ")
            lines += [
                (f"{of}: {part}", _megabytes(size)) for part, size in value.items() if isinstance(size, int)
            ]
        elif name.endswith("_bytes"):
            lines.append((name.removesuffix("_bytes").replace("_", " "), _megabytes(value)))
        else:
            lines.append((name.replace("_", " "), value if isinstance(value, str) else _number(value, 2)))
    return lines


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _heat(value: float | None, low: float, high: float) -> int:
    """Where a value lies between two others, in percent: how strongly its cell is shaded."""
    if value is None or high <= low:
        return 0
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))))
