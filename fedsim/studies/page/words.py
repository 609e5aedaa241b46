"""Thresholds in sentences."""

from collections.abc import Sequence

from fedsim.report.words import number, plural, title
from fedsim.studies.page.steps import Curve
from fedsim.studies.threshold import Threshold

WHOM = {"naive": "the attacker who ignores it", "adaptive": "the one who knows it"}


def where(name: str, panel: str) -> str:
    """Return a name with its setting, where there is more than one."""
    return f"{name} · {panel}" if panel else name


def strength_text(one: Threshold, value: float | None) -> str:
    """Return `p = 0.1`."""
    return f"{one.option.replace('.', ' ').replace('_', ' ')} = {value:g}"


def limit(one: Threshold) -> str:
    """Return the strongest of the grid as the end of a search: `up to 0.99`, `down to 0.01`."""
    falls = one.grid[-1] < one.grid[0]
    return (
        f"{'down' if falls else 'up'} to {one.option.rpartition('.')[2].replace('_', ' ')} = {one.grid[-1]:g}"
    )


def interval_words(one: Threshold) -> str:
    """Return the interval of the answer; `none` stands for no strength that suffices."""
    if one.low is None:
        return "none"
    return f"{one.low:g} to {'none' if one.high is None else f'{one.high:g}'}"


def images_words(ones: Sequence[Threshold]) -> str:
    """Return the number of images at each strength."""
    counts = [count for one in ones for count in one.images]
    least, most = min(counts), max(counts)
    return plural(least, "image") if least == most else f"{least:,} to {plural(most, 'image')}"


def curve_words(curve: Curve) -> str:
    """Return the outcome of a panel of leakage against strength."""
    bound, images = number(curve.thresholds[0].bound), images_words(curve.thresholds)
    return " ".join([*map(_outcome, curve.thresholds), f"Bound {bound}; n = {images} at each strength."])


def _outcome(one: Threshold) -> str:
    who = "If ignored" if one.attacker == "naive" else "If known"
    if one.strength is None:
        found = f"no strength {limit(one)} suffices"
    else:
        found = f"{strength_text(one, one.strength)} suffices"
    return f"{who}: {found} (95% interval {interval_words(one)})."


def name_of(series: str, first: bool = True) -> str:
    """Return a series as a sentence names it."""
    name = " + ".join(title(part) for part in series.split(" + ")).replace("dpsgd", "DP-SGD")
    return name[0].upper() + name[1:] if first else name
