"""Names in a scenario become objects here: one small registry per kind."""

import difflib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from fedsim.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A name, where its object lives (`module:attribute`, imported on first use), one line and its source."""

    name: str
    target: str
    summary: str
    paper: str = ""


class Registry:
    """Names of one kind (`attack`, `model`, ...), extended by entry points `fedsim.<kind>s` or `module:name`.

    Entries are text until they are resolved, so that listing them imports nothing heavy.
    """

    def __init__(self, kind: str, *entries: Entry) -> None:
        self.kind = kind
        self._entries = {entry.name: entry for entry in entries}
        if len(self._entries) < len(entries):
            raise ValueError(f"duplicate {kind} name")

    def __iter__(self) -> Iterator[Entry]:
        """Yield the built-in entries, then those of installed packages."""
        yield from self._entries.values()
        for point in entry_points(group=f"fedsim.{self.kind}s"):
            if point.name not in self._entries:
                package = point.dist.name if point.dist else "an installed package"
                yield Entry(point.name, point.value, f"from {package}")

    def built_in(self) -> set[str]:
        """Return the names that come with fedsim."""
        return set(self._entries)

    def names(self) -> list[str]:
        """Return all known names."""
        return [entry.name for entry in self]

    def check(self, name: str, key: str = "name") -> None:
        """Raise InputError unless `name` is known or has the form `module:attribute`."""
        # Built-in names first: looking through all that is installed takes milliseconds.
        if name not in self._entries and ":" not in name and name not in self.names():
            raise InputError(f"{key} = {name!r}: no such {self.kind}; {suggest(name, self.names())}")

    def resolve(self, name: str, key: str = "name") -> Any:
        """Return the object called `name`; `module:attribute` is imported as it stands.

        Raises InputError for an unknown name (with the nearest valid one) or a failed import.
        """
        self.check(name, key)
        entry = self._entries.get(name) or next((entry for entry in self if entry.name == name), None)
        return import_object(entry.target if entry else name, key)


def import_object(target: str, key: str = "name") -> Any:
    """Import `module:attribute`; raises InputError that names `key` if there is no such thing."""
    module, _, attribute = target.partition(":")
    try:
        value = importlib.import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        what = f"cannot be imported ({error}); allowed: module:attribute"
        raise InputError(f"{key} = {target!r}: {what}") from None
    return value


def suggest(name: str, known: list[str]) -> str:
    """Return `did you mean ...?` with the nearest known name, and all the names."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    question = f"did you mean {lower[near[0]]!r}? " if near else ""
    return f"{question}allowed: {', '.join(known)}"
