"""A study file: a scenario, and what of it varies (docs/studies.md)."""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from fedsim.errors import InputError
from fedsim.scenario import bundled_scenarios
from fedsim.scenario.errors import nearest
from fedsim.scenario.overrides import parse_override

Keep = Literal["figures", "pictures", "everything"]
"""What stays of a finished cell: summary and scores; the report and its pictures too; captures and all."""

KEYS = ("name", "about", "scenario", "seeds", "axes", "zip", "grids", "keep")
RANGE = ("from", "to", "num", "scale")
Axes = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A scenario with axes: cells are the product of `axes`, of each of the `grids` in turn, and of seeds."""

    name: str
    about: str = ""
    """What it shows, in a sentence or two, for its page."""
    scenario: str | Mapping[str, Any]
    """A file (relative to the study's), a bundled name, or tables."""
    axes: Axes = field(default_factory=dict)
    """Key of the scenario -> its values, in every cell; `seed` among them."""
    zipped: tuple[tuple[str, ...], ...] = ()
    """Axes that advance together, value by value."""
    grids: tuple[Axes, ...] = ({},)
    """Further axes, each table apart from the others: their cells are joined, not multiplied."""
    keep: Keep = "pictures"


def read_study(path: Path) -> Study:
    """Return the study in a TOML file; raises InputError, one line, for what is not right in it."""
    try:
        raw = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    try:
        study = _study({"name": path.stem, **raw})
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _beside(study, path.parent)


def with_axes(study: Study, changes: Sequence[str]) -> Study:
    """Return the study with axes replaced or added: `KEY=[VALUE, ...]`, in every grid that has the key.

    Raises InputError for a text that is no axis, or that a zip cannot be kept with.
    """
    for text in changes:
        key, value = parse_override(text, "--axis", "key=[value, ...], such as seed=[1, 2, 3]")
        values = _values(value, f"--axis {key}")
        grids = tuple({**grid, key: values} if key in grid else grid for grid in study.grids)
        axes = study.axes if any(key in grid for grid in grids) else {**study.axes, key: values}
        zipped = _zipped([list(keys) for keys in study.zipped], [{**axes, **grid} for grid in grids])
        study = replace(study, axes=axes, grids=grids, zipped=zipped)
    return study


def _study(raw: dict[str, Any]) -> Study:
    for key in raw:
        if key not in KEYS:
            raise InputError(f"{key} = {raw[key]!r}: unknown key; allowed: {', '.join(KEYS)}")
    scenario = raw.get("scenario")
    if not isinstance(scenario, str | dict):
        raise InputError(f"scenario = {scenario!r}: allowed: a file, a bundled name, or a table")
    keep = raw.get("keep", "pictures")
    if keep not in get_args(Keep):
        raise InputError(f"keep = {keep!r}: allowed: {', '.join(get_args(Keep))}")
    texts = {key: raw.get(key, "") for key in ("name", "about")}
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{key} = {value!r}: allowed: text")
    axes = _axes(raw.get("axes", {}), "axes")
    if "seeds" in raw:
        axes = {**axes, "seed": _seeds(raw["seeds"])}
    grids = raw.get("grids", [{}])
    if not isinstance(grids, list) or not grids:
        raise InputError(f"grids = {grids!r}: allowed: a list of tables")
    found = tuple(_axes(grid, f"grids.{number}") for number, grid in enumerate(grids))
    zipped = _zipped(raw.get("zip", []), [{**axes, **grid} for grid in found])
    return Study(**texts, scenario=scenario, axes=axes, zipped=zipped, grids=found, keep=keep)


def _axes(raw: Any, where: str) -> dict[str, list[Any]]:
    if not isinstance(raw, dict):
        raise InputError(f"{where} = {raw!r}: allowed: a table of keys of the scenario")
    return {key: _values(value, f"{where}.{key}") for key, value in raw.items()}


def _values(value: Any, where: str) -> list[Any]:
    """Return the values of an axis: a list as it is, a range's numbers, anything else alone."""
    if isinstance(value, dict) and "from" in value:
        return _range(value, where)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InputError(f"{where} = []: allowed: at least one value")
    return values


def _range(raw: dict[str, Any], where: str) -> list[Any]:
    """Return `num` numbers from `from` to `to`, both included, evenly or (`scale = "log"`) by factors.

    Whole ones where both ends are and all others come out so: for keys that count something.
    """
    first, last, num = raw.get("from"), raw.get("to"), raw.get("num")
    scale = raw.get("scale", "linear")
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (first, last))
    whole = isinstance(num, int) and not isinstance(num, bool) and num >= 2
    if set(raw) - set(RANGE) or not numbers or not whole or scale not in ("linear", "log"):
        form = '{ from = 0.1, to = 0.9, num = 5, scale = "linear" } (or "log"), num at least 2'
        raise InputError(f"{where} = {raw!r}: allowed: {form}")
    assert first is not None
    assert last is not None
    assert num is not None
    if scale == "log":
        if min(first, last) <= 0:
            raise InputError(f"{where} = {raw!r}: allowed on a log scale: from and to above 0")
        ends = math.log(first), math.log(last)
        found = [_round(math.exp(ends[0] + (ends[1] - ends[0]) * i / (num - 1))) for i in range(num)]
    else:
        found = [_round(first + (last - first) * i / (num - 1)) for i in range(num)]
    count = isinstance(first, int) and isinstance(last, int) and all(value.is_integer() for value in found)
    return [int(value) for value in found] if count else found


