"""results.json's Table 1 as Markdown: for each metric a table, above all of them how they came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_METRICS = {
    "loss": "Held-out loss per response token, in nats; lower is better",
    "token_accuracy": "Token accuracy in %: the likeliest token is the right one; higher is better",
    "exact_match": "Exact match in % of greedy answers; higher is better",
}
_PERCENT = {"token_accuracy", "exact_match"}


def table_markdown(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Write results as Markdown; `titles` are the methods' by name."""
    parts = [_head(results)]
    for metric, title in _METRICS.items():
        columns = _columns(results, metric)
        if columns:
            parts.append(_table(results, titles, metric, title, columns))
    if results["against"]["loss"]:
        parts.append(_differences(results, titles))
    parts.append(_conditions(results, titles))
    return "\n\n".join(parts) + "\n"


def _head(results: Mapping[str, Any]) -> str:
    seeds = ", ".join(str(seed) for seed in results["seeds"])
    lines = [
        "# Table 1: the methods compared",
        "",
        f"- Command: `{results['command']}`",
        f"- Commit: {results['commit']}",
        f"- Machine: {results['machine']}",
        f"- Seeds: {seeds}; each cell is the mean and, after ±, the standard deviation over them",
    ]
    for source, why in results["missing"].items():
        lines.append(f"- {source}: failed: {why}")
    return "\n".join(lines)


def _columns(results: Mapping[str, Any], metric: str) -> list[str]:
    names = [key for cells in results["table1"].values() for key in cells if key.startswith(f"{metric}/")]
    return list(dict.fromkeys(names))


def _table(
    results: Mapping[str, Any], titles: Mapping[str, str], metric: str, title: str, columns: Sequence[str]
) -> str:
    names = [column.partition("/")[2] for column in columns]
    lines = _table_head(title, names)
    for key, cells in results["table1"].items():
        name, _, route = key.partition(", ")
        if "failed" in cells:
            said = "; ".join(f"{why} (seed {seed})" for seed, why in cells["failed"].items())
            if not any(column in cells for column in columns):
                shown = [f"failed: {said}"] + [""] * (len(columns) - 1)
                lines.append(_line(titles[name], route, shown))
                continue
            route = f"{route}; failed: {said}".removeprefix("; ")
        shown = [_shown(cells.get(column), metric in _PERCENT) for column in columns]
        lines.append(_line(titles[name], route, shown))
    return "\n".join(lines)


def _table_head(title: str, columns: Sequence[str]) -> list[str]:
    return [
        f"## {title}",
        "",
        f"| method | chosen by | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]


def _line(title: str, route: str, shown: Sequence[str]) -> str:
    return f"| {title} | {route} | {' | '.join(shown)} |"


def _shown(cell: Mapping[str, Any] | None, percent: bool) -> str:
    if cell is None:
        return ""
    if "note" in cell:
        return str(cell["note"])
    scale, digits = (100, 1) if percent else (1, 4)
    spread = "" if cell["std"] is None else f" ± {scale * cell['std']:.{digits}f}"
    return f"{scale * cell['mean']:.{digits}f}{spread}"


def _differences(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    against = results["against"]
    sources = list(next(iter(against["loss"].values())))
    shown_as = ["mean over sources" if source == "mean" else source for source in sources]
    title = (
        f"Loss less that of {titles[against['method']]}, 95 % interval (paired bootstrap over rows and seeds)"
    )
    lines = _table_head(title, shown_as)
    for key, cells in against["loss"].items():
        name, _, route = key.partition(", ")
        shown = [
            f"{cells[source]['mean']:+.4f} [{cells[source]['low']:+.4f}, {cells[source]['high']:+.4f}]"
            for source in sources
        ]
        lines.append(_line(titles[name], route, shown))
    return "\n".join(lines)


def _conditions(results: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    lines = [
        "## Under which conditions",
        "",
        "| method | row visits after the warm-up | learning rate | validation loss by rate "
        "| test rows that the router sends where the oracle does |",
        "|---|---|---|---|---|",
    ]
    for name, visits in results["row_visits"].items():
        rates = results["learning_rates"][name]
        tried = results["validation_loss_by_rate"].get(name, {})
        said = ", ".join(f"{rate}: {loss:.4f}" for rate, loss in tried.items())
        agreed = [f"{100 * share:.1f} %" for share in results["router_agreement"][name] if share is not None]
        shown = [_list(visits), _list(f"{rate:g}" for rate in rates), said, ", ".join(agreed)]
        lines.append(f"| {titles[name]} | {' | '.join(shown)} |")
    lines += [
        "",
        "| seed | rows trained on | validation rows | test rows that share 13 words in a row with a training row |",
        "|---|---|---|---|",
    ]
    tests = results["test_rows"]
    for seed, facts in results["rows"].items():
        said = ", ".join(f"{name} {count} of {tests[name]}" for name, count in facts["contaminated"].items())
        lines.append(f"| {seed} | {facts['train_rows']} | {facts['validation_rows']} | {said} |")
    return "\n".join(lines)


def _list(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
