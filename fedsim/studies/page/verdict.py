"""What a whole study says, in a sentence, and what its words mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.report.words import listed, number, plural
from fedsim.studies.page.costs import (
    Found,
    Key,
    everywhere,
    found_of,
    points_lost,
    range_text,
    spread,
    undefended,
)
from fedsim.studies.page.points import Point, Quality
from fedsim.studies.page.series import NO_DEFENSE
from fedsim.studies.page.steps import Curve
from fedsim.studies.page.words import images_words, name_of
from fedsim.studies.table import single_step
from fedsim.studies.threshold import QUANTILE

Row = Mapping[str, Any]
SEARCHED = " tried at several strengths"
OF = {"adaptive": "an attacker who knows the defence", "naive": "an attacker who ignores the defence"}


def verdict(
    curves: Sequence[Curve], points: Sequence[Point], quality: Quality, rows: Sequence[Row] = ()
) -> str:
    """Return the whole study's outcome, judged by the attacker who knows the defence, if there is one."""
    if not points:
        return _trained(rows, quality)
    groups = found_of(curves, points)
    for who, whom in OF.items():
        judged = {key: [one for one in ones if one.threshold.attacker == who] for key, ones in groups.items()}
        judged = {key: ones for key, ones in judged.items() if ones}
        if judged:
            # A defence without two strengths, or against which this attacker was not run, is not judged.
            some = {series for series, _ in judged} != {*series_of(points)}
            return _judgement(
                judged, f"{plural(len(judged), 'defence')}{SEARCHED if some else ''}", whom, quality
            )
    return (
        "No defence was tried at two strengths or more against a known bound: no smallest one can be named."
    )


def _trained(rows: Sequence[Row], quality: Quality) -> str:
    """Return what a study says that attacks nothing, or of which nothing has finished."""
    values = [row[quality.key] for row in rows if row.get(quality.key) is not None]
    if not values:
        return "No cell of this study has finished yet."
    over = f"over {plural(len(values), 'cell')}"
    return f"Nothing was attacked in this study: {quality.title.lower()} of {spread(values, quality)} {over}."


def series_of(points: Sequence[Point]) -> list[str]:
    """Return the defences that were attacked, each once."""
    series = dict.fromkeys(point.defended.series for point in points)
    return [name for name in series if name != NO_DEFENSE]


def _judgement(judged: dict[Key, list[Found]], tried: str, whom: str, quality: Quality) -> str:
    kept = {key: ones for key, ones in judged.items() if all(map(_holds, ones))}
    settings = everywhere(max(map(len, judged.values())))
    if kept:
        names = listed(name_of(series, False) for series, _ in kept)
        verb = "keep" if len(kept) > 1 else "keeps"
        told = "; ".join(_at(key, ones, quality, len(kept) > 1) for key, ones in kept.items())
        only = f"Of {tried} only {names}" if len(kept) < len(judged) else names
        return f"{only[0].upper()}{only[1:]} {verb} the images from {whom}{settings}: {told}."
    some = [name_of(key[0], False) for key, ones in judged.items() if any(map(_holds, ones))]
    first = name_of(next(iter(judged))[0], False)
    who = f"None of {tried}" if len(judged) > 1 else f"No strength of {first} that was tried"
    if some:
        return f"{who} keeps the images from {whom}{settings}; {listed(some)} does in some of them."
    anywhere = ", at any strength tried" if len(judged) > 1 else ""
    return f"{who} keeps the images from {whom}{anywhere}."


def _holds(one: Found) -> bool:
    return one.threshold.strength is not None


def _at(key: Key, found: Sequence[Found], quality: Quality, named: bool) -> str:
    """Return at which strength a defence holds, and what that costs."""
    series, option = key
    strengths = [one.threshold.strength for one in found if one.threshold.strength is not None]
    start = f"{name_of(series, False)} " if named else ""
    at = f"{start}at {range_text(option, strengths, found[0].threshold)}"
    values = [one.quality for one in found if one.quality is not None]
    if not values:
        return at
    points = points_lost(found, quality)
    if points and len(found) > 1:
        return f"{at}, for {points} of accuracy"
    plain = [one.plain for one in found if one.plain is not None]
    instead = f" instead of {spread(plain, quality)}" if plain else ""
    return f"{at}, with {quality.key} {spread(values, quality)}{instead}"


def without_defense(points: Sequence[Point], quality: Quality) -> str:
    """Return what leaks without a defence: without it a threshold says little."""
    own = [point for point in undefended(points) if point.attacker == "naive"]
    if not own:
        return "No cell without a defence was run: how much there was to keep is not known."
    leaked, n = sum(p.leaked for p in own), sum(p.n for p in own)
    told = f"Without a defence {leaked} of {plural(n, 'image')} leaked"
    known = [p.quality for p in own if p.quality is not None]
    name = quality.title.lower()
    return f"{told}, at a {name} of {spread(known, quality)}." if known else f"{told}."


def untaught(rows: Sequence[Row]) -> str:
    """Return why a study of single steps tells no accuracy."""
    if not any(map(single_step, rows)):
        return ""
    who = "The federation" if all(map(single_step, rows)) else "A federation of one round"
    return f"{who} took a single step, which teaches a model nothing yet: accuracy is left out."


def criterion(curves: Sequence[Curve], quantile: float = QUANTILE) -> str:
    """Return what `keeps images` means: bound, quantile, sample size and interval."""
    ones = [one for curve in curves for one in curve.thresholds]
    if not ones:
        return ""
    bounds = sorted({round(one.bound, 4) for one in ones})
    share = f"{quantile:.0%} of the images" if quantile < 1 else "every image"
    bound = (
        number(bounds[0]) if len(bounds) == 1 else f"{number(bounds[0])} to {number(bounds[-1])}, by data set"
    )
    return (
        f"“Keeps” means: {share} score at most {bound} (SSIM after brightness adjustment), which a guess "
        f"that saw no upload stays below 99 times in 100. Each strength was tried on {images_words(ones)}; "
        "intervals are 95%, a bootstrap over clients. Strengths between those tried are not known."
    )
