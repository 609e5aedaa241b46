"""Thresholds as text."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from fedsim.studies.threshold import Threshold

HEAD = ["setting", "defence", "attacker", "bound", "smallest strength", "interval", "accuracy", "images"]


def threshold_markdown(found: Sequence[Threshold]) -> str:
    """Return the same table as Markdown."""
    head, *cells = _table(found)
    rows = [head, ["---"] * len(head), *cells]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    cautions = "\n".join(f"- {text}" for text in _cautions(found))
    return f"{table}\n\n{cautions}" if cautions else table


def threshold_text(found: Sequence[Threshold]) -> str:
    """Return a table of thresholds, a line each, in columns."""
    rows = _table(found)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in [*lines, *_wrapped(_cautions(found))])


def _table(found: Sequence[Threshold]) -> list[list[str]]:
    """Return head and cells, without accuracy where none is known."""
    rows = [HEAD, *(_cells(one) for one in found)]
    if any(one.accuracy is not None for one in found):
        return rows
    place = HEAD.index("accuracy")
    return [[*row[:place], *row[place + 1 :]] for row in rows]


def answer(one: Threshold) -> str:
    """Return the threshold itself: `p = 0.9`, or that no strength suffices."""
    if one.strength is None:
        return f"none up to {one.option} = {one.grid[-1]:g}"
    return f"{one.option} = {one.strength:g}"


def interval_text(one: Threshold) -> str:
    """Return the interval of the answer: `[0.5, 0.9]`, with `none` where no strength suffices."""
    return f"[{_number(one.low)}, {_number(one.high)}]"


def _cautions(found: Sequence[Threshold]) -> list[str]:
    """Return why answers should be read with care, each reason once with those that it holds of."""
    told: dict[str, dict[str, None]] = {}
    for one in found:
        for text in one.warnings:
            told.setdefault(text, {})[f"{one.defense} ({one.attacker})"] = None
    everywhere = {f"{one.defense} ({one.attacker})" for one in found}
    return [
        f"{text}: {'all of them' if set(whose) == everywhere else ', '.join(whose)}"
        for text, whose in told.items()
    ]


def _wrapped(cautions: Sequence[str]) -> list[str]:
    lines = [line for text in cautions for line in wrap(f"caution: {text}", 110, subsequent_indent="  ")]
    return ["", *lines] if lines else []


def _cells(one: Threshold) -> list[str]:
    return [
        ", ".join(_told(key, value) for key, value in one.setting.items()),
        one.defense,
        one.attacker,
        f"{one.bound:.2f}",
        answer(one),
        interval_text(one),
        "-" if one.accuracy is None else f"{one.accuracy:.3f}",
        f"{min(one.images)} to {max(one.images)}" if len(set(one.images)) > 1 else str(one.images[0]),
    ]


def _told(key: str, value: object) -> str:
    """Return a setting's value, after its key where the value is no name; of a file its own name."""
    last = key.rpartition(".")[2]
    if last == "path":
        return Path(str(value)).name
    return str(value) if last in ("name", "attack") else f"{key} = {value}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
