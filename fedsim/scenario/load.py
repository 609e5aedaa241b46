"""Read a scenario from a TOML file, a bundled name or tables, and write it back complete."""

import tomllib
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from fedsim.errors import InputError
from fedsim.options import path_of
from fedsim.scenario.checks import check_scenario
from fedsim.scenario.errors import nearest, one_line
from fedsim.scenario.overrides import Overrides, apply_overrides
from fedsim.scenario.schema import Scenario

_PATHS = ("path", "root")
"""Options of `data` that name files or folders: relative to the scenario's file."""


def load_scenario(source: Path | str | Mapping[str, Any], overrides: Overrides = ()) -> Scenario:
    """Return the scenario in a file, or of a bundled name such as `quickstart`, fully checked.

    Paths in a file are relative to the file, those in overrides and tables to the current directory; the
    scenario that is returned holds absolute ones. Raises InputError: one line with file, key and what is
    allowed.
    """
    if isinstance(source, Mapping):
        return _validated(_absolute(_plain(source), Path.cwd()), overrides, "scenario")
    path = find_scenario(source)
    raw = {"name": path.stem} | _absolute(_read(path), path.resolve().parent)
    return _validated(raw, overrides, str(source))


def dump_scenario(scenario: Scenario) -> str:
    """Return the scenario as TOML with every default filled in; loading it gives an equal scenario."""
    return tomli_w.dumps(_without_none(scenario.model_dump()))


def find_scenario(source: Path | str) -> Path:
    """Return the path of a scenario: a file, or a bundled one's name; raises InputError if neither exists."""
    path = Path(source)
    if path.is_file():
        return path
    bundled = {found.stem: found for found in bundled_scenarios()}
    if str(source) in bundled:
        return bundled[str(source)]
    if path.is_dir():
        inside = path / "scenario.toml"
        hint = f"; did you mean '{inside}'?" if inside.is_file() else ""
        raise InputError(f"{source}: is a folder; allowed: a TOML file{hint}")
    near = nearest(path.stem, list(bundled))
    raise InputError(f"{source}: no such file; allowed: a TOML file, or one of {', '.join(bundled)}{near}")


def bundled_scenarios() -> Iterator[Path]:
    """Yield the ready-made scenarios: in the package once installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "scenarios", package.parent / "scenarios"):
        if folder.is_dir():
            yield from sorted(folder.glob("*.toml"))
            return


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); allowed: a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None


def _validated(raw: dict[str, Any], overrides: Overrides, where: str) -> Scenario:
    merged = _absolute(_plain(apply_overrides(raw, overrides)), Path.cwd())
    try:
        scenario = Scenario.model_validate(merged)
        check_scenario(scenario)
    except ValidationError as error:
        raise InputError(f"{where}: {one_line(error, merged)}") from None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return scenario


def _without_none(value: Any) -> Any:
    """Leave out the keys that are None, for which TOML has no word: their defaults are None too."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _absolute(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return the tables with the paths of `data` made absolute."""
    data = raw.get("data")
    if not isinstance(data, dict):
        return raw
    paths = {key: data[key] for key in _PATHS if isinstance(data.get(key), str)}
    return raw | {
        "data": data | {key: str(base / path_of(f"data.{key}", path)) for key, path in paths.items()}
    }


def _plain(value: Any, key: str = "") -> Any:
    """Return tables as TOML has them: dict, list, text; raises InputError for what TOML has no word for."""
    if isinstance(value, Mapping):
        return {name: _plain(item, f"{key}.{name}".lstrip(".")) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}.{n}") for n, item in enumerate(value)]
    if isinstance(value, PathLike):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(f"{key} = {value!r}: allowed: text, a number, true, false, a list or a table")
