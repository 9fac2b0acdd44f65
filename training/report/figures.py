"""The report's figures, each from the numbers that report.json holds to one inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from training.report.svg import ACCENT, INK, LINE, MUTED, SECOND, Drawing

_FEW = 30  # directions shown one by one


def singular_values(values: Sequence[float], thresholds: Sequence[float]) -> str:
    """Each direction's share of the energy, and the share that the first k of them keep together."""
    energy = np.square(np.asarray(values))
    share = energy / energy.sum()
    kept = share.cumsum()
    count = np.arange(1, len(share) + 1)
    with Drawing("singular", 2.6, panels=2) as drawing:
        left, right = drawing.axes
        few = slice(0, min(_FEW, len(share)))
        left.bar(count[few], 100 * share[few], color=ACCENT, width=0.75)
        left.set_title("each direction, %")
        left.set_xlabel("direction")
        right.plot(count, 100 * kept, color=ACCENT)
        for threshold in thresholds:
            needed = int((kept < threshold - 1e-12).sum()) + 1
            right.plot(
                [1, needed, needed], [100 * threshold, 100 * threshold, 0], color=MUTED, lw=0.8, ls=":"
            )
        right.set_ylim(0, 102)
        right.set_xlim(1, max(2, len(share)))
        right.set_title("the first k together, %")
        right.set_xlabel("k")
        for axes in drawing.axes:
            axes.grid(axis="y")
        half = int((kept < 0.5).sum()) + 1
        return drawing.svg(
            f"Singular values: the first direction holds {100 * share[0]:.1f} percent of the energy, "
            f"and {half} of {len(share)} directions hold half of it."
        )


def convergence(epochs: Sequence[dict[str, Any]], max_drift: float | None, max_churn: float | None) -> str:
    """Drift of the centroids and churn of the labels, epoch by epoch, with the limits they have to reach.

    In the first epoch every row gets its first label: its churn says nothing and is left out.
    """
    number = np.arange(1, len(epochs) + 1)
    drift = np.array([epoch["drift"] for epoch in epochs])
    churn = np.array([100 * epoch["churn"] for epoch in epochs])
    with Drawing("convergence", 2.3, panels=2) as drawing:
        for axes, first, values, limit, title in (
            (drawing.axes[0], 0, drift, max_drift, "largest drift"),
            (drawing.axes[1], 1, churn, None if max_churn is None else 100 * max_churn, "rows that moved, %"),
        ):
            shown = (values > 0) & (number > first)  # zero has no place on a logarithmic axis
            axes.plot(number[shown], values[shown], color=ACCENT, marker="o", ms=4)
            if limit is not None:
                axes.axhline(limit, color=SECOND, lw=1, ls="--")
                axes.annotate("limit", (1, limit), (0, 2), textcoords="offset points", size=9, color=SECOND)
            ends = [*values[shown], *([] if limit is None else [limit])]
            if ends:
                axes.set_yscale("log")
                axes.set_ylim(min(ends) / 1.6, max(ends) * 1.6)
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xticks(number)
            axes.set_xlim(0.7, len(epochs) + 0.3)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.grid(axis="y")
        return drawing.svg(
            f"After {len(epochs)} epochs the centroids' largest drift is {drift[-1]:.5f} "
            f"and {churn[-1]:.2f} percent of the rows changed cluster."
        )


def margins(deciles: Sequence[Sequence[float] | None]) -> str:
    """How far each cluster's rows are from the runner-up: deciles 0, 10, ..., 100 % per cluster."""
    with Drawing("margins", 0.9 + 0.3 * len(deciles)) as drawing:
        axes = drawing.axes[0]
        said = []
        for label, values in enumerate(deciles):
            if values is None:
                continue
            axes.plot([values[1], values[9]], [label, label], color=LINE, lw=7, solid_capstyle="butt")
            axes.plot([values[3], values[7]], [label, label], color=ACCENT, lw=7, solid_capstyle="butt")
            axes.plot([values[5]], [label], color=INK, marker="|", ms=11, mew=2)
            said.append(f"expert-{label} {values[5]:.3f}")
        _name_rows(drawing, len(deciles))
        axes.set_xlim(left=0)
        axes.set_xlabel("cosine to the own centroid minus cosine to the runner-up")
        return drawing.svg("Median margin per cluster: " + ", ".join(said) + ".")


