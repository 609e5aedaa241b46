"""The figures of a page: their panels, the data behind them, and what they show in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import altair as alt

from fedsim.report.words import number
from fedsim.studies.page import plots
from fedsim.studies.page.datasets import Rows, data_of
from fedsim.studies.page.front import front
from fedsim.studies.page.layout import Layout, Panel
from fedsim.studies.page.look import WHO, Chart, Look, padded
from fedsim.studies.page.points import Point, Quality
from fedsim.studies.page.rounds import Line, learnt, told_apart
from fedsim.studies.page.series import NO_DEFENSE
from fedsim.studies.page.steps import Curve
from fedsim.studies.page.words import curve_words, where

Draw = Callable[[Mapping[str, Any], Look], Chart]
HEIGHTS = {"tradeoff": 300, "strength": 190, "rounds": 210}
ALONE = 420
"""Height of the one panel of a figure."""
FRONT = 5
"""Cells of a front that are named."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One panel of a figure."""

    key: str
    like: str
    """Plots with the same one differ in their data alone."""
    title: str
    words: str
    """What it shows: its text alternative."""
    draw: Draw
    match: Mapping[str, Mapping[str, Any]]
    """Data set -> what its rows must have to be in the panel: a value, or one of a list."""
    height: int

    def specification(self, look: Look) -> dict[str, Any]:
        """Return the plot for Vega-Lite, its data by name and without a width."""
        data = {name: alt.NamedData(name) for name in self.match}
        # The tests validate; here it would take seconds.
        spec: dict[str, Any] = self.draw(data, look).properties(height=self.height).to_dict(validate=False)
        return {key: value for key, value in spec.items() if key not in ("config", "datasets", "$schema")}

    def rows(self, data: Mapping[str, Rows]) -> dict[str, Rows]:
        """Return what the panel shows of each data set."""
        return {
            name: [row for row in data[name] if _matches(row, wanted)] for name, wanted in self.match.items()
        }


@dataclass(frozen=True, kw_only=True)
class Figures:
    """All plots of a page."""

    tradeoff: Sequence[Plot]
    strength: Sequence[Plot]
    rounds: Sequence[Plot]
    data: Mapping[str, Rows]
    look: Look

    @cached_property
    def specifications(self) -> dict[str, dict[str, Any]]:
        """Return what each kind of plot is for Vega-Lite."""
        kinds = {plot.like: plot for found in self.table.values() for plot in found}
        return {like: plot.specification(self.look) for like, plot in kinds.items()}

    @property
    def table(self) -> dict[str, Sequence[Plot]]:
        """Return the figures by name, those with nothing to show left out."""
        named = {"tradeoff": self.tradeoff, "strength": self.strength, "rounds": self.rounds}
        return {name: found for name, found in named.items() if found}

    @property
    def titles(self) -> dict[str, str]:
        """Return what the figures are called."""
        quality = self.look.quality.title
        return {
            "tradeoff": f"{quality} against leakage",
            "strength": "Leakage against strength",
            "rounds": f"{quality} by round",
        }


def figures_of(
    points: Sequence[Point],
    curves: Sequence[Curve],
    lines: Sequence[Line],
    layout: Layout,
    quality: Quality,
) -> Figures:
    """Return the figures of a study."""
    look = look_of(points, lines, quality)
    panels = learnt(lines)
    height = ALONE if len(layout.panels) == 1 else HEIGHTS["tradeoff"]
    shown = {point.panel for point in points if point.quality is not None}
    return Figures(
        tradeoff=[
            _tradeoff(panel, points, quality, height) for panel in layout.panels if panel.number in shown
        ],
        strength=[_strength(number_, curve) for number_, curve in enumerate(curves)],
        rounds=[_rounds(number_, *panel, quality) for number_, panel in enumerate(panels)],
        data=data_of(points, curves, lines, [panel[2] for panel in panels], look, HEIGHTS["rounds"]),
        look=look,
    )


