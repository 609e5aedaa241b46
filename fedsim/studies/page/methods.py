"""The methods of a study, written out to be cited."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from adversary.attacks import ATTACKS
from adversary.statistics import RESAMPLES
from fedsim.papers import brief, references
from fedsim.report.citations import citations
from fedsim.report.folder import RunFolder
from fedsim.report.privileges import privileges
from fedsim.report.settings import what_was_run
from fedsim.report.words import listed, number, plural, title
from fedsim.studies.page.points import Point
from fedsim.studies.page.series import NO_DEFENSE, Defences, Defended
from fedsim.studies.page.steps import Curve
from fedsim.studies.page.words import images_words
from fedsim.studies.threshold import DRAWS, QUANTILE

Row = Mapping[str, Any]
INTERVALS = "Efron 1987; Wilson 1927"
THRESHOLDS = "Barlow et al. 1972"


def paragraphs(
    rows: Sequence[Row],
    runs: Sequence[RunFolder],
    points: Sequence[Point],
    curves: Sequence[Curve],
    defences: Defences,
    quantile: float = QUANTILE,
) -> list[str]:
    """Return setting, adversary, measure and statistics, a paragraph each."""
    settings = _settings(runs)
    found = [
        _setting(settings, rows),
        _defences(defences.of(row) for row in rows),
        _adversary(settings, rows, runs, points),
    ]
    if points:
        found += [_measure(curves, quantile), _statistics(bool(curves))]
    return [text for text in [*found, _software(rows)] if text]


def _settings(runs: Sequence[RunFolder]) -> dict[str, list[str]]:
    """Return the lines that describe the scenarios, each different one once."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, text in what_was_run(run):
            found.setdefault(name, {})[text] = None
    return {name: list(texts) for name, texts in found.items()}


