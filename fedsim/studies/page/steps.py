"""Leakage against strength: what each threshold was read off, with the interval of its fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.seeds import derive
from fedsim.studies.page.layout import Layout, Panel
from fedsim.studies.page.series import Defences
from fedsim.studies.page.store import Store
from fedsim.studies.threshold import (
    DRAWS,
    LEVEL,
    QUANTILE,
    Threshold,
    chain_of,
    cohort_of,
    monotone,
    quantile_of,
)

Row = Mapping[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The thresholds of one defence in one setting, naive and adaptive, and their curves."""

    panel: Panel
    series: str
    fixed: str
    """The strengths of the chain's other defences, empty for a defence alone."""
    option: str
    labels: Sequence[str]
    """The strengths as text, the weakest first."""
    thresholds: Sequence[Threshold]
    steps: Sequence[dict[str, Any]]
    """A row for each strength and attacker."""


def curves_of(
    thresholds: Sequence[Threshold],
    rows: Sequence[Row],
    store: Store,
    layout: Layout,
    defences: Defences,
    quantile: float = QUANTILE,
) -> list[Curve]:
    """Return a curve for each defence and setting, in the order of the panels."""
    pairs: dict[tuple[Any, ...], list[Threshold]] = {}
    for one in thresholds:
        key = (one.defense, one.option, *(f"{k}={v}" for k, v in one.setting.items()))
        pairs.setdefault(key, []).append(one)
    found = [
        _curve(number, pair, rows, store, layout, defences, quantile)
        for number, pair in enumerate(pairs.values())
    ]
    return sorted(found, key=lambda curve: curve.panel.number)


def _curve(
    number: int,
    pair: Sequence[Threshold],
    rows: Sequence[Row],
    store: Store,
    layout: Layout,
    defences: Defences,
    quantile: float,
) -> Curve:
    cells = {one.attacker: [rows_at(one, value, rows) for value in one.grid] for one in pair}
    some = cells[pair[0].attacker][0][0]
    panel, series = layout.panel(some), defences.of(some).series
    shared = {"curve": number, "panel": panel.number, "series": series}
    steps = [
        shared | step for one in pair for step in _steps(one, cells[one.attacker], store, defences, quantile)
    ]
    longest = max(pair, key=lambda one: len(one.grid))
    return Curve(
        panel=panel,
        series=series,
        fixed=_fixed(pair[0], some),
        option=pair[0].option.rpartition(".")[2].replace("_", " "),
        labels=[f"{value:g}" for value in longest.grid],
        thresholds=pair,
        steps=steps,
    )


def rows_at(one: Threshold, strength: float, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of all seeds that a threshold's figures at one strength stand on."""
    name, _, option = one.option.rpartition(".")
    cohort = tuple(one.defense.split(" + "))
    return [
        row
        for row in rows
        if row.get("attack") is not None
        and row["defense"] != "none"
        and cohort_of(row) == cohort
        and _value(row, name or cohort[0], option) == strength
        and all(row.get(setting) == value for setting, value in one.setting.items())
    ]


def _value(row: Row, name: str, option: str) -> float | None:
    chain = chain_of(row)
    value = row.get(f"defenses.{chain.index(name)}.{option}") if name in chain else None
    return None if value is None else float(value)


def _fixed(one: Threshold, row: Row) -> str:
    chain = chain_of(row)
    told = []
    for key, value in one.setting.items():
        if key.startswith("defenses.") and isinstance(value, int | float):
            _, number, option = key.split(".", 2)
            told.append(f"{chain[int(number)]} {option.replace('_', ' ')} {value:g}")
    return ", ".join(told) if len(chain) > 1 else ""


def _steps(
    one: Threshold, cells: Sequence[Sequence[Row]], store: Store, defences: Defences, quantile: float
) -> list[dict[str, Any]]:
    clients = [_clients(rows, one.attacker, store) for rows in cells]
    low, high = band(clients, quantile, derive(1, "band", one.defense, one.option, one.attacker))
    return [
        {
            "attacker": one.attacker,
            "at": f"{strength:g}",
            "strength": defences.of(rows[0]).strength,
            "measured": one.measured[place],
            "fitted": one.fitted[place],
            "low": low[place],
            "high": high[place],
            "bound": one.bound,
            "threshold": strength == one.strength,
            "n": one.images[place],
            "seeds": len({row["seed"] for row in rows}),
        }
        for place, (strength, rows) in enumerate(zip(one.grid, cells, strict=True))
    ]


def _clients(rows: Sequence[Row], attacker: str, store: Store) -> list[Array]:
    found: dict[Any, list[float]] = {}
    for row in rows:
        found |= store.values(row, attacker)
    return [np.array(values) for values in found.values()]


def band(scores: Sequence[Sequence[Array]], quantile: float, seed: int) -> tuple[list[float], list[float]]:
    """Return the 95 % percentile interval of the fit at each strength, over draws of its clients."""
    generator = np.random.default_rng(seed)
    weights = np.array([sum(map(len, clients)) for clients in scores], dtype=np.float64)
    drawn = np.stack([_drawn(clients, quantile, generator) for clients in scores], axis=1)
    tails = (1 - LEVEL) / 2
    fits = [monotone(quantiles, weights) for quantiles in drawn]
    low, high = np.quantile(fits, [tails, 1 - tails], axis=0)
    return low.tolist(), high.tolist()


def _drawn(clients: Sequence[Array], quantile: float, generator: np.random.Generator) -> Array:
    """Return the quantile of the images of each draw of clients."""
    chosen = generator.integers(len(clients), size=(DRAWS, len(clients)))
    if len({len(images) for images in clients}) == 1:
        found: Array = quantile_of(np.stack(clients)[chosen].reshape(DRAWS, -1), quantile, axis=1)
        return found
    draws = (np.concatenate([clients[place] for place in draw]) for draw in chosen)
    return np.array([quantile_of(images, quantile) for images in draws])
