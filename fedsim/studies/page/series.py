"""Defences of a study as its figures name them: a series, and its strengths from the weakest on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report.words import defense_names, title
from fedsim.studies.strength import STRENGTHS
from fedsim.studies.threshold import chain_of

Row = Mapping[str, Any]
NO_DEFENSE = "no defence"
Option = tuple[str, str]
"""(name of a defence, name of its option)"""


@dataclass(frozen=True)
class Defended:
    """A defence at one strength."""

    series: str
    """What has one colour: `masking`, `noising (laplace)`, `clipping + noising`."""
    strength: str
    """`p = 0.5`; empty where nothing says how strong it is."""
    order: tuple[float, ...]
    """Sorts strengths, the weakest first."""


def ranks(found: Iterable[Defended]) -> dict[Defended, float]:
    """Return where each stands between the weakest (0) and the strongest (1) of its series."""
    orders: dict[str, set[tuple[float, ...]]] = {}
    known = list(found)
    for one in known:
        orders.setdefault(one.series, set()).add(one.order)
    places = {series: sorted(of_series) for series, of_series in orders.items()}
    return {
        one: places[one.series].index(one.order) / (len(places[one.series]) - 1)
        if len(places[one.series]) > 1
        else 0.5
        for one in known
    }


class Defences:
    """The defences of a study: what of them varies tells series and strengths apart."""

    def __init__(self, rows: Sequence[Row]) -> None:
        values: dict[tuple[str, ...], dict[Option, list[Any]]] = {}
        for row in rows:
            known = values.setdefault(_names(row), {})
            for option, value in _options(row).items():
                if value not in known.setdefault(option, []):
                    known[option].append(value)
        self._varied = {
            names: {option: found for option, found in known.items() if len(found) > 1}
            for names, known in values.items()
        }

    def of(self, row: Row) -> Defended:
        """Return what a row defends itself with."""
        names = _names(row)
        if not names:
            return Defended(NO_DEFENSE, _beside(row), ())
        options = _options(row)
        varied = [option for option in options if option in self._varied.get(names, {})]
        strengths = [option for option in options if _is_strength(option)] or varied
        if len(names) > 1:  # of a chain only what is turned; all of it where nothing is
            strengths = [option for option in strengths if option in varied] or strengths
        variants = [
            _variant(option, options[option])
            for option in varied
            if option not in strengths and not _is_strength(option)
        ]
        series = " + ".join(names) + (f" ({', '.join(variants)})" if variants else "")
        told = [_strength(option, options[option], len(names) > 1) for option in strengths]
        order = tuple(self._rank(names, option, options[option]) for option in strengths)
        return Defended(series, ", ".join(told), order)

    def series(self, rows: Sequence[Row]) -> list[str]:
        """Return the series of all rows, the undefended first."""
        found = dict.fromkeys(self.of(row).series for row in rows)
        return sorted(found, key=lambda name: name != NO_DEFENSE)

    def _rank(self, names: tuple[str, ...], option: Option, value: Any) -> float:
        if _is_strength(option):
            return float(value) if STRENGTHS[option[0]].rises else -float(value)
        return float(self._varied[names][option].index(value))


def _names(row: Row) -> tuple[str, ...]:
    """Return the defences that a row is about: of its cohort, or the whole chain if nothing was attacked."""
    if row.get("defense") is not None:
        return tuple(defense_names(str(row["defense"])))
    return tuple(name for name in chain_of(row) if name != "none")


def _options(row: Row) -> dict[Option, Any]:
    names = _names(row)
    found: dict[Option, Any] = {}
    for number, name in enumerate(chain_of(row)):
        prefix = f"defenses.{number}."
        if name in names:
            found |= {
                (name, key.removeprefix(prefix)): value
                for key, value in row.items()
                if key.startswith(prefix) and value is not None and key != f"{prefix}name"
            }
    return found


def _is_strength(option: Option) -> bool:
    name, key = option
    return name in STRENGTHS and STRENGTHS[name].option == key


def _strength(option: Option, value: Any, chained: bool) -> str:
    name, key = option
    words = key.replace("_", " ")
    return f"{f'{name} ' if chained else ''}{words} = {_text(value)}"


def _variant(option: Option, value: Any) -> str:
    return value if isinstance(value, str) else f"{option[1].replace('_', ' ')} {_text(value)}"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _beside(row: Row) -> str:
    """Return the defences that other clients of the same federation use."""
    names = [title(name) for name in chain_of(row) if name != "none"]
    return f"beside {' + '.join(names)}" if names else ""
