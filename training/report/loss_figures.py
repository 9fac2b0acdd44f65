"""How each adapter's loss ran while it trained, and on validation rows: from report.json to inline SVG."""

from __future__ import annotations

from typing import Any

from training.report.svg import ACCENT, MUTED, Drawing

_NO_CURVES: dict[str, Any] = {"losses": [], "validation_losses": []}


def adapters_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of each adapter's training, in the order in which they were trained."""
    on_all_rows = report.get("on_all_rows") or {}
    experts = {f"expert-{label}": trained for label, trained in enumerate(report["experts"])}
    shared = {"shared": on_all_rows["shared"]} if "shared" in on_all_rows else {}
    fallback = {"fallback": on_all_rows["fallback"]} if "fallback" in on_all_rows else {}
    all_of_them = {"warm-up": report["warmup"]} | shared | experts | fallback
    return {name: _NO_CURVES | facts for name, facts in all_of_them.items()}


def loss_curve(adapter: str, name: str, trained: dict[str, Any]) -> str:
    """Draw one adapter's losses by optimiser step; `name` sets the drawing's ids apart."""
    losses, validation = trained["losses"], trained["validation_losses"]
    with Drawing(name, 1.7) as drawing:
        axes = drawing.axes[0]
        axes.plot(*zip(*losses, strict=True), color=MUTED, lw=1, alpha=0.8, label="training rows")
        said = f"{adapter}: the loss on training rows went from {losses[0][1]:.3f} to {losses[-1][1]:.3f}"
        if validation:
            axes.plot(
                *zip(*validation, strict=True), color=ACCENT, marker="o", ms=3.5, label="validation rows"
            )
            said += f", on validation rows from {validation[0][1]:.3f} to {validation[-1][1]:.3f}"
            axes.legend(loc="upper right", ncols=2)
        axes.set_xlabel("optimiser step")
        axes.set_xlim(0, max(losses[-1][0], 1))
        axes.grid(axis="y")
        return drawing.svg(f"{said} in {losses[-1][0]} steps.")