def look_of(points: Sequence[Point], lines: Sequence[Line], quality: Quality) -> Look:
    """Return scales that hold everything that is drawn."""
    series = dict.fromkeys([point.defended.series for point in points])
    series |= dict.fromkeys(line.defended.series for line in lines)
    least = min((value for point in points for value in (point.leakage, point.low or 0.0)), default=0.0)
    learnt_ = [value for line in lines for value in (*line.low, *line.high)]
    ends = [
        value for point in points for value in (point.quality_low, point.quality_high) if value is not None
    ]
    limits = (0.0, 1.0) if quality.rises else (None, None)
    return Look(
        series=sorted(series, key=lambda name: name != NO_DEFENSE),
        quality=quality,
        leakage=(min(0.0, least) - 0.015, 1.015),
        final=padded(ends or [0.0, 1.0], *limits),
        learning=padded([*learnt_, *ends] or [0.0, 1.0], *limits),
    )


def _tradeoff(panel: Panel, points: Sequence[Point], quality: Quality, height: int) -> Plot:
    own = [point for point in points if point.panel == panel.number and point.gain is not None]
    return Plot(
        key=f"tradeoff-{panel.number}",
        like="tradeoff",
        title=panel.title,
        words=front_words(own, quality),
        draw=lambda data, look: plots.tradeoff(data["points"], look),
        match={"points": {"panel": panel.number}},
        height=height,
    )


def front_words(points: Sequence[Point], quality: Quality) -> str:
    """Return the cells that no other beats, for each attacker."""
    parts = []
    for attacker in ("adaptive", "naive"):
        own = [point for point in points if point.attacker == attacker]
        found = [own[place] for place in front([(point.leakage, point.gain or 0.0) for point in own])]
        if found:
            told = [_told(point, quality) for point in found[:FRONT]]
            told += [f"{len(found) - FRONT} more"] if len(found) > FRONT else []
            parts.append(f"Nothing beats, if the attacker {WHO[attacker]}: {'; '.join(told)}.")
    return " ".join(parts)


def _told(point: Point, quality: Quality) -> str:
    name = " ".join(part for part in (point.defended.series, point.defended.strength) if part)
    return f"{name} (SSIM {number(point.leakage)}, {quality.text(point.quality)})"


def _strength(place: int, curve: Curve) -> Plot:
    fixed = f" ({curve.fixed})" if curve.fixed else ""
    labels, title = curve.labels, f"{curve.series}: {curve.option}, stronger to the right"
    return Plot(
        key=f"strength-{place}",
        like=f"{title}: {', '.join(labels)}",
        title=where(f"{curve.series}{fixed}", curve.panel.title),
        words=curve_words(curve),
        draw=lambda data, look: plots.strength(data["steps"], look, labels, title),
        match={"steps": {"curve": curve.steps[0]["curve"]}},
        height=HEIGHTS["strength"],
    )


def _rounds(place: int, panel: Panel, series: str, lines: Sequence[Line], quality: Quality) -> Plot:
    last = max(line.rounds[-1] for line in lines)
    told = [f"{told_apart(line, lines)} {quality.text(line.mean[-1])}" for line in lines]
    of = f" of {series}" if series else ""
    shared = {"place": panel.number, "series": sorted({line.defended.series for line in lines})}
    return Plot(
        key=f"rounds-{place}",
        like=f"rounds {last}",
        title=where(series, panel.title) if series else panel.title,
        words=f"{quality.title}{of} at the end, round {last}: {', '.join(told)}.",
        draw=partial(_draw_rounds, last=last),
        match={"curves": shared, "ends": {"plot": place}},
        height=HEIGHTS["rounds"],
    )


def _draw_rounds(data: Mapping[str, Any], look: Look, last: int) -> Chart:
    return plots.rounds(data["curves"], data["ends"], look, last)


def _matches(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(
        row[key] in value if isinstance(value, list) else row[key] == value for key, value in wanted.items()
    )
