"""From an Altair chart to an inline SVG whose colours follow the page, light or dark."""

import io
import re
from collections.abc import Callable
from typing import Any

import altair as alt
from markupsafe import Markup

# Vega needs colours to parse; each of these stands for a variable of the page's style sheet.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
PLAIN, NAIVE, ADAPTIVE, ACCENT = "#040404", "#050505", "#060606", "#070707"
PAPER = "#080808"
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PLAIN: "--plain",
    NAIVE: "--naive",
    ADAPTIVE: "--adaptive",
    ACCENT: "--accent",
    PAPER: "--card",
}
WIDE, NARROW = 1000, 340
"""Widths in pixels at which each chart is drawn: for a screen of a desk and for a phone."""

Chart = alt.TopLevelMixin


def figure(draw: Callable[[int], Chart], description: str) -> Markup:
    """Return the chart at both widths; the style sheet shows the one that fits the screen.

    `description` says in words what the chart shows: it is all that a screen reader gets of it.
    """
    box = Markup('<div class="{}" role="img" aria-label="{}">{}</div>')
    wide = box.format("wide", description, to_svg(draw(WIDE)))
    return wide + box.format("narrow", description, to_svg(draw(NARROW)))


def data(rows: list[dict[str, Any]]) -> Any:
    """Return an empty Altair chart over rows given as dicts."""
    values: Callable[..., Any] = alt.Data
    return alt.Chart(values(values=rows))


def to_svg(chart: Chart) -> Markup:
    """Return the chart as SVG that scales with its container and takes its colours from the page."""
    buffer = io.StringIO()
    _configured(chart).save(buffer, format="svg")
    svg = buffer.getvalue()
    for colour, variable in VARIABLES.items():
        svg = svg.replace(f'"{colour}"', f'"var({variable})"')
    svg = svg.replace('font-family="sans-serif"', 'font-family="inherit"')
    svg = re.sub(r'<svg ([^>]*?)width="(\d+)" height="\d+"', r'<svg \1 style="width:\2px"', svg, count=1)
    # Vega escapes the texts in it, so that class names of the user's data cannot become markup.
    return Markup(svg)


def _configured(chart: Any) -> Any:
    return chart.configure(**config())


def config() -> dict[str, Any]:
    """Return Vega-Lite's configuration: the look of every chart."""
    axis = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12.5,
        "titleFontSize": 12.5,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "labelPadding": 6,
        "domain": False,
        "ticks": False,
        "gridColor": RULE,
    }
    return {
        "font": "sans-serif",
        "aria": False,
        "background": "transparent",
        "padding": {"left": 4, "top": 4, "bottom": 4, "right": 16},  # for letters wider than Vega's
        "view": {"stroke": None},
        "axis": axis,
        "legend": {"labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 12, "symbolStrokeWidth": 0},
    }
