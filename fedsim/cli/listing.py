"""`fedsim list`: every plug-in with one line and its paper."""

import difflib
import json
import shutil
import textwrap
import tomllib
from collections.abc import Mapping, Sequence

from fedsim.errors import InputError
from fedsim.papers import brief
from fedsim.registry import Entry
from fedsim.scenario.load import bundled_scenarios
from fedsim.scenario.plugins import REGISTRIES, registry
from fedsim.studies.study import bundled_studies, read_study

Listing = Mapping[str, Sequence[Entry]]
_KINDS = (*REGISTRIES, "scenarios", "studies")


def listing(kind: str | None = None) -> Listing:
    """Return the entries of one kind, or of all; raises InputError for a kind that there is not."""
    if kind is not None and kind not in _KINDS:
        near = difflib.get_close_matches(kind, _KINDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"list {kind}: no such kind; allowed: {', '.join(_KINDS)}{hint}")
    return {k: _entries(k) for k in ([kind] if kind else _KINDS)}


def _entries(kind: str) -> list[Entry]:
    bundled = {"scenarios": _scenarios, "studies": _studies}
    return bundled[kind]() if kind in bundled else list(registry(kind))


def _scenarios() -> list[Entry]:
    """Return the bundled scenarios; the first comment of each says what it shows."""
    entries = []
    for path in bundled_scenarios():
        text = path.read_text(encoding="utf-8")
        tomllib.loads(text)
        first = text.partition("\n")[0].removeprefix("#").strip()
        entries.append(Entry(path.stem, str(path), first))
    return entries


def _studies() -> list[Entry]:
    """Return the bundled studies; `about` says what each shows."""
    found = bundled_studies()
    return [Entry(name, str(path), read_study(path).about) for name, path in found]


def as_json(kinds: Listing) -> str:
    """Return the listing as JSON: kind -> list of name, summary, paper, target."""
    table = {
        kind: [
            {"name": e.name, "summary": e.summary, "paper": brief(e.paper), "target": e.target}
            for e in entries
        ]
        for kind, entries in kinds.items()
    }
    return json.dumps(table, indent=2, ensure_ascii=False)


def as_text(kinds: Listing) -> str:
    """Return the listing for reading: one block a kind, the paper under its line where both do not fit."""
    columns = min(shutil.get_terminal_size((110, 24)).columns, 140)
    blocks = []
    for kind, entries in kinds.items():
        width = max((len(entry.name) for entry in entries), default=0) + 2
        lines = [line for entry in entries for line in _lines(entry, width, columns)]
        blocks.append("\n".join([kind, *lines]))
    return "\n\n".join(blocks)


def _lines(entry: Entry, width: int, columns: int) -> list[str]:
    indent = " " * (width + 2)
    first = f"  {entry.name:<{width}}"
    paper = f"[{brief(entry.paper)}]" if entry.paper else ""
    both = f"{entry.summary} {paper}".strip()
    if len(first) + len(both) <= columns:
        return [first + both]
    summary = textwrap.wrap(entry.summary, columns, initial_indent=first, subsequent_indent=indent)
    return summary + textwrap.wrap(paper, columns, initial_indent=indent, subsequent_indent=indent)
