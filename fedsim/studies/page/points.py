"""A mark for each defence, strength and attacker: leakage and accuracy, seeds pooled."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adversary.statistics import bca
from fedsim.seeds import derive
from fedsim.studies.page.layout import Layout
from fedsim.studies.page.series import Defences, Defended, ranks
from fedsim.studies.page.store import Store
from fedsim.studies.table import ATTACKERS

Row = Mapping[str, Any]
METRIC = "ssim_affine"


@dataclass(frozen=True, kw_only=True)
class Point:
    """The cells of one setting, defence and strength, against one attacker."""

    panel: int
    defended: Defended
    attacker: str
    rank: float = 0.5
    """From 0, the weakest of its series, to 1."""
    leakage: float
    low: float | None
    high: float | None
    quality: float | None
    """Accuracy, or the held-out loss where there is none; the mean over seeds."""
    quality_low: float | None
    """The least of the seeds."""
    quality_high: float | None
    gain: float | None
    """What is to be high: accuracy, or minus the loss."""
    n: int
    leaked: int
    seeds: Sequence[int]
    blind: float | None
    rows: Sequence[Row]

    @property
    def line(self) -> str:
        """Return what it has in common with the points that differ in one strength alone."""
        return f"{self.defended.series} {self.attacker} {self.defended.order[:-1]}"


@dataclass(frozen=True)
class Quality:
    """What a model is judged by: test accuracy, or the held-out loss where it has none."""

    key: str
    title: str
    rises: bool

    def text(self, value: float | None) -> str:
        """Return a value as people read it."""
        if value is None:
            return "–"
        return f"{100 * value:.1f}%" if self.rises else f"{value:.3f}"


def quality_of(rows: Sequence[Row]) -> Quality:
    """Return accuracy, or loss where rows have that alone."""
    has = {key: any(row.get(key) is not None for row in rows) for key in ("accuracy", "loss")}
    if has["loss"] and not has["accuracy"]:
        return Quality("loss", "Held-out loss", False)
    return Quality("accuracy", "Test accuracy", True)


def points_of(
    rows: Sequence[Row], store: Store, layout: Layout, defences: Defences, quality: Quality
) -> list[Point]:
    """Return the points of all attacked rows, from the weakest strength of each defence on."""
    groups: dict[tuple[int, Defended], list[Row]] = {}
    for row in rows:
        if row.get("attack") is not None:
            groups.setdefault((layout.panel(row).number, defences.of(row)), []).append(row)
    found = [
        _point(number, defended, attacker, members, store, quality)
        for (number, defended), cells in groups.items()
        for attacker in ATTACKERS
        if (members := [row for row in cells if row.get(f"{attacker}_{METRIC}") is not None])
    ]
    seen = {series: place for place, series in enumerate(dict.fromkeys(p.defended.series for p in found))}
    return _ranked(sorted(found, key=lambda p: (p.panel, seen[p.defended.series], p.defended.order)))


def _point(
    number: int, defended: Defended, attacker: str, rows: Sequence[Row], store: Store, quality: Quality
) -> Point:
    mean, low, high = _leakage(rows, attacker, store)
    measured = [row[quality.key] for row in rows if row[quality.key] is not None]
    mean_quality = math.fsum(measured) / len(measured) if measured else None
    blind = [row["blind_ssim_affine"] for row in rows if row.get("blind_ssim_affine") is not None]
    count = [(row[f"{attacker}_leaked"] or 0.0, row[f"{attacker}_n"]) for row in rows]
    sign = 1 if quality.rises else -1
    return Point(
        panel=number,
        defended=defended,
        attacker=attacker,
        leakage=mean,
        low=low,
        high=high,
        quality=mean_quality,
        quality_low=min(measured, default=None),
        quality_high=max(measured, default=None),
        gain=None if mean_quality is None else sign * mean_quality,
        n=sum(n for _, n in count),
        leaked=sum(round(share * n) for share, n in count),
        seeds=sorted({row["seed"] for row in rows}),
        blind=math.fsum(blind) / len(blind) if blind else None,
        rows=rows,
    )


def _leakage(rows: Sequence[Row], attacker: str, store: Store) -> tuple[float, float | None, float | None]:
    """Return mean and interval: a single cell's own, or over the images of all seeds' clients."""
    name = f"{attacker}_{METRIC}"
    if len(rows) == 1:
        return rows[0][name], rows[0][f"{name}_low"], rows[0][f"{name}_high"]
    clients: dict[Any, list[float]] = {}
    for row in rows:
        clients |= store.values(row, attacker)
    values = [value for images in clients.values() for value in images]
    members = [client for client, images in clients.items() for _ in images]
    seed = derive(1, "page", *sorted({row["cell"] for row in rows}), attacker)
    found = bca(values, members, seed=seed)
    return float(found["mean"] or 0.0), found["low"], found["high"]


def _ranked(points: Sequence[Point]) -> list[Point]:
    rank = ranks(point.defended for point in points)
    return [replace(point, rank=rank[point.defended]) for point in points]
