"""Promises of differential privacy beside the leakage that was measured under them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsim.report.words import ABSENT, OBSERVERS, interval, number
from fedsim.studies.page.layout import Layout, Panel
from fedsim.studies.page.look import WHO
from fedsim.studies.page.points import Point, Quality
from fedsim.studies.page.series import Defences, Defended
from fedsim.studies.page.tables import Cell, Line, Table

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    place: Panel
    defended: Defended
    rows: list[Row] = field(default_factory=list)
    """Of its cells, an attack each: those that promise something."""
    points: dict[str, Point] = field(default_factory=dict)

    def quality(self, key: str) -> float | None:
        """Return the mean accuracy or loss of its cells."""
        found = {row["cell"]: row[key] for row in self.rows if row.get(key) is not None}
        return math.fsum(found.values()) / len(found) if found else None


def promise_table(
    points: Sequence[Point], layout: Layout, rows: Sequence[Row], defences: Defences, quality: Quality
) -> Table | None:
    """Return each promise of differential privacy beside leakage and accuracy under it; None for none."""
    groups = _measured_groups(points, layout) if points else _trained_groups(rows, layout, defences)
    lines = [_promise_line(group, promise, quality) for group in groups for promise in weakest(group.rows)]
    if not lines:
        return None
    factors = list(groups[0].place.factors)
    heads = ["Defence", "Strength", *factors, "Promise", "Of", "Epsilon", "Delta"]
    heads += ["SSIM if ignored", "SSIM if known", quality.title]
    return Table(name="promises", heads=heads, lines=lines, words=len(factors) + 4)


def _measured_groups(points: Sequence[Point], layout: Layout) -> list[_Measured]:
    groups: dict[tuple[int, Defended], _Measured] = {}
    for point in points:
        place, defended = layout.panels[point.panel], point.defended
        group = groups.setdefault((point.panel, defended), _Measured(place=place, defended=defended))
        group.points[point.attacker] = point
        group.rows.extend(row for row in point.rows if row.get("privacy"))
    return list(groups.values())


def _trained_groups(rows: Sequence[Row], layout: Layout, defences: Defences) -> list[_Measured]:
    """Return what was promised in a study that attacks nothing."""
    groups: dict[tuple[int, Defended], _Measured] = {}
    for row in rows:
        if row.get("privacy"):
            place, defended = layout.place(row), defences.of(row)
            key = place.number, defended
            groups.setdefault(key, _Measured(place=place, defended=defended)).rows.append(row)
    return list(groups.values())


def weakest(rows: Sequence[Row]) -> list[Row]:
    """Return each kind of promise as it is weakest, over the seeds: by its largest epsilon."""
    found: dict[tuple[Any, Any], Row] = {}
    for promise in (promise for row in rows for promise in json.loads(row["privacy"])):
        key = promise.get("against"), promise.get("protects")
        if key not in found or _epsilon(promise) > _epsilon(found[key]):
            found[key] = promise
    return list(found.values())


def _epsilon(promise: Row) -> float:
    epsilon = promise.get("epsilon")
    return math.inf if epsilon is None else float(epsilon)


def _promise_line(group: _Measured, promise: Row, quality: Quality) -> Line:
    defended = group.defended
    epsilon, reason = promise.get("epsilon"), promise.get("reason") or ""
    adjacency = promise.get("adjacency") or ""
    against, kept = str(promise.get("against", ABSENT)), group.quality(quality.key)
    cells = [
        Cell(defended.series, by=defended.series),
        Cell(defended.strength or ABSENT, by=defended.order[-1] if defended.order else None),
        *(Cell(text, by=text) for text in group.place.factors.values()),
        Cell(f"against {OBSERVERS.get(against, against)}", reason, against),
        Cell(f"a {promise.get('protects', ABSENT)}", adjacency, str(promise.get("protects"))),
        Cell("no promise" if epsilon is None else f"{epsilon:.3g}", by=epsilon),
        Cell(
            f"{promise['delta']:g}" if promise.get("delta") is not None else ABSENT, by=promise.get("delta")
        ),
        *(_measured(group.points.get(attacker)) for attacker in WHO),
        Cell(quality.text(kept), by=kept),
    ]
    at = group.place.number
    panel, place = (at, None) if group.points else (None, at)
    return Line(cells=cells, series=defended.series, panel=panel, place=place)


def _measured(point: Point | None) -> Cell:
    if point is None:
        return Cell(ABSENT)
    extent = interval({"low": point.low, "high": point.high})
    return Cell(
        number(point.leakage), f"{extent}; {point.leaked} of {point.n} leaked".lstrip("; "), point.leakage
    )
