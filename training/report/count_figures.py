"""Figures of the choice of K: what was scored, and how far drawing the probe again moves the scores."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from training.report.svg import ACCENT, INK, MUTED, SECOND, SHADES, Drawing


def silhouettes(spectrum: dict[str, Any]) -> str:
    """Silhouette against K, a line per subspace, over what halves of the probe give; the highest is ringed."""
    grid = spectrum["grid"]
    best = max(grid, key=lambda point: (point["silhouette"], -point["k"]))
    thresholds = sorted({point["threshold"] for point in grid})
    with Drawing("grid", 2.7) as drawing:
        axes = drawing.axes[0]
        if spectrum.get("halves"):
            _band(axes, spectrum["halves"]["by_k"], "silhouette", MUTED)
        for number, threshold in enumerate(thresholds):
            line = [point for point in grid if point["threshold"] == threshold]
            shade = SHADES[min(number, len(SHADES) - 1)]
            axes.plot(
                [point["k"] for point in line],
                [point["silhouette"] for point in line],
                color=shade,
                marker="o",
                ms=3,
                label=f"{100 * threshold:g} %",
            )
        _ring(axes, best["k"], best["silhouette"])
        axes.set_title("silhouette, by explained variance", pad=20)
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 0.99), borderpad=0, handlelength=1.2)
        _mark_ks(axes, spectrum)
        return drawing.svg(
            f"Silhouette for each K and subspace: the highest is {best['silhouette']:.4f} at K = {best['k']}, "
            f"the lowest {min(point['silhouette'] for point in grid):.4f}."
        )


def routed_cosines(spectrum: dict[str, Any]) -> str:
    """Routed cosine against K over random halves of the probe, against one cluster for all; K's own is ringed."""
    halves, chosen = spectrum["halves"], spectrum["k"]
    with Drawing("routed", 2.7) as drawing:
        axes = drawing.axes[0]
        _band(axes, halves["by_k"], "routed", ACCENT)
        one = halves["one_cluster"]["mean"]
        axes.axhline(one, color=MUTED, lw=1, ls="--")
        axes.annotate(
            "one cluster",
            (1, one),
            (0, 3),
            ("axes fraction", "data"),
            "offset points",
            ha="right",
            color=MUTED,
        )
        by_k = {each["k"]: each["routed"]["mean"] for each in halves["by_k"]}
        if chosen in by_k:
            _ring(axes, chosen, by_k[chosen])
        axes.set_title("cosine of unseen rows with the centroid they are routed to")
        _mark_ks(axes, spectrum)
        best = max(by_k, key=lambda k: (by_k[k], -k))
        return drawing.svg(
            f"Routed cosine for each K: K = {chosen} was taken; the highest mean is {by_k[best]:.4f} at K = {best}, "
            f"one cluster for all has {one:.4f}."
        )


def redrawn(spectrum: dict[str, Any]) -> str:
    """Agreement between the halves' partitions, and how often each K wins, by either rule."""
    halves = spectrum["halves"]
    with Drawing("redrawn", 2.7, panels=2) as drawing:
        left, right = drawing.axes
        _band(left, halves["by_k"], "agreement", ACCENT)
        left.set_title("agreement of halves")
        ks = [each["k"] for each in halves["by_k"]]
        for side, rule, colour in ((-0.2, "routed", ACCENT), (0.2, "paper", SECOND)):
            share = [100 * each["won"][rule] for each in halves["by_k"]]
            right.bar([k + side for k in ks], share, width=0.38, color=colour)
        right.set_title("best in % of splits")
        for axes in drawing.axes:
            _mark_ks(axes, spectrum)
        routed, paper = (_favourite(halves["by_k"], rule) for rule in ("routed", "paper"))
        return drawing.svg(
            f"Over {halves['splits']} random splits of the probe, the routed cosine favours K = {routed['k']} in "
            f"{100 * routed['won']['routed']:.0f} percent of them and the silhouette K = {paper['k']} in "
            f"{100 * paper['won']['paper']:.0f} percent."
        )


def _favourite(by_k: list[dict[str, Any]], rule: str) -> dict[str, Any]:
    return max(by_k, key=lambda each: float(each["won"][rule]))


def _band(axes: Axes, by_k: list[dict[str, Any]], measure: str, colour: str) -> None:
    """The mean over the splits, and between their 5 % and 95 % quantiles a band."""
    ks = [each["k"] for each in by_k]
    low, high = ([each[measure][end] for each in by_k] for end in ("low", "high"))
    axes.fill_between(ks, low, high, color=colour, alpha=0.16, lw=0)
    mean = [each[measure]["mean"] for each in by_k]
    if colour == MUTED:  # in the background
        axes.plot(ks, mean, color=colour, lw=1.2, ls="--")
    else:
        axes.plot(ks, mean, color=colour, marker="o", ms=3)


def _ring(axes: Axes, k: int, value: float) -> None:
    axes.plot([k], [value], color=SECOND, ls="none", marker="o", ms=11, mew=1.8, mfc="none")


def _mark_ks(axes: Axes, spectrum: dict[str, Any]) -> None:
    ks = sorted({point["k"] for point in spectrum["grid"]})
    axes.set_xticks(ks[:: 1 + (len(ks) - 1) // 12])
    axes.set_xlabel("K")
    axes.tick_params(axis="x", colors=INK)
    axes.grid(axis="y")
