"""The smallest strength of a defence at which leakage stays below a bound."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from fedsim.errors import InputError
from fedsim.options import require
from fedsim.report.words import defense_names
from fedsim.seeds import derive
from fedsim.studies.cells import CELLS
from fedsim.studies.strength import STRENGTHS
from fedsim.studies.table import ATTACKERS

QUANTILE = 0.9
"""Of ten images nine are to stay below the bound: in a mean the few that leak would hide."""
DRAWS = 1000
LEVEL = 0.95
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What strength keeps the images private, for one attack and attacker."""

    setting: Mapping[str, Any]
    """What else the study varies: data, model, partition, attack, ..."""
    defense: str
    option: str
    """Of the defence: what the strengths are values of."""
    attacker: str
    """`naive` or `adaptive`."""
    bound: float
    strength: float | None
    """None: no strength of the grid suffices."""
    low: float | None
    high: float | None
    """The interval of the answer; None stands for `no strength suffices`."""
    accuracy: float | None
    """At that strength, the mean over seeds."""
    grid: Sequence[float]
    """From the weakest on."""
    measured: Sequence[float]
    """The quantile of the images' scores at each."""
    fitted: Sequence[float]
    images: Sequence[int]
    warnings: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return plain tables."""
        return asdict(self)


def monotone(values: Array, weights: Array) -> Array:
    """Return the non-increasing sequence nearest to the values by weighted squares (pool adjacent violators).

    Barlow et al. 1972: a stronger defence does not leak more, so that what looks like it is chance.
    """
    fitted: Array = isotonic_regression(values, weights=weights, increasing=False).x
    return fitted


def smallest(scores: Sequence[Sequence[Array]], bound: float, quantile: float) -> int:
    """Return the index of the weakest strength whose fitted quantile is below the bound, len() if none is.

    `scores` holds, from the weakest strength on, the images' scores of each client.
    """
    return _first_below(_fit(scores, quantile)[1], bound)


def interval(scores: Sequence[Sequence[Array]], bound: float, quantile: float, seed: int) -> tuple[int, int]:
    """Return the 95 % percentile interval of `smallest` over bootstrap draws of each strength's clients."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        drawn = [[c[i] for i in generator.integers(len(c), size=len(c))] for c in scores]
        found.append(smallest(drawn, bound, quantile))
    tails = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tails, 1 - tails], method="inverted_cdf")
    return int(low), int(high)


def _fit(scores: Sequence[Sequence[Array]], quantile: float) -> tuple[Array, Array]:
    joined = [np.concatenate(clients) for clients in scores]
    measured = np.array([quantile_of(images, quantile) for images in joined])
    return measured, monotone(measured, np.array([len(images) for images in joined], dtype=np.float64))


def quantile_of(values: Array, quantile: float, axis: int | None = None) -> Any:
    """Return the smallest of the values that so many of them do not exceed: none is made up between two."""
    return np.quantile(values, quantile, axis=axis, method="inverted_cdf")


def _first_below(fitted: Array, bound: float) -> int:
    below = np.flatnonzero(fitted <= bound)
    return int(below[0]) if len(below) else len(fitted)


def thresholds(
    rows: Sequence["Row"],
    folder: Path,
    *,
    bound: float | None = None,
    metric: str = "ssim_affine",
    quantile: float = QUANTILE,
    seed: int = 1,
) -> list[Threshold]:
    """Return the threshold of each defence of a study, against each attack and attacker.

    Leakage at a strength is the `quantile` of the images' `metric` (SSIM after the best brightness and
    contrast). `bound` is by default what a guess that saw no gradient stays below 99 times of 100 on the same
    images (the cell's blind baseline): an image that scores less cannot be told from a guess. Strengths are
    the study's; a defence with fewer than two of them has no threshold. Seeds are pooled. Raises InputError
    where neither a bound nor a baseline is known.
    """
    require(bound is None or math.isfinite(bound), "bound", bound, "a finite number")
    known = metric == "ssim_affine" or bound is not None
    require(known, "metric", metric, "ssim_affine, or a bound of your own: a blind guess is scored by that")
    scores = _Scores(folder, metric)
    answers = [
        _threshold(group, attacker, scores, bound, quantile, seed)
        for group in _groups(rows)
        for attacker in ATTACKERS
    ]
    return [answer for answer in answers if answer is not None]


Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Group:
    """Rows that differ in one strength and the seed alone."""

    setting: Mapping[str, Any]
    defense: str
    option: str
    rises: bool
    rows: Mapping[float, list[Row]]


def _groups(rows: Sequence[Row]) -> list[_Group]:
    """Return a group for each strength that varies, with everything else that does as its setting."""
    defended = [row for row in rows if row.get("attack") is not None and row["defense"] != "none"]
    settings = _varying(defended, _is_setting)
    chains: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Row]] = {}
    for row in defended:
        chains.setdefault((chain_of(row), cohort_of(row)), []).append(row)
    found = []
    for (chain, cohort), members in chains.items():
        of_chain = _varying(members, lambda key: key.startswith("defenses."))
        for number, name in enumerate(chain):
            key = f"defenses.{number}.{STRENGTHS[name].option}" if name in STRENGTHS else ""
            if key in of_chain and name in cohort:
                others = [*settings, *(other for other in of_chain if other != key)]
                found += _along(key, members, others, cohort, name)
    return found