def variances(quality: dict[str, Any]) -> str:
    """Each cluster's variance and their weighted mean against the whole's, for unit rows and raw gradients."""
    k = len(quality["unit"]["clusters"])
    with Drawing("variance", 1.3 + 0.28 * k, panels=2) as drawing:
        said = []
        for axes, name, title in (
            (drawing.axes[0], "unit", "unit gradients"),
            (drawing.axes[1], "raw", "raw gradients"),
        ):
            found = quality[name]
            for label, value in enumerate(found["clusters"]):
                if value is not None:
                    colour = SECOND if label in found["exceeding"] else ACCENT
                    axes.barh(label, value, color=colour, height=0.6)
            axes.axvline(found["whole"], color=INK, lw=1.4)
            axes.axvline(found["weighted"], color=INK, lw=1.4, ls=":")
            axes.set_title(title)
            axes.set_xlim(left=0)
            axes.locator_params(axis="x", nbins=4)
            said.append(
                f"{title}: {found['whole']:.4g} before, {found['weighted']:.4g} after as the weighted mean, "
                f"{len(found['exceeding'])} of {k} clusters above the whole"
            )
        _name_rows(drawing, k)
        drawing.axes[1].set_yticks([])
        drawing.axes[1].set_ylim(drawing.axes[0].get_ylim())
        return drawing.svg("Variance of " + "; of ".join(said) + ".")


def layer_shares(layers: Sequence[dict[str, Any]]) -> str:
    """Share of the squared norm in each layer, B on top of A."""
    names = ["other" if layer["layer"] is None else str(layer["layer"]) for layer in layers]
    a = np.array([100 * layer["a"] for layer in layers])
    b = np.array([100 * layer["b"] for layer in layers])
    place = np.arange(len(layers))
    with Drawing("layers", 2.5) as drawing:
        axes = drawing.axes[0]
        axes.bar(place, a, color=SECOND, width=0.75, label="A")
        axes.bar(place, b, bottom=a, color=ACCENT, width=0.75, label="B")
        every = 1 + (len(layers) - 1) // 16
        axes.set_xticks(place[::every], names[::every])
        axes.set_xlabel("layer")
        axes.set_title("share of the squared norm, %")
        axes.grid(axis="y")
        axes.legend(ncols=2, loc="upper right", bbox_to_anchor=(1, 1.17), borderpad=0)
        top = int((a + b).argmax())
        return drawing.svg(
            f"Squared norm by layer: {a.sum():.0f} percent in A, {b.sum():.0f} percent in B; "
            f"most of it, {a[top] + b[top]:.0f} percent, in layer {names[top]}."
        )


def module_shares(modules: Sequence[dict[str, Any]]) -> str:
    """Share of the squared norm in each kind of module, B beside A."""
    a = np.array([100 * module["a"] for module in modules])
    b = np.array([100 * module["b"] for module in modules])
    place = np.arange(len(modules))
    with Drawing("modules", 0.9 + 0.28 * len(modules)) as drawing:
        axes = drawing.axes[0]
        axes.barh(place, a, color=SECOND, height=0.6)
        axes.barh(place, b, left=a, color=ACCENT, height=0.6)
        axes.set_yticks(place, [module["module"] for module in modules])
        axes.tick_params(axis="y", colors=INK)
        axes.invert_yaxis()
        axes.set_xlabel("share of the squared norm, %")
        axes.grid(axis="x")
        return drawing.svg(
            "Squared norm by module: "
            + ", ".join(f"{module['module']} {a[i] + b[i]:.0f} percent" for i, module in enumerate(modules))
            + "."
        )


def _name_rows(drawing: Drawing, k: int) -> None:
    axes = drawing.axes[0]
    axes.set_yticks(range(k), [f"expert-{label}" for label in range(k)])
    axes.tick_params(axis="y", colors=INK)
    axes.set_ylim(k - 0.5, -0.5)
    for panel in drawing.axes:
        panel.grid(axis="x")
