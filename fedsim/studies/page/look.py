"""What the plots of a page have in common: colours, shapes, axes, and Vega's configuration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from fedsim.report import svg
from fedsim.report.svg import ADAPTIVE, INK, MUTED, NAIVE
from fedsim.studies.page import palette
from fedsim.studies.page.points import Quality

Chart = Any
WHO = {"naive": "ignores the defence", "adaptive": "knows the defence"}
"""The two attackers, as legends and tooltips name them."""
LEGEND = alt.Legend(symbolSize=90, symbolOpacity=1)
"""Drawn on paper only: on the page legends are buttons."""
SSIM = ("SSIM", "after brightness adjustment")  # in two lines: one is wider than a phone's plot


@dataclass(frozen=True, kw_only=True)
class Look:
    """Scales that all plots of a page share, so that panels can be compared."""

    series: Sequence[str]
    quality: Quality
    leakage: tuple[float, float]
    final: tuple[float, float]
    """Of accuracy, or loss, after the last round."""
    learning: tuple[float, float]
    """Of accuracy, or loss, by round."""

    def colours(self) -> alt.Scale:
        """Return the scale from defence to colour."""
        found = palette.colours(self.series)
        return alt.Scale(domain=list(found), range=list(found.values()))

    def shapes(self) -> alt.Scale:
        """Return the scale from defence to mark."""
        found = palette.shapes(self.series)
        return alt.Scale(domain=list(found), range=list(found.values()))

    def defence(self, channel: Any, scale: alt.Scale) -> Any:
        """Return a channel that tells defences apart."""
        return channel("series:N", title="defence", scale=scale, legend=LEGEND)

    def leakage_axis(self, title: Sequence[str], channel: Any = alt.X, field: str = "leakage:Q") -> Any:
        """Return an axis of SSIM."""
        axis = alt.Axis(format=".1f", tickCount=5)
        scale = alt.Scale(domain=self.leakage, nice=False)
        return channel(field, title=list(title), axis=axis, scale=scale)

    def quality_axis(self, field: str, title: str | None, domain: tuple[float, float]) -> alt.Y:
        """Return an axis of accuracy, or of the loss with the lowest on top."""
        axis = alt.Axis(format=".0%" if self.quality.rises else ".2f", tickCount=5)
        scale = alt.Scale(domain=domain, nice=False, zero=False, reverse=not self.quality.rises)
        return alt.Y(field, title=title, axis=axis, scale=scale)


def attacker(channel: Any, values: Sequence[Any]) -> Any:
    """Return a channel that tells the two attackers apart."""
    return channel("who:N", title="attacker", scale=by_attacker(values), legend=LEGEND)


def by_attacker(values: Sequence[Any]) -> alt.Scale:
    """Return the scale from attacker to a value of each."""
    return alt.Scale(domain=list(WHO.values()), range=list(values))


ATTACKER_COLOURS = (NAIVE, ADAPTIVE)
ATTACKER_SHAPES = ("circle", "diamond")
ATTACKER_DASHES = ([5, 4], [1, 0])


def padded(values: Sequence[float], least: float | None, most: float | None) -> tuple[float, float]:
    """Return a domain that holds the values with some room, within the limits, at round numbers."""
    low, high = min(values), max(values)
    room = max((high - low) * 0.06, 0.01)
    step = 10 ** math.floor(math.log10(max(high - low, 0.01))) / 2
    low, high = math.floor((low - room) / step) * step, math.ceil((high + room) / step) * step
    return (
        low if least is None else max(least, low),
        high if most is None else min(most, high),
    )


def config(background: str = "transparent") -> dict[str, Any]:
    """Return Vega-Lite's configuration: the look of the report's charts, a little closer."""
    shared = svg.config()
    return shared | {
        "background": background,
        "axis": shared["axis"] | {"labelFontSize": 12, "titleFontSize": 12, "titlePadding": 8},
        "title": {"color": INK, "fontSize": 13, "anchor": "start", "subtitleColor": MUTED, "offset": 10},
        "legend": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "titleFontWeight": "normal"},
    }
