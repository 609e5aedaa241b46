"""What a study varies beside defence, strength and seed: the panels of its small multiples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fedsim.report.words import ABSENT, title

Row = Mapping[str, Any]
SECTIONS = ("data", "partition", "model", "task", "training", "strategy", "adversary")
"""In the order in which they name a panel: what an earlier one tells need not be told by a later one."""
ATTACK = "attack"


@dataclass(frozen=True)
class Panel:
    """One setting of a study: what its cells have in common but for defence, strength and seed."""

    number: int
    factors: Mapping[str, str]
    """`Data` -> `mnist`; empty where a study has a single setting."""

    @property
    def title(self) -> str:
        """Return the setting in a line, empty where there is only one."""
        return " · ".join(self.factors.values())


class Layout:
    """The settings of a study: panels tell attacks apart, places do not (what was learnt is the same)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        attacked = [row for row in rows if row.get(ATTACK) is not None]
        defended = [row for row in attacked if row["defense"] != "none"] or attacked or rows
        self._keys = _varied_by_section(defended)
        self._sections = _telling(defended, self._keys)
        self.panels = self._numbered(attacked or rows, self._sections)
        self.places = self._numbered(rows, [name for name in self._sections if name != ATTACK])

    def panel(self, row: Row) -> Panel:
        """Return the panel of a row, or of the setting of a threshold."""
        return self._find(self.panels, row)

    def place(self, row: Row) -> Panel:
        """Return the setting of a row whatever the attack."""
        return self._find(self.places, row)

    @property
    def factors(self) -> dict[str, list[str]]:
        """Return the values that each factor takes, in order: what the page filters by."""
        found: dict[str, list[str]] = {}
        for panel in self.panels:
            for name, value in panel.factors.items():
                if value not in found.setdefault(name, []):
                    found[name].append(value)
        return found

    def _numbered(self, rows: Iterable[Row], sections: Sequence[str]) -> list[Panel]:
        labels = dict.fromkeys(self._label(row, sections) for row in rows)
        names = [section.capitalize() for section in sections]
        return [
            Panel(number, dict(zip(names, label, strict=True)))
            for number, label in enumerate(sorted(labels, key=_first_seen(labels)))
        ]

    def _label(self, row: Row, sections: Sequence[str]) -> tuple[str, ...]:
        return tuple(_told(row, section, self._keys[section]) for section in sections)

    def _find(self, panels: Sequence[Panel], row: Row) -> Panel:
        names = [name.lower() for name in panels[0].factors]
        label = self._label(row, names)
        return next(panel for panel in panels if tuple(panel.factors.values()) == label)


def _first_seen(labels: Iterable[tuple[str, ...]]) -> Any:
    """Return a key that sorts by each part's first appearance, so that panels of a grid stand in a grid."""
    order: dict[tuple[int, str], int] = {}
    for label in labels:
        for place, part in enumerate(label):
            order.setdefault((place, part), len(order))
    return lambda label: [order[item] for item in enumerate(label)]


def _varied_by_section(rows: Sequence[Row]) -> dict[str, list[str]]:
    keys = dict.fromkeys(key for row in rows for key in row)
    found: dict[str, list[str]] = {}
    for key in keys:
        section = key.partition(".")[0]
        setting = section in SECTIONS and "." in key and not key.startswith("adversary.attacks.")
        if (setting or section == ATTACK) and _varies(rows, key):
            found.setdefault(section, []).append(key)
    return {name: found[name] for name in (*SECTIONS, ATTACK) if name in found}


def _varies(rows: Sequence[Row], key: str) -> bool:
    """Return whether rows differ in a key; in an option of an attack, those of the same attack."""
    option = key.startswith(f"{ATTACK}.")
    values = {(row.get(ATTACK) if option else None, str(row.get(key))) for row in rows}
    return len(values) > len({attack for attack, _ in values})


def _telling(rows: Sequence[Row], keys: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the sections that tell settings apart which those before them do not (axes may be zipped)."""
    kept: list[str] = []
    groups = 1
    for section in keys:
        labels = {tuple(_told(row, name, keys[name]) for name in (*kept, section)) for row in rows}
        if len(labels) > groups:
            kept.append(section)
            groups = len(labels)
    return kept


def _told(row: Row, section: str, keys: Sequence[str]) -> str:
    """Return the values of one section's keys in words: `dirichlet, alpha 0.1`."""
    found = [(key.removeprefix(f"{section}."), row[key]) for key in keys if row.get(key) is not None]
    return ", ".join(_words(option, value) for option, value in found) or ABSENT


def _words(option: str, value: Any) -> str:
    if option in ("name", ATTACK):
        return title(str(value))
    name = option.replace(".", " ").replace("_", " ")
    if option == "path":
        return PurePath(str(value)).name
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