def _round(value: float) -> float:
    """Return the number as one would write it: 0.3 and not 0.30000000000000004."""
    return float(f"{value:.6g}")


def _seeds(raw: Any) -> list[int]:
    """Return seeds: as they are listed, or 1 to so many."""
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= 1:
        return list(range(1, raw + 1))
    if isinstance(raw, list) and raw and all(isinstance(seed, int) and seed >= 0 for seed in raw):
        return raw
    raise InputError(f"seeds = {raw!r}: allowed: how many, or a list of whole numbers of at least 0")


def _zipped(raw: Any, grids: Sequence[Axes]) -> tuple[tuple[str, ...], ...]:
    form = 'lists of keys that advance together, such as [["data.name", "model.name"]]'
    if not isinstance(raw, list) or not all(isinstance(keys, list) and len(keys) > 1 for keys in raw):
        raise InputError(f"zip = {raw!r}: allowed: {form}")
    names = [key for keys in raw for key in keys]
    if not all(isinstance(key, str) for key in names) or len(set(names)) < len(names):
        raise InputError(f"zip = {raw!r}: allowed: {form}, each key once")
    for keys in raw:
        for grid in grids:
            lengths = [len(grid.get(key, ())) for key in keys]
            if len(set(lengths)) > 1:
                told = ", ".join(f"{key} has {n}" for key, n in zip(keys, lengths, strict=True))
                raise InputError(f"zip = {keys!r}: {told} values; allowed: axes of one length")
    return tuple(tuple(keys) for keys in raw)


def _beside(study: Study, folder: Path) -> Study:
    """Return the study with the scenario's file looked for beside it first."""
    if isinstance(study.scenario, str) and (folder / study.scenario).is_file():
        return replace(study, scenario=str(folder / study.scenario))
    return study


def find_study(source: str) -> Path:
    """Return the path of a study: a file, or a bundled one's name such as `kim_park/quick`."""
    path = Path(source)
    if path.is_file():
        return path
    bundled = dict(bundled_studies())
    if source in bundled:
        return bundled[source]
    what = "is a folder" if path.is_dir() else "no such file"
    raise InputError(
        f"{source}: {what}; allowed: a TOML file, or one of {', '.join(bundled)}"
        f"{nearest(source, list(bundled))}"
    )


def bundled_studies() -> Iterator[tuple[str, Path]]:
    """Yield name and path of the ready-made studies: the TOML files in folders beside the scenarios."""
    scenario = next(bundled_scenarios(), None)
    for path in sorted(scenario.parent.glob("*/*.toml")) if scenario else ():
        yield f"{path.parent.name}/{path.stem}", path
