"""The tables of a page: thresholds, every cell by attacker, promises beside what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report.words import ABSENT, interval, number, percent_interval
from fedsim.studies.page.costs import found_of
from fedsim.studies.page.layout import Layout
from fedsim.studies.page.look import WHO
from fedsim.studies.page.points import METRIC, Point, Quality
from fedsim.studies.page.series import NO_DEFENSE, Defences
from fedsim.studies.page.steps import Curve
from fedsim.studies.page.words import images_words, interval_words, limit, strength_text
from fedsim.studies.table import ATTACKERS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what stands small below it, and what it is sorted by."""

    text: str
    small: str = ""
    by: float | str | None = None
    hot: bool = False
    cautions: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a table, and what filters match."""

    cells: Sequence[Cell]
    series: str
    attacker: str = ""
    panel: int | None = None
    place: int | None = None
    row: int | None = None
    """The number of the row of the table's CSV that this tells of."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose columns can be sorted."""

    name: str
    heads: Sequence[str]
    lines: Sequence[Line]
    words: int
    """So many columns on the left are words, the others numbers."""


def threshold_table(
    curves: Sequence[Curve], points: Sequence[Point], layout: Layout, quality: Quality
) -> Table:
    """Return a line for each threshold."""
    found = {id(one.threshold): one for ones in found_of(curves, points).values() for one in ones}
    lines: list[Line] = []
    for curve in curves:
        for one in curve.thresholds:
            known = found[id(one)]
            factors = [Cell(value, by=value) for value in curve.panel.factors.values()]
            held = one.strength is not None
            answer = strength_text(one, one.strength) if held else f"none {limit(one)}"
            place = one.grid.index(one.strength) if one.strength is not None else len(one.grid)
            cells = [
                Cell(curve.series, curve.fixed, curve.series),
                Cell(WHO[one.attacker], by=WHO[one.attacker], cautions=one.warnings),
                *factors,
                Cell(answer, by=place, hot=not held),
                Cell(interval_words(one), by=place),
                _quality_cell(known.quality, known.plain, quality),
                Cell(number(one.bound), by=one.bound),
                Cell(images_words([one]), by=min(one.images)),
            ]
            lines.append(
                Line(
                    cells=cells,
                    row=len(lines),
                    series=curve.series,
                    attacker=one.attacker,
                    panel=curve.panel.number,
                )
            )
    heads = ["Defence", "Attacker", *layout.factors, "Smallest strength", "95% interval"]
    heads += [f"{quality.title} there", "Bound", "At each strength"]
    return Table(name="thresholds", heads=heads, lines=lines, words=len(layout.factors) + 3)


def _quality_cell(value: float | None, plain: float | None, quality: Quality) -> Cell:
    small = f"{quality.text(plain)} undefended" if plain is not None and value is not None else ""
    return Cell(quality.text(value), small, value)


def row_table(rows: Sequence[Row], layout: Layout, defences: Defences, quality: Quality) -> Table:
    """Return a line for each attacked cell and attacker; for each trained cell where none was attacked."""
    if all(row.get("attack") is None for row in rows):
        return _trained_table(rows, layout, defences, quality)
    lines = [
        _row_line(row, i, attacker, layout, defences, quality)
        for i, row in enumerate(rows)
        if row.get("attack") is not None
        # Without a defence both attackers are one.
        for attacker in (ATTACKERS if row["defense"] != "none" else ATTACKERS[:1])
        if row.get(f"{attacker}_{METRIC}") is not None
    ]
    heads = ["Defence", "Strength", "Attacker", *layout.factors, "Seed", quality.title]
    heads += ["Mean SSIM", "Worst", "Leaked", "PSNR, dB", "Guess", "Images"]
    return Table(name="rows", heads=heads, lines=lines, words=len(layout.factors) + 3)


def _trained_table(rows: Sequence[Row], layout: Layout, defences: Defences, quality: Quality) -> Table:
    """Return a line for each finished cell of a study that attacks nothing."""
    lines: list[Line] = []
    for i, row in enumerate(rows):
        value = row.get(quality.key)
        if value is None:
            continue
        place, defended = layout.place(row), defences.of(row)
        strength = Cell(defended.strength or ABSENT, by=defended.order[-1] if defended.order else None)
        cells = [Cell(defended.series, by=defended.series), strength]
        cells += [Cell(text, by=text) for text in place.factors.values()]
        cells += [Cell(str(row["seed"]), by=row["seed"]), Cell(quality.text(value), by=value)]
        lines.append(Line(cells=cells, row=i, series=defended.series, place=place.number))
    factors = list(layout.places[0].factors)
    heads = ["Defence", "Strength", *factors, "Seed", quality.title]
    return Table(name="rows", heads=heads, lines=lines, words=len(factors) + 2)


def _row_line(row: Row, i: int, attacker: str, layout: Layout, defences: Defences, quality: Quality) -> Line:
    panel, defended = layout.panel(row), defences.of(row)
    plain = defended.series == NO_DEFENSE
    who = ABSENT if plain else WHO[attacker]
    leaked, n = row[f"{attacker}_leaked"] or 0.0, row[f"{attacker}_n"]
    value, caution = row[quality.key], row.get(f"{attacker}_warnings")
    cells = [
        Cell(defended.series, by=defended.series),
        Cell(defended.strength or ABSENT, by=defended.order[-1] if defended.order else None),
        Cell(who, by=who, cautions=[caution] if caution else []),
        *(Cell(text, by=text) for text in panel.factors.values()),
        Cell(str(row["seed"]), by=row["seed"]),
        Cell(quality.text(value), by=value),
        Cell(
            number(row[f"{attacker}_{METRIC}"]),
            interval(_extent(row, f"{attacker}_{METRIC}")),
            row[f"{attacker}_{METRIC}"],
        ),
        Cell(number(row[f"{attacker}_{METRIC}_worst"]), by=row[f"{attacker}_{METRIC}_worst"]),
        Cell(
            f"{round(leaked * n)} of {n}",
            percent_interval(_extent(row, f"{attacker}_leaked")),
            leaked,
            hot=leaked > 0,
        ),
        Cell(
            number(row[f"{attacker}_psnr"], 1),
            interval(_extent(row, f"{attacker}_psnr"), 1),
            row[f"{attacker}_psnr"],
        ),
        Cell(number(row["blind_ssim_affine"]), by=row["blind_ssim_affine"]),
        Cell(str(n), by=n),
    ]
    return Line(
        cells=cells,
        row=i,
        series=defended.series,
        attacker="" if plain else attacker,
        panel=panel.number,
    )


def _extent(row: Row, name: str) -> dict[str, Any]:
    return {"low": row[f"{name}_low"], "high": row[f"{name}_high"]}
