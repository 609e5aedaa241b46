"""Thresholds beside what the model is worth at them: what privacy costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.report.words import number
from fedsim.studies.page.points import Point, Quality
from fedsim.studies.page.series import NO_DEFENSE
from fedsim.studies.page.steps import Curve
from fedsim.studies.threshold import Threshold

Key = tuple[str, str]
"""Series, and the option that its strengths are values of."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """One threshold with the quality of the model at it, and without a defence."""

    threshold: Threshold
    quality: float | None
    plain: float | None


def found_of(curves: Sequence[Curve], points: Sequence[Point]) -> dict[Key, list[Found]]:
    """Return the thresholds of each (series, option), over all settings."""
    at = {(p.panel, p.defended.series, p.defended.strength): p.quality for p in points}
    plain = {p.panel: p.quality for p in undefended(points)}
    groups: dict[Key, list[Found]] = {}
    for curve in curves:
        for one in curve.thresholds:
            step = next((s for s in curve.steps if s["threshold"] and s["attacker"] == one.attacker), None)
            place = curve.panel.number, curve.series, step["strength"] if step else ""
            quality = at.get(place) if step else None
            groups.setdefault((curve.series, curve.option), []).append(
                Found(threshold=one, quality=quality, plain=plain.get(curve.panel.number))
            )
    return groups


def undefended(points: Sequence[Point]) -> list[Point]:
    """Return the points of federations without a defence, not those of clients beside defended ones."""
    return [p for p in points if p.defended.series == NO_DEFENSE and not p.defended.strength]


def cost_words(found: Sequence[Found], quality: Quality) -> str:
    """Return the quality at the thresholds, beside that without a defence."""
    text = f"{quality.key} {spread([one.quality for one in found], quality)}"
    points = points_lost(found, quality)
    plain = [one.plain for one in found if one.plain is not None]
    if points and len(found) > 1:
        return f"{text}, {points} below that without a defence"
    return f"{text}, {spread(plain, quality)} without a defence" if plain else text


def points_lost(found: Sequence[Found], quality: Quality) -> str:
    """Return the accuracy lost in percentage points, empty where it is not known."""
    lost = [one.plain - one.quality for one in found if one.plain is not None and one.quality is not None]
    if not quality.rises or len(lost) < len(found):
        return ""
    ends = dict.fromkeys(number(100 * value, 1) for value in (min(lost), max(lost)))
    return f"{' to '.join(ends)} points"


def spread(values: Sequence[float | None], quality: Quality) -> str:
    """Return the least and the highest of the values that are known, or the one that they all are."""
    known = sorted({value for value in values if value is not None})
    ends = dict.fromkeys(quality.text(value) for value in (known[0], known[-1]))
    return " to ".join(ends)


def range_text(option: str, strengths: Sequence[float], one: Threshold) -> str:
    """Return `p = 0.1`, or `p = 0.1 to 0.5 (by setting)`."""
    least, most = weakest_first(strengths, one)
    return f"{option} = {least:g}" if least == most else f"{option} = {least:g} to {most:g} (by setting)"


def weakest_first(strengths: Sequence[float], one: Threshold) -> tuple[float, float]:
    """Return the weakest and the strongest."""
    least, most = min(strengths), max(strengths)
    return (most, least) if one.grid[-1] < one.grid[0] else (least, most)


def everywhere(count: int) -> str:
    """Return ` in all 4 settings`, empty for a single one."""
    if count == 2:
        return " in both settings"
    return f" in all {count} settings" if count > 1 else ""