def cohort_of(row: Row) -> tuple[str, ...]:
    """Return the names of the defences of the clients that a row is about: those of all, or of a share."""
    return tuple(defense_names(str(row["defense"])))


def chain_of(row: Row) -> tuple[str, ...]:
    """Return the names of a row's defences in order."""
    names = (row.get(f"defenses.{number}.name") for number in range(len(row)))
    return tuple(takewhile(lambda name: name is not None, names))  # type: ignore[arg-type]


def _along(
    key: str, rows: Sequence[Row], others: Sequence[str], cohort: tuple[str, ...], name: str
) -> list[_Group]:
    strength = STRENGTHS[name]
    option = strength.option if len(cohort) == 1 else f"{name}.{strength.option}"
    groups: dict[tuple[tuple[str, Any], ...], dict[float, list[Row]]] = {}
    for row in (
        row for row in rows if row.get(key) is not None
    ):  # a noise may be told by its epsilon instead
        own = tuple((other, row[other]) for other in others if row.get(other) is not None)
        by_strength = groups.setdefault((*own, ("attack", row["attack"])), {})
        by_strength.setdefault(float(row[key]), []).append(row)
    return [
        _Group(dict(setting), " + ".join(cohort), option, strength.rises, by_strength)
        for setting, by_strength in groups.items()
        if len(by_strength) > 1
    ]


def _varying(rows: Sequence[Row], chosen: Callable[[str], bool]) -> list[str]:
    """Return the chosen keys that differ between rows."""
    keys = dict.fromkeys(key for row in rows for key in row if chosen(key))
    return [key for key in keys if len({str(row.get(key)) for row in rows}) > 1]


def _is_setting(key: str) -> bool:
    return "." in key and not key.startswith(("defenses.", "adversary.attacks."))


def _threshold(
    group: _Group, attacker: str, scores: "_Scores", bound: float | None, quantile: float, seed: int
) -> Threshold | None:
    strengths = sorted(group.rows, reverse=not group.rises)
    grid = [strength for strength in strengths if scores.of(group.rows[strength], attacker)]
    if len(grid) < 2:
        return None
    found = [scores.of(group.rows[strength], attacker) for strength in grid]
    limit = _bound(bound, group)
    measured, fitted = _fit(found, quantile)
    images = [sum(map(len, clients)) for clients in found]
    index = _first_below(fitted, limit)
    low, high = interval(found, limit, quantile, derive(seed, "threshold", group.defense, attacker))
    answers = [*grid, None]
    return Threshold(
        setting=group.setting,
        defense=group.defense,
        option=group.option,
        attacker=attacker,
        bound=limit,
        strength=answers[index],
        low=answers[low],
        high=answers[high],
        accuracy=_accuracy(group.rows[grid[index]]) if index < len(grid) else None,
        grid=grid,
        measured=measured.tolist(),
        fitted=fitted.tolist(),
        images=images,
        warnings=[*_warnings(group, attacker), *_too_few(min(images), quantile)],
    )


def _warnings(group: _Group, attacker: str) -> list[str]:
    told = (row.get(f"{attacker}_warnings") for rows in group.rows.values() for row in rows)
    return sorted({text for text in told if text})


def _too_few(images: int, quantile: float) -> list[str]:
    """Return what so few images cannot show: all of them below leaves a higher share above possible."""
    if quantile >= 1 or quantile**images <= 1 - LEVEL:
        return []
    needed = math.ceil(math.log(1 - LEVEL) / math.log(quantile))
    return [f"{images} images cannot show that {quantile:.0%} of all stay below: that takes {needed}"]


def _accuracy(rows: Sequence[Row]) -> float | None:
    found = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return math.fsum(found) / len(found) if found else None


def _bound(bound: float | None, group: _Group) -> float:
    if bound is not None:
        return bound
    blind = [row.get("blind_ssim_affine_p99") for rows in group.rows.values() for row in rows]
    known = [float(value) for value in blind if value is not None]
    if not known:
        raise InputError(
            "bound: nothing is known of a blind guess on these data; allowed: a number, --bound 0.5"
        )
    return max(known)


class _Scores:
    """Reads the images' scores of cells, each file once."""

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder, self._metric = folder, metric
        self._lines: dict[str, list[dict[str, Any]]] = {}

    def of(self, rows: Iterable[Row], attacker: str) -> list[Array]:
        """Return the scores of each client's images, of all rows; a failed attack scores 0."""
        clients: dict[Any, list[float]] = {}
        for row in rows:
            for line in self._read(row["cell"]):
                same = (line["attack"], line["defense"]) == (row["attack"], row["defense"])
                if same and line["adaptive"] == (attacker == "adaptive"):
                    client = (row["cell"], line["capture"] if line["client"] is None else line["client"])
                    clients.setdefault(client, []).append(line[self._metric] or 0.0)
        return [np.array(values) for values in clients.values()]

    def _read(self, cell: str) -> list[dict[str, Any]]:
        if cell not in self._lines:
            path = self._folder / CELLS / cell / "scores.jsonl"
            require(path.is_file(), "cell", cell, f"a study whose cells are there: {path} is missing")
            text = path.read_text(encoding="utf-8")
            self._lines[cell] = [json.loads(line) for line in text.splitlines() if line]
        return self._lines[cell]
