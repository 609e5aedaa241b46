"""Promises of differential privacy beside the leakage that was measured under them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsim.report.words import ABSENT, OBSERVERS, interval, number
from fedsim.studies.page.layout import Layout
from fedsim.studies.page.look import WHO
from fedsim.studies.page.points import Point
from fedsim.studies.page.tables import Cell, Line, Table

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    rows: list[Row] = field(default_factory=list)
    points: dict[str, Point] = field(default_factory=dict)


def promise_table(points: Sequence[Point], layout: Layout) -> Table | None:
    """Return each promise of differential privacy beside the leakage measured under it; None for none."""
    groups: dict[tuple[int, str, str], _Measured] = {}
    for point in points:
        key = point.panel, point.defended.series, point.defended.strength
        group = groups.setdefault(key, _Measured())
        group.points[point.attacker] = point
        group.rows.extend(row for row in point.rows if row.get("privacy"))
    lines = [
        _promise_line(layout, group, promise)
        for group in groups.values()
        for promise in (json.loads(group.rows[0]["privacy"]) if group.rows else [])
    ]
    if not lines:
        return None
    heads = ["Defence", "Strength", *layout.factors, "Promise", "Of", "Epsilon", "Delta"]
    heads += ["SSIM if ignored", "SSIM if known"]
    return Table(name="promises", heads=heads, lines=lines, words=len(layout.factors) + 4)


def _promise_line(layout: Layout, group: _Measured, promise: Row) -> Line:
    some = next(iter(group.points.values()))
    epsilon, reason = promise.get("epsilon"), promise.get("reason") or ""
    adjacency = promise.get("adjacency") or ""
    against = str(promise.get("against", ABSENT))
    cells = [
        Cell(some.defended.series, by=some.defended.series),
        Cell(some.defended.strength or ABSENT, by=some.defended.order[-1] if some.defended.order else None),
        *(Cell(text, by=text) for text in layout.panels[some.panel].factors.values()),
        Cell(f"against {OBSERVERS.get(against, against)}", reason, against),
        Cell(f"a {promise.get('protects', ABSENT)}", adjacency, str(promise.get("protects"))),
        Cell("no promise" if epsilon is None else f"{epsilon:.3g}", by=epsilon),
        Cell(
            f"{promise['delta']:g}" if promise.get("delta") is not None else ABSENT, by=promise.get("delta")
        ),
        *(_measured(group.points.get(attacker)) for attacker in WHO),
    ]
    return Line(cells=cells, series=some.defended.series, panel=some.panel)


def _measured(point: Point | None) -> Cell:
    if point is None:
        return Cell(ABSENT)
    extent = interval({"low": point.low, "high": point.high})
    return Cell(
        number(point.leakage), f"{extent}; {point.leaked} of {point.n} leaked".lstrip("; "), point.leakage
    )
