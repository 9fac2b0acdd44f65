"""From a matplotlib figure to an inline SVG that takes its colours and its font from the page."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Stand-ins that no figure uses otherwise. The page's style gives each its colour, in light and in dark.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
ACCENT, SECOND = "#040404", "#050505"
SHADES = ("#060601", "#060602", "#060603", "#060604")  # an order, as of thresholds: faint to full
_PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
} | {shade: f"var(--shade-{place})" for place, shade in enumerate(SHADES, start=1)}

WIDTH = 5.0  # inches, 72 units of the drawing each, so 360: a phone shows the type at about its own size
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
    "svg.hashsalt": "gradientspace",  # two runs give the same bytes
    "text.parse_math": False,  # a name with a dollar is a name
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
}


class Drawing:
    """A figure with its axes, drawn without any state that others share.

    Use as a context: `with Drawing("sizes", height=2.5) as drawing: drawing.axes[0].plot(...)`, then `svg`.
    """

    def __init__(self, name: str, height: float, panels: int = 1) -> None:
        """Plan `panels` axes beside each other, `height` inches high; `name` sets the ids inside apart."""
        self.name = name
        self._height = height
        self._panels = panels
        self._settings = matplotlib.rc_context(_SETTINGS)

    def __enter__(self) -> Drawing:
        self._settings.__enter__()
        self.figure = Figure(figsize=(WIDTH, self._height), layout="constrained")
        self.figure.patch.set_visible(False)
        FigureCanvasSVG(self.figure)
        self.axes: list[Axes] = list(self.figure.subplots(1, self._panels, squeeze=False)[0])
        for axes in self.axes:
            axes.patch.set_visible(False)
        return self

    def __exit__(self, *error: object) -> None:
        self._settings.__exit__(*error)  # type: ignore[arg-type]

    def svg(self, label: str) -> str:
        """Return the drawing as an `<svg>` element whose `label` says in words what it shows."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return _inline(buffer.getvalue(), self.name, label)


def _inline(document: str, name: str, label: str) -> str:
    drawing = document[document.index("<svg") :]
    # Inline, a style element would hold for the whole page.
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawing, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', drawing)
    assert box is not None  # matplotlib always writes one
    drawing = re.sub(
        r"<svg[^>]*>",
        f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}">',
        drawing,
        count=1,
        flags=re.DOTALL,
    )
    drawing = re.sub(r"font-family: [^;\"]+;? ?", "", drawing)
    # Several drawings stand in one page, where an id must be there once; groups are never referred to.
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r"url\(#", f"url(#{name}-", drawing)
    drawing = re.sub(r'xlink:href="#', f'href="#{name}-', drawing)
    for colour, variable in _PAGE_COLOURS.items():
        drawing = drawing.replace(colour, variable)
    return "\n".join(line.strip() for line in drawing.splitlines() if line.strip())
