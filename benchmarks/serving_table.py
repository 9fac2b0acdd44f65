"""What the benchmark of the service says at the end: one table, and what stands behind it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmarks.serving_windows import CONTENDERS, Figures

_CAPTION = (
    "n/v: named over vLLM's own, median of the pairs; as streams; n/b: named over base, the cost of LoRA; "
    "r-n: median latency of routed minus named, ms; router: what the service says routing took, ms"
)


def print_record(record: Figures) -> None:
    """Print the table and the sentences below it."""
    console = Console()
    console.print(_table(record))
    for clients, found in record["by_clients"].items():
        who = "1 client" if clients == "1" else f"{clients} clients"
        console.print(f"{who}: {_pairs(found)}; {_latencies(found)}; {_costs(found)}.", soft_wrap=True)
    first = record["first_byte"]
    waits = ", ".join(
        f"{kind} {found['p50']:.0f} / {found['p95']:.0f}" for kind, found in first["first_event_ms"].items()
    )
    console.print(
        f"First event of a named stream, ms at p50 / p95, alone and beside {first['neighbours']} neighbours "
        f"that send {first['text_characters']} characters: {waits}; a neighbour's classification takes "
        f"{first['neighbours_answer_ms']['classified']['p50']:.0f}.",
        soft_wrap=True,
    )
    console.print(
        f"The router alone: {record['router_alone_p50_ms']:.2f} ms. {record['windows']} windows, "
        f"{record['seconds']:.0f} s in all.",
        soft_wrap=True,
    )


def _table(record: Figures) -> Table:
    table = Table(
        title=f"Requests per second, {record['tokens']} tokens each",
        caption=_CAPTION,
        box=None,
        padding=(0, 1, 0, 0),
    )
    for heading in ("clients", *CONTENDERS, "n/v", "streams", "n/b", "r-n", "router"):
        table.add_column(heading, justify="right", no_wrap=True)
    for clients, rates in record["requests_per_s"].items():
        found = record["by_clients"][clients]
        ratios = ("named_over_vllm", "named_over_vllm_streams", "named_over_base")
        table.add_row(
            clients,
            *(f"{rates[name]:.1f}" for name in CONTENDERS),
            *(f"{found[name]['median']:.3f}" for name in ratios),
            f"{found['routed_minus_named_p50_ms']:.2f}",
            f"{found['router_p50_ms']:.2f}",
        )
    return table


def _pairs(found: Figures) -> str:
    ratio = found["named_over_vllm"]
    low, high = ratio["quartiles"]
    return f"n/v {ratio['median']:.3f}, quartiles {low:.3f} to {high:.3f} of {ratio['pairs']} pairs"


def _latencies(found: Figures) -> str:
    p50 = ", ".join(f"{name} {found['p50_ms'][name]:.1f}" for name in ("vllm", "named", "routed"))
    said = f"p50 in ms {p50}, routed beyond the router {_interval(found['beyond_router_ms'])}"
    if found["pause_ms"] is None:
        return said
    return (
        f"{said}, a pause as long {_interval(found['pause_ms'])}, routed beyond the router and the pause "
        f"{_interval(found['beyond_pause_ms'])}"
    )


def _interval(found: Figures) -> str:
    return f"{found['median']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _costs(found: Figures) -> str:
    costs = []
    for name in ("vllm", "named", "routed"):
        spent = found["cpu_ms_per_request"][name]
        costs.append(f"{name} {spent['engine']:.1f} + {spent['api']:.2f} + {spent['client']:.2f}")
    busy = found["busy_cores"]["named"]
    return (
        f"CPU ms per request of engine + HTTP + client: {', '.join(costs)}; cores busy with named: engine "
        f"{busy['engine']:.2f}, HTTP {busy['api']:.2f}, client {busy['client']:.2f}, others {busy['others']:.2f}"
    )
