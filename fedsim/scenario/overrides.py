"""`--set key=value`: dotted keys with list indices over the tables of a scenario."""

import copy
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.errors import InputError
from fedsim.scenario.errors import shown
from fedsim.scenario.schema import Scenario

Overrides = Sequence[str] | Mapping[str, Any]


def apply_overrides(raw: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return a copy of the tables with each `key=value` set, in order.

    `defenses.0.p=0.9` changes the first entry of a list and `defenses.1=masking`, one past its end, adds one.
    Raises InputError for an override without `=`, or whose key leads through something that is no table.
    """
    result = copy.deepcopy(dict(raw))
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    for key, value in pairs:
        _assign(result, key, copy.deepcopy(value))
    return result


def parse_override(
    text: str, option: str = "--set", form: str = "key=value, such as training.batch_size=8"
) -> tuple[str, Any]:
    """Split `key=value` of a command line's `option`; the value is read as TOML, and a bare word is text.

    Raises InputError if there is no `=`, or the value is half a string, list or table.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not all(key.split(".")):
        raise InputError(f"{option} {text}: allowed: {form}")
    number = f"0{value}" if value[:1] == "." else value
    try:
        table = tomllib.loads(f"value = {number}")
    except tomllib.TOMLDecodeError as error:
        if value[:1] in ("[", "{", '"', "'"):
            raise InputError(f"{option} {text}: not a TOML value ({_reason(error)})") from None
        return key, value
    return key, table["value"] if len(table) == 1 else value


def _reason(error: tomllib.TOMLDecodeError) -> str:
    return str(error).partition(" (at ")[0]


def _assign(raw: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    place: Any = raw
    for depth, part in enumerate(path):
        place = _step_into(place, path[: depth + 1], [*path, last][depth + 1], part)
    if isinstance(place, list):
        _entry(place, last, key)
        place[int(last)] = value
    else:
        place[last] = value


def _step_into(place: Any, path: list[str], following: str, part: str) -> Any:
    """Return what lies under `part`: made from the defaults if it is not there, a bare name as its table."""
    key = ".".join(path)
    if isinstance(place, list):
        _entry(place, part, key)
        index: Any = int(part)
    else:
        index = part
        place.setdefault(part, _default(path) if following.isdecimal() else {})
    if isinstance(place[index], str):
        place[index] = {"name": place[index]}
    if not isinstance(place[index], dict | list):
        raise InputError(f"--set {key}.{following}: {key} = {shown(place[index])} is not a table")
    return place[index]


def _entry(entries: list[Any], part: str, key: str) -> None:
    """Make sure that the list has the entry; one past its end is added."""
    if not part.isdecimal() or int(part) > len(entries):
        raise InputError(f"--set {key}: no such entry; allowed: 0 to {len(entries)}")
    if int(part) == len(entries):
        entries.append({})


def _default(path: list[str]) -> Any:
    """Return the default of a list in the schema, so that its entries can be changed one by one."""
    value: Any = Scenario().model_dump(exclude_none=True)
    for part in path:
        value = value.get(part, {}) if isinstance(value, dict) else {}
    return value
