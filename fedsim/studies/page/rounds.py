"""Accuracy by round: a line for each place, defence and strength, the mean over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedsim.studies.page.layout import Layout, Panel
from fedsim.studies.page.points import Quality
from fedsim.studies.page.series import NO_DEFENSE, Defences, Defended, ranks
from fedsim.studies.page.store import Store

Row = Mapping[str, Any]
MOST = 80
"""Rounds of a line that are drawn: of more, every second, third, ... and the last."""
CROWD = 8
"""Lines of a panel that can still be told apart."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What was learnt under one defence at one strength."""

    place: Panel
    defended: Defended
    seeds: int
    rounds: Sequence[int]
    mean: Sequence[float]
    low: Sequence[float]
    """The least of the seeds."""
    high: Sequence[float]
    rank: float = 0.5


def lines_of(
    rows: Sequence[Row], store: Store, layout: Layout, defences: Defences, quality: Quality
) -> list[Line]:
    """Return the lines, weakest strength first; cohorts of one federation share theirs."""
    groups: dict[tuple[int, Defended], dict[str, Row]] = {}
    for row in rows:
        if row["status"] == "finished":
            key = (layout.place(row).number, defences.of(_whole(row)))
            groups.setdefault(key, {}).setdefault(row["cell"], row)
    found = [
        _line(layout.places[number], defended, list(cells.values()), store, quality)
        for (number, defended), cells in groups.items()
    ]
    lines = [line for line in found if line is not None and len(line.rounds) > 1]
    seen = list(dict.fromkeys(line.defended.series for line in lines))
    order = sorted(
        lines, key=lambda line: (line.place.number, seen.index(line.defended.series), line.defended.order)
    )
    return _ranked(order)


def _whole(row: Row) -> Row:
    """Return the row as one of the whole federation, whatever cohort it is about."""
    return {key: value for key, value in row.items() if key != "defense"}


def _line(
    place: Panel, defended: Defended, rows: Sequence[Row], store: Store, quality: Quality
) -> Line | None:
    values: dict[int, list[float]] = {}
    for row in rows:
        for line in store.run(row["cell"]).rounds:
            if line.get(quality.key) is not None and "stopped" not in line:
                values.setdefault(line["round"], []).append(line[quality.key])
    # A round that only some seeds have would make the mean jump.
    complete = sorted(number for number, found in values.items() if len(found) == len(rows))
    if not complete:
        return None
    shown = thinned(complete)
    return Line(
        place=place,
        defended=defended,
        seeds=len({row["seed"] for row in rows}),
        rounds=shown,
        mean=[math.fsum(values[number]) / len(values[number]) for number in shown],
        low=[min(values[number]) for number in shown],
        high=[max(values[number]) for number in shown],
    )


def thinned(rounds: Sequence[int], most: int = MOST) -> list[int]:
    """Return at most about `most` of the rounds, evenly, the last among them."""
    every = -(-len(rounds) // most)
    return sorted({*rounds[::every], rounds[-1]})


def _ranked(lines: Sequence[Line]) -> list[Line]:
    rank = ranks(line.defended for line in lines)
    return [replace(line, rank=rank[line.defended]) for line in lines]


def learnt(lines: Sequence[Line]) -> list[tuple[Panel, str, list[Line]]]:
    """Return the panels: each series of a place with its lines, the undefended beside them.

    Where every defence has one strength, or a place a few lines in all, they share a panel, whose series is
    empty where they are of several.
    """
    apart: dict[tuple[int, str], list[Line]] = {}
    together: dict[int, list[Line]] = {}
    plain = {line.place.number: line for line in lines if line.defended.series == NO_DEFENSE}
    for line in lines:
        together.setdefault(line.place.number, []).append(line)
        if line.defended.series != NO_DEFENSE:
            apart.setdefault((line.place.number, line.defended.series), []).append(line)
    if not apart:
        return [(line.place, NO_DEFENSE, [line]) for line in plain.values()]
    single = all(len(members) == 1 for members in apart.values())
    few = all(len(members) <= CROWD for members in together.values())
    if len(apart) > len(together) and (single or few):
        return [(members[0].place, _only_series(members), members) for members in together.values()]
    return [
        (members[0].place, series, [*([plain[place]] if place in plain else []), *members])
        for (place, series), members in apart.items()
    ]


def _only_series(lines: Sequence[Line]) -> str:
    """Return the series that all defended lines are of; empty where they are of several."""
    found = {line.defended.series for line in lines} - {NO_DEFENSE}
    return found.pop() if len(found) == 1 else ""


def told_apart(line: Line, panel: Sequence[Line]) -> str:
    """Return what a line is called among those of its panel: its strength, its defence, or both."""
    series, strength = line.defended.series, line.defended.strength
    several = len({other.defended.series for other in panel} - {NO_DEFENSE}) > 1
    return f"{series}, {strength}" if several and strength else strength or series
