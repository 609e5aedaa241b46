"""Read a run folder (docs/run-folder.md): whatever is there, since an aborted run leaves only a part."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import InputError

Row = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The contents of a run folder; an absent file is an empty list or dict."""

    path: Path
    scenario: Row
    scenario_text: str
    rounds: list[Row]
    scores: list[Row]
    summary: Row
    clients: Row

    @property
    def name(self) -> str:
        """Return the scenario's name, or the folder's where it has none."""
        return str(self.summary.get("name") or self.scenario.get("name") or self.path.resolve().name)

    @property
    def leakage(self) -> list[Row]:
        """Return the leakage rows of the summary: one per attack, defence and kind of attacker."""
        return list(self.summary.get("leakage") or [])

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes, empty where they are not known."""
        return [str(name) for name in self.clients.get("classes") or []]

    def class_name(self, label: int | None) -> str:
        """Return a label in words: the class's name, or its number where there is none."""
        if label is None:
            return ""
        return self.classes[label] if 0 <= label < len(self.classes) else f"class {label}"

    @property
    def samples(self) -> dict[int, list[str]]:
        """Return the pictures that a generative model drew, by round, relative to the run folder."""
        found: dict[int, list[str]] = {}
        for path in sorted((self.path / "samples").glob("round-*-*.png")):
            number = path.stem.split("-")[1]
            if number.isdecimal():
                found.setdefault(int(number), []).append(f"samples/{path.name}")
        return found

    def picture(self, relative: str | None) -> bytes | None:
        """Return the bytes of a PNG of this run; None if it is missing, outside the folder or no PNG."""
        if not relative:
            return None
        path = (self.path / relative).resolve()
        if not path.is_relative_to(self.path.resolve()) or not path.is_file():
            return None
        content = path.read_bytes()
        return content if content.startswith(PNG) else None


def read_run(folder: Path) -> RunFolder:
    """Read a run folder; raises InputError if it is none, or if a file in it is not what it should be."""
    text = _text(folder / "scenario.toml")
    if not (folder / "scenario.toml").is_file():
        raise InputError(
            f"run = {str(folder)!r}: not a run folder (no scenario.toml); allowed: what `fedsim run` left"
        )
    try:
        scenario = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{folder / 'scenario.toml'}: not TOML ({error})") from None
    return RunFolder(
        path=folder,
        scenario=scenario,
        scenario_text=text,
        rounds=_lines(folder / "rounds.jsonl"),
        scores=_lines(folder / "scores.jsonl"),
        summary=_object(folder / "summary.json"),
        clients=_object(folder / "clients.json"),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _object(path: Path) -> Row:
    text = _text(path)
    try:
        value = json.loads(text) if text.strip() else {}
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: allowed: one JSON object, not a {type(value).__name__}")
    return value


def _lines(path: Path) -> list[Row]:
    """Return one dict a line; a last line cut short by an interruption is left out."""
    lines = _text(path).splitlines()
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            if number < len(lines):
                raise InputError(f"{path}: line {number} is not a JSON object") from None
    return rows
