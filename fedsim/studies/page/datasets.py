"""The data behind the plots: a row for each mark, with what its tooltip says."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.words import interval, number, plural
from fedsim.studies.page.look import WHO, Look
from fedsim.studies.page.points import Point, Quality
from fedsim.studies.page.rounds import Line, told_apart
from fedsim.studies.page.series import NO_DEFENSE
from fedsim.studies.page.steps import Curve

Rows = list[dict[str, Any]]
GAP = 14
"""Pixels between the labels at the ends of lines."""


def data_of(
    points: Sequence[Point],
    curves: Sequence[Curve],
    lines: Sequence[Line],
    learnt: Sequence[Sequence[Line]],
    look: Look,
    height: int,
) -> dict[str, Rows]:
    """Return the data sets by name; `learnt` are the panels of lines, of so many pixels each."""
    return {
        "points": [_point_row(point, look.quality) for point in points if point.quality is not None],
        "steps": [_step_row(step) for curve in curves for step in curve.steps],
        "curves": [row for line in lines for row in _line_rows(line, look.quality)],
        "ends": [row for place, panel in enumerate(learnt) for row in _end_rows(place, panel, look, height)],
    }


def _point_row(point: Point, quality: Quality) -> dict[str, Any]:
    plain = point.defended.series == NO_DEFENSE
    extent = interval({"low": point.low, "high": point.high})
    spread = f" ({quality.text(point.quality_low)} to {quality.text(point.quality_high)} by seed)"
    return {
        "panel": point.panel,
        "series": point.defended.series,
        "strength": point.defended.strength or "–",
        "attacker": point.attacker,
        "who": WHO[point.attacker],
        "line": point.line,
        "rank": point.rank,
        "leakage": point.leakage,
        "low": point.leakage if point.low is None else point.low,
        "high": point.leakage if point.high is None else point.high,
        "quality": point.quality,
        "quality_low": point.quality_low,
        "quality_high": point.quality_high,
        "gain": point.gain,
        "blind": point.blind,
        "told_leakage": number(point.leakage) + (f" ({extent})" if extent else ""),
        "told_quality": quality.text(point.quality) + (spread if len(point.seeds) > 1 else ""),
        "told_n": f"{plural(point.n, 'image')}, {plural(len(point.seeds), 'seed')}",
        "leaked": f"{point.leaked} of {point.n}" + (" without a defence" if plain else ""),
    }


def _step_row(step: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **step,
        "who": WHO[step["attacker"]],
        "told_measured": number(step["measured"]),
        "told_fitted": f"{number(step['fitted'])} ({interval(dict(step))})",
        "told_bound": number(step["bound"]),
        "told_n": f"{plural(step['n'], 'image')}, {plural(step['seeds'], 'seed')}",
    }


def _line_rows(line: Line, quality: Quality) -> Rows:
    return [
        {
            "place": line.place.number,
            "series": line.defended.series,
            "strength": line.defended.strength or line.defended.series,
            "rank": line.rank,
            "round": line.rounds[i],
            "quality": line.mean[i],
            "quality_low": line.low[i],
            "quality_high": line.high[i],
            "told_quality": quality.text(line.mean[i]),
            "seeds": line.seeds,
        }
        for i in range(len(line.rounds))
    ]


def _end_rows(place: int, lines: Sequence[Line], look: Look, height: int) -> Rows:
    low, high = look.learning
    gap = GAP * (high - low) / height
    labels = spread_out([line.mean[-1] for line in lines], gap, high)
    return [
        {
            "plot": place,
            "place": line.place.number,
            "series": line.defended.series,
            "strength": line.defended.strength or line.defended.series,
            "name": told_apart(line, lines),
            "round": line.rounds[-1],
            "quality": line.mean[-1],
            "label": label,
        }
        for line, label in zip(lines, labels, strict=True)
    ]


def spread_out(values: Sequence[float], gap: float, top: float) -> list[float]:
    """Return places for labels near their values: in the same order, at least `gap` apart, below `top`."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    found = [0.0] * len(values)
    below = float("-inf")
    for place in order:
        below = found[place] = max(values[place], below + gap)
    above = top + gap
    for place in reversed(order):
        above = found[place] = min(found[place], above - gap)
    return found
