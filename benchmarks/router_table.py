"""What the benchmark of the router says at the end: two tables, and what stands behind them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_record(record: dict[str, Any]) -> None:
    """Print the tables and the sentences below them."""
    console = Console()
    console.print(_quality(record))
    console.print(_latency(record))
    for line in _sentences(record):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _quality(record: dict[str, Any]) -> Table:
    table = Table(
        title="Agreement with the Stage II labels on held-out rows (paper: 99.4 % in 3.9 ms, hardware unnamed)"
    )
    for column in ("router", "rows", "agreement [95 %]", "macro F1", "ECE", "at 99 %", "at 99.9 %"):
        table.add_column(
            column, justify="left" if column == "router" else "right", no_wrap=column == "router"
        )
    for name, found in record["routers"].items():
        shares = [
            "n/r" if each["coverage"] is None else f"{100 * each['coverage']:.1f} %"
            for each in found["coverage_at"]
        ]
        table.add_row(
            f"{name} *" if name == record["served"] else name,
            f"{found['rows']:,}",
            f"{100 * found['agreement']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]",
            f"{found['macro_f1']:.3f}",
            f"{found['ece']:.3f}",
            *shares,
        )
    return table


def _latency(record: dict[str, Any]) -> Table:
    lengths = [what for what in record["timed_texts"] if what != "rows"]
    table = Table(title="One text at a time, ms at p50 / p95 / p99; texts per second from eight callers")
    for column in ("router", "held-out rows", *(f"{length} tokens" for length in lengths), "texts/s"):
        table.add_column(
            column, justify="left" if column == "router" else "right", no_wrap=column == "router"
        )
    for name, found in record["routers"].items():
        rate = record["texts_per_s"].get(name)
        table.add_row(
            f"{name} *" if name == record["served"] else name,
            _three(found),
            *(_three(found["by_tokens"][length]) for length in lengths),
            "" if rate is None else f"{rate:.0f}",
        )
    return table


def _three(found: dict[str, float]) -> str:
    return " / ".join(_short(found[f"p{share}_ms"]) for share in (50, 95, 99))


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def _sentences(record: dict[str, Any]) -> list[str]:
    lines = [
        f"* is what the bundle names; its encoder, if it has one, in {record['precision']}. "
        "at 99 %, at 99.9 %: the share of rows that can be routed at that "
        "agreement; n/r: these rows don't show it at any confidence, so nothing may be switched on by it."
    ]
    cascade = record["cascade"]
    if cascade is not None and cascade["agrees_with_encoder"] is not None:
        lines.append(
            f"The cascade's linear model answers {100 * cascade['share']:.1f} % of {cascade['rows']:,} rows and says "
            f"what the encoder says on {100 * cascade['agrees_with_encoder']:.2f} % of them; it costs "
            f"{100 * cascade['agreement_lost']:.2f} points of agreement with the labels. What it leaves to the "
            f"encoder ({record['precision']}) would be decided as the encoder alone decides on "
            f"{100 * cascade['left_as_alone']:.2f} % of all rows."
        )
    if record["throughput_over_eager"] is not None:
        said = ", ".join(
            f"{rate:.0f} {name.removeprefix('eager, ')}"
            for name, rate in record["texts_per_s"].items()
            if name.startswith("eager")
        )
        lines.append(
            f"Transformers' eager text-classification pipeline on the same encoder: texts per second {said}; the "
            f"served router does {record['throughput_over_eager']:.1f} times the first, its default, and "
            f"{record['throughput_over_eager_batched']:.1f} times the second."
        )
    if record["ceiling"] is not None:
        lines.append(
            f"A router that sees prompt and response agrees on {100 * record['ceiling']:.1f} % of "
            f"{record['ceiling_rows']:,} rows: what is learnable at all with this encoder."
        )
    lines += record["notes"]
    lines.append(f"{record['seconds']:.0f} s in all.")
    return lines