def _setting(settings: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> str:
    parts = [
        f"{name}: {either(settings[name])}."
        for name in ("Data", "Partition", "Task", "Model", "Training", "Strategy")
        if settings.get(name)
    ]
    seeds = sorted({row["seed"] for row in rows})
    told = f"Seeds: {', '.join(map(str, seeds))} (pooled)." if len(seeds) > 1 else f"Seed: {seeds[0]}."
    cells = {row["cell"]: row["status"] for row in rows}
    done = sum(status == "finished" for status in cells.values())
    return f"{plural(len(cells), 'run')} of a federation, {done} of them finished. {' '.join(parts)} {told}"


def either(texts: Sequence[str]) -> str:
    """Return one text, or all that vary."""
    return " or ".join(texts)


def _defences(defended: Iterable[Defended]) -> str:
    strengths: dict[str, set[Defended]] = {}
    for one in defended:
        strengths.setdefault(one.series, set()).add(one)
    in_order = {
        series: [one.strength for one in sorted(ones, key=lambda one: one.order)]
        for series, ones in strengths.items()
    }
    told = [
        f"{series} ({values_of(found)})" if any(found) else series
        for series, found in in_order.items()
        if series != NO_DEFENSE
    ]
    return f"Defences, each beside none: {'; '.join(told)}." if told else ""


def values_of(strengths: Sequence[str]) -> str:
    """Return `p = 0.1, 0.5, 0.9` for strengths of one option."""
    options = {text.rpartition(" = ")[0] for text in strengths}
    if len(options) > 1 or any("," in text for text in strengths):
        return "; ".join(strengths)
    return f"{options.pop()} = {', '.join(text.rpartition(' = ')[2] for text in strengths)}"


def _adversary(
    settings: Mapping[str, Sequence[str]],
    rows: Sequence[Row],
    runs: Sequence[RunFolder],
    points: Sequence[Point],
) -> str:
    models = sorted({str(row["threat_model"]) for row in rows if row.get("threat_model")})
    if not models or not points:
        return ""
    granted = dict.fromkeys(name for run in runs for name, _ in privileges(run)[0])
    counts = sorted({point.n for point in points})
    images = (
        plural(counts[0], "image") if len(counts) == 1 else f"{counts[0]:,} to {plural(counts[-1], 'image')}"
    )
    attacks = listed(dict.fromkeys(_cited(row["attack"]) for row in rows if row.get("attack")))
    who = {point.attacker for point in points if point.defended.series != NO_DEFENSE}
    return (
        f"The server has threat model {listed(models)}: it is granted {listed(granted)}. By {attacks} it "
        f"reconstructed {images} at each strength{_as_whom(who)}. Attacks: "
        f"{either(settings.get('Attacks', ['–']))}. Captures: {either(settings.get('Captures', ['–']))}."
    )


def _as_whom(attackers: Collection[str]) -> str:
    ignores = "as an attacker who ignores the defence"
    knows = "one who knows the defence and its parameters, though not its random draws"
    if {"naive", "adaptive"} <= set(attackers):
        return f", twice: {ignores}, and as {knows}"
    if "adaptive" in attackers:
        return f", as {knows}"
    return f", {ignores}" if attackers else ""


def _cited(attack: str) -> str:
    """Return an attack with its paper."""
    paper = next((entry.paper for entry in ATTACKS if entry.name == attack), "")
    return f"{title(attack)} ({brief(paper)})" if paper else title(attack)


def _measure(curves: Sequence[Curve], quantile: float) -> str:
    text = (
        "Leakage is the structural similarity (Wang et al. 2004) of reconstruction and truth after the "
        "least-squares gain and offset. An image has leaked if it scores above the 99th percentile of "
        "guesses that saw no upload, and is the reconstruction's nearest neighbour among the client's own "
        "images. Attempts that stalled or diverged are counted; a failed attack counts as no leakage."
    )
    ones = [one for curve in curves for one in curve.thresholds]
    if not ones:
        return text
    bounds = sorted({round(one.bound, 4) for one in ones})
    bound = " to ".join(dict.fromkeys(number(value) for value in (bounds[0], bounds[-1])))
    return (
        f"{text} The smallest strength of a defence is the weakest tried at which the {quantile:g} quantile "
        "of the images' similarity, made monotone over strengths by pooling adjacent violators (Barlow et "
        f"al. 1972), is at most the bound of {bound}, that 99th percentile; n = {images_words(ones)} at each "
        "strength."
    )


def _statistics(thresholds: bool) -> str:
    text = (
        "Intervals are 95%: Wilson's for shares; for means the BCa bootstrap over clients "
        f"({RESAMPLES:,} resamples), over the clients of all seeds where these are pooled"
    )
    more = (
        f"; for smallest strengths and their curves the percentile bootstrap over clients ({DRAWS:,} draws)"
    )
    return f"{text}{more if thresholds else ''}."


def _software(rows: Sequence[Row]) -> str:
    versions = {str(row["versions"]) for row in rows if row.get("versions")}
    if not versions:
        return ""
    told = [
        ", ".join(f"{name} {value}" for name, value in json.loads(text).items()) for text in sorted(versions)
    ]
    return f"Software: {either(told)}."


def works(runs: Iterable[RunFolder], curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """Return the papers that the study stands on, with their addresses."""
    # Papers follow from the names in a scenario: each set of names is looked up once.
    some = {str(_names(run.scenario)): run for run in runs}
    cited = [work for run in some.values() for work in citations(run)]
    statistics = references(f"{THRESHOLDS}; {INTERVALS}" if curves else INTERVALS)
    return list(dict.fromkeys([*cited, *statistics]))


def _names(table: Any) -> list[Any]:
    """Return the names in a nested table, in order."""
    if isinstance(table, Mapping):
        own = [value for key, value in table.items() if key == "name"]
        return own + [name for value in table.values() for name in _names(value)]
    return [name for item in table for name in _names(item)] if isinstance(table, list) else []
