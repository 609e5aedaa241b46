"""Cells: one scenario each, in a folder that is named by what it depends on."""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.scenario import Scenario, load_scenario
from fedsim.scenario.overrides import apply_overrides, parse_override
from fedsim.studies.grid import Overrides, combinations
from fedsim.studies.study import Study

CELLS = "cells"
SUMMARY = "summary.json"
FAILED = "failed.json"
"""Why a cell did not finish; such a cell is tried again when the study is."""
_UNSEEN = (
    "name",
    "output",
    "engine",
    "training.device",
    "adversary.workers",
    "adversary.cuda_graphs",
    "adversary.capture.max_gigabytes",
)
"""Keys on which no figure depends, so that the name of a cell does not either."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One scenario of a study."""

    name: str
    """Hash of the scenario and of the data file that it names."""
    overrides: Overrides
    scenario: Scenario
    folder: Path
    """Exists once the cell has finished."""

    @property
    def finished(self) -> bool:
        """Return whether nothing is left to do."""
        return (self.folder / SUMMARY).is_file()

    @property
    def unfinished(self) -> Path:
        """Return the folder that it is run in."""
        return self.folder.with_name(f"{self.name}.partial")

    @property
    def failure(self) -> str | None:
        """Return why it did not finish, in one line; None where it has, or was not tried."""
        path = self.folder.with_name(f"{self.name}.{FAILED}")
        if self.finished or not path.is_file():
            return None
        reason: str = json.loads(path.read_text(encoding="utf-8"))["reason"]
        return reason

    def fail(self, reason: str) -> None:
        """Write down why it did not finish."""
        path = self.folder.with_name(f"{self.name}.{FAILED}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"reason": reason}), encoding="utf-8")

    def settle(self) -> None:
        """Turn the folder that it ran in into the cell's own, in one go, and forget an earlier failure."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.unfinished.replace(self.folder)
        self.folder.with_name(f"{self.name}.{FAILED}").unlink(missing_ok=True)


def cells_of(study: Study, out: Path, overrides: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a study in order; `overrides` (KEY=VALUE) change the scenario under all of them.

    Raises InputError, one line with the cell's keys, where a cell is no scenario that can be run.
    """
    base = dict(map(parse_override, overrides))
    axes = {key for grid in study.grids for key in {**study.axes, **grid}}
    for key in axes.intersection(base):
        raise InputError(f"--set {key}: an axis of the study; allowed: keys that do not vary in it")
    found: dict[str, Cell] = {}
    for changes in combinations(study):
        try:
            scenario = _scenario(study, base, changes)
        except InputError as error:
            told = ", ".join(f"{key} = {value!r}" for key, value in changes.items())
            raise InputError(f"{error} (in the cell with {told})" if told else str(error)) from None
        name = content_hash(scenario)
        found.setdefault(name, Cell(name, changes, scenario, out / CELLS / name))
    return list(found.values())


def _scenario(study: Study, base: Mapping[str, Any], changes: Overrides) -> Scenario:
    both = {**base, **changes}
    if isinstance(study.scenario, str):
        return load_scenario(study.scenario, both)
    return load_scenario(apply_overrides(study.scenario, both))


def content_hash(scenario: Scenario) -> str:
    """Return 16 hexadecimal digits that follow from everything that a cell's figures depend on."""
    table = scenario.model_dump(mode="json")
    for key in _UNSEEN:
        section, _, last = key.rpartition(".")
        place = table
        for part in section.split(".") if section else ():
            place = place[part]
        place.pop(last, None)
    named = scenario.data.options.get("path")
    content = {"scenario": table, "data": _digest(Path(str(named)).expanduser()) if named else None}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _digest(path: Path) -> str | list[tuple[str, str]] | None:
    """Return what tells data apart: a file's digest, or those of a folder's files with their names."""
    if path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.is_file())
        return [(str(one.relative_to(path)), _file_digest(one, one.stat().st_mtime_ns)) for one in inside]
    return _file_digest(path, path.stat().st_mtime_ns) if path.is_file() else None


@cache
def _file_digest(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values of nested tables; lists of tables by number; empty ones not at all."""
    for key, value in table.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield from flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif value != []:
            yield name, value
