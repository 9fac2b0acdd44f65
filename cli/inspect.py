"""`gradientspace inspect`: what a bundle holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.fail import fail

if TYPE_CHECKING:
    from rich.table import Table

    from bundle.read import Bundle


def inspect(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, or of the run that wrote it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Verify a bundle and show its experts, router, base model and sizes."""
    summary = _summary(opened_bundle(bundle))
    if as_json:
        import json

        typer.echo(json.dumps(summary, ensure_ascii=False))
    else:
        _print_tables(summary)


def opened_bundle(path: Path) -> Bundle:
    """Verify and open a bundle for a command.

    Raises:
        typer.Exit: with code 2, after the reason was printed on stderr.

    """
    from bundle.errors import BundleError
    from bundle.read import read_bundle

    try:
        return read_bundle(path)
    except BundleError as error:
        fail(str(error))


def _summary(bundle: Bundle) -> dict[str, Any]:
    """Return what both ways of printing show; sizes are bytes on disk."""
    manifest, gate = bundle.manifest, bundle.manifest.gate
    gated = {} if gate is None else dict(zip(manifest.label_order, gate.labels, strict=True))
    return {
        "bundle": str(bundle.folder),
        "digest": bundle.digest,
        "created": manifest.created,
        "bytes": _bytes_in(bundle.folder),
        "base": {
            "id": manifest.base.id,
            "name": manifest.base.name,
            "dtype": manifest.base.dtype,
            "license": manifest.base.license,
        },
        "k": len(manifest.label_order),
        "lora": {"rank": manifest.lora.rank, "alpha": manifest.lora.alpha},
        "router": {
            "kind": manifest.router.kind,
            "encoder": manifest.router.encoder,
            "precision": manifest.router.precision,
            "cascade": manifest.router.cascade.model_dump() if manifest.router.cascade else None,
            "unfamiliar": manifest.router.unfamiliar.model_dump() if manifest.router.unfamiliar else None,
            "routed_text": manifest.routed_text.rule,
            "max_tokens": manifest.routed_text.max_tokens,
            "agreement": manifest.calibration.agreement,
            "held_out_rows": manifest.calibration.held_out_rows,
            "temperature": manifest.calibration.temperature,
            "macro_f1": manifest.calibration.macro_f1,
            "ece": manifest.calibration.ece,
            "threshold": manifest.calibration.threshold,
            "coverage": manifest.calibration.coverage,
            "bytes": _bytes_in(bundle.router_folder),
        },
        "experts": [
            {
                "name": expert.name,
                "rows": expert.rows,
                "share": expert.share,
                "top_terms": list(expert.top_terms),
                "digest": expert.digest,
                "bytes": _bytes_in(bundle.expert_folder(place)),
                "gate": gated[expert.name].model_dump() if gated else None,
            }
            for place, expert in enumerate(manifest.experts)
        ],
        "left_out": [
            {"name": name} | label.model_dump() for name, label in gated.items() if label.threshold is None
        ],
        "served": None if gate is None else gate.served.model_dump() | {"rows": gate.measured_rows},
        "fallback": {
            "kind": manifest.fallback.kind,
            "name": manifest.fallback.name,
            "digest": manifest.fallback.digest,
            "bytes": _bytes_in(bundle.fallback_folder),
        },
    }


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _router(router: dict[str, Any], size: str) -> str:
    parts = [router["kind"]]
    if router["encoder"]:
        parts += [router["encoder"], router["precision"]]
    parts += [router["routed_text"], f"{router['max_tokens']} tokens", size]
    if router["cascade"]:
        parts.append(f"a cascade answers {router['cascade']['share']:.0%}")
    return ", ".join(parts)


def _unfamiliar(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not told apart: an expert answers, however strange the prompt"
    caught = f"{record['caught']:.1%} of {record['rows']:,} held-out rows are caught, wrongly"
    return f"what is unlike training goes to the {record['answers']}; {caught}"


def _experts(summary: dict[str, Any]) -> str:
    out = len(summary["left_out"])
    said = f"K = {summary['k']}, LoRA rank {summary['lora']['rank']}"
    return f"{said}; {out} left out, as not shown to help" if out else said


def _splitting(served: dict[str, Any] | None) -> str:
    if served is None:
        return "not measured: every expert answers what is routed to it"
    return f"served less one LoRA: {_told(served)} nats per token, on {served['rows']:,} held-out rows"


def _told(difference: dict[str, Any]) -> str:
    return f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def _print_tables(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.markup import escape
    from rich.table import Table

    base, router = summary["base"], summary["router"]
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    threshold = (
        "none: always the best expert" if router["threshold"] is None else f"{router['threshold']:.2f}"
    )
    agreement = (
        "not measured: no labelled rows"
        if router["agreement"] is None
        else f"{router['agreement']:.1%} of {router['held_out_rows']} held-out rows"
    )
    for name, value in (
        ("bundle", f"{summary['digest']}, {decimal(summary['bytes'])}, made {summary['created']}"),
        ("base model", f"{base['name']}, {base['dtype']}, licence {base['license'] or 'unknown'}"),
        ("experts", _experts(summary)),
        ("router", _router(router, decimal(router["bytes"]))),
        ("agreement", agreement),
        ("temperature", f"{router['temperature']:.3f}"),
        ("threshold", threshold),
        ("unfamiliar", _unfamiliar(router["unfamiliar"])),
        ("splitting", _splitting(summary["served"])),
    ):
        facts.add_row(name, escape(value))
    experts = Table()
    for heading, justify in (("expert", "left"), ("rows", "right"), ("share", "right")):
        experts.add_column(heading, justify=justify)  # type: ignore[arg-type]
    experts.add_column("top terms", overflow="fold")
    experts.add_column("digest", no_wrap=True)
    experts.add_column("size", justify="right", no_wrap=True)
    for expert in summary["experts"]:
        experts.add_row(
            escape(expert["name"]),
            f"{expert['rows']:,}",
            f"{expert['share']:.1%}",
            escape(", ".join(expert["top_terms"])),
            expert["digest"][:12],
            decimal(expert["bytes"]),
        )
    fallback = summary["fallback"]
    if fallback["kind"] == "expert":
        facts.add_row("fallback", escape(fallback["name"]))
    else:
        size = decimal(fallback["bytes"])
        experts.add_row("fallback", "", "", fallback["kind"], fallback["digest"][:12], size)
    console = Console()
    console.print(facts)
    console.print(experts)
    if summary["served"] is not None:
        console.print(_gate_table(summary))


def _gate_table(summary: dict[str, Any]) -> Table:
    """Show what each expert gains over the fallback on what is routed to it, and who answers there."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("routed to")
    for heading in ("rows", "loss less one LoRA's"):
        table.add_column(heading, justify="right")
    table.add_column("who answers", overflow="fold")
    gated = [(expert["name"], expert["gate"]) for expert in summary["experts"]]
    for name, label in sorted([*gated, *((label["name"], label) for label in summary["left_out"])]):
        gain, least = label["gain"], label["threshold"]
        said = "too few to tell" if gain is None else _told(gain)
        who = (
            "the fallback: left out"
            if least is None
            else f"the expert{f', from a confidence of {least:.2f} on' if least else ''}"
        )
        table.add_row(escape(name), f"{label['measured_rows']:,}", escape(said), who)
    return table
