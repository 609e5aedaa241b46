"""The answer in sentences: which defence at which strength keeps the images, from whom, at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedsim.report.words import listed, plural
from fedsim.studies.page.costs import Found, cost_words, everywhere, found_of, range_text, spread
from fedsim.studies.page.points import Point, Quality
from fedsim.studies.page.series import NO_DEFENSE
from fedsim.studies.page.steps import Curve
from fedsim.studies.page.words import WHOM, images_words, interval_words, limit, name_of
from fedsim.studies.threshold import Threshold


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What stands behind a sentence, for one attacker."""

    text: str
    cautions: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said of one defence."""

    series: str
    sentence: str
    details: Sequence[Detail]


def answers(curves: Sequence[Curve], points: Sequence[Point], quality: Quality) -> list[Answer]:
    """Return a sentence for each defence, those without strengths last."""
    groups = found_of(curves, points)
    told = [_answer(series, option, found, quality) for (series, option), found in groups.items()]
    known = {series for series, _ in groups}
    others = dict.fromkeys(p.defended.series for p in points if p.defended.series not in {NO_DEFENSE, *known})
    return told + [_unordered(series, points, quality) for series in others]


def _answer(series: str, option: str, found: Sequence[Found], quality: Quality) -> Answer:
    by_attacker = {who: [one for one in found if one.threshold.attacker == who] for who in WHOM}
    settings = {len(ones) for ones in by_attacker.values() if ones}
    # What holds of every setting, as it mostly does, is said once.
    alike = all(_alike(ones) for ones in by_attacker.values()) and len(settings) == 1
    clauses = [
        _clause(option, [one.threshold for one in ones], who, "images" if place == 0 else "them", not alike)
        for place, (who, ones) in enumerate(by_attacker.items())
    ]
    scope = f",{everywhere(max(settings))}" if alike and max(settings) > 1 else ""
    told = _both(option, found) or "; ".join(clauses)
    return Answer(
        series=series,
        sentence=f"{name_of(series)}{scope}: {told}.",
        details=[_detail(who, ones, quality) for who, ones in by_attacker.items() if ones],
    )


def _alike(found: Sequence[Found]) -> bool:
    """Return whether some strength suffices in all settings, or in none."""
    return len({one.threshold.strength is None for one in found}) < 2


def _both(option: str, found: Sequence[Found]) -> str:
    """Return one clause where both attackers are kept out by the same strength in every setting."""
    strengths = {one.threshold.strength for one in found}
    attackers = {one.threshold.attacker for one in found}
    if len(strengths) > 1 or attackers != set(WHOM):
        return ""
    strength = strengths.pop()
    if strength is None:
        return f"no strength {limit(found[0].threshold)} keeps images from either attacker"
    return f"{option} = {strength:g} keeps images from {listed(WHOM.values())}"


def _clause(option: str, ones: Sequence[Threshold], who: str, images: str, settings: bool) -> str:
    """Return what one attacker is kept out by; `settings` asks for the number of settings as well."""
    if not ones:
        return f"{WHOM[who]} was not tried"
    held = [one.strength for one in ones if one.strength is not None]
    scope = everywhere(len(ones)) if settings else ""
    if not held:
        return f"no strength {limit(ones[0])} keeps {images} from {WHOM[who]}{scope}"
    text = f"{range_text(option, held, ones[0])} keeps {images} from {WHOM[who]}"
    if len(held) == len(ones):
        return f"{text}{scope}"
    return f"{text} in {len(held)} of {len(ones)} settings, no strength {limit(ones[0])} in the others"


def _detail(who: str, found: Sequence[Found], quality: Quality) -> Detail:
    ones = [one.threshold for one in found]
    intervals = dict.fromkeys(interval_words(one) for one in ones)
    parts = [
        "95% interval " + (next(iter(intervals)) if len(intervals) == 1 else "by setting, in the table below")
    ]
    kept = [one for one in found if one.quality is not None]
    if kept:
        parts.append(cost_words(kept, quality))
    parts.append(f"n = {images_words(ones)} at each strength")
    return Detail(
        text=f"{'If ignored' if who == 'naive' else 'If known'}: {'; '.join(parts)}.",
        cautions=sorted({text for one in ones for text in one.warnings}),
    )


def _unordered(series: str, points: Sequence[Point], quality: Quality) -> Answer:
    """Say of a defence without two strengths what leaked at each of its settings."""
    own = [point for point in points if point.defended.series == series]
    known = [point for point in own if point.attacker == "adaptive"] or own
    told = _leaked(known)
    told = [*told[:6], f"{len(told) - 6} more below"] if len(told) > 6 else told
    whom = WHOM[known[0].attacker]
    values = [point.quality for point in own if point.quality is not None]
    return Answer(
        series=series,
        sentence=f"{name_of(series)}: to {whom} leaked {listed(told)}; no scale of strengths to search.",
        details=[Detail(text=f"{quality.title} {spread(values, quality)}.")] if values else [],
    )


def _leaked(points: Sequence[Point]) -> list[str]:
    """Return what leaked at each strength, over all settings."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(point.defended.strength, []).append(point)
    return [
        f"{sum(point.leaked for point in found)} of {plural(sum(point.n for point in found), 'image')}"
        + (f" at {strength}" if strength else "")
        for strength, found in groups.items()
    ]
