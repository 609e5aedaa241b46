"""The plots: each a function of its data, which the page hands in by name and the figures as values."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from fedsim.report.svg import INK, MUTED
from fedsim.studies.page.look import (
    ATTACKER_COLOURS,
    ATTACKER_DASHES,
    ATTACKER_SHAPES,
    SSIM,
    WHO,
    Chart,
    Look,
    attacker,
    by_attacker,
)
from fedsim.studies.page.palette import PAPER
from fedsim.studies.page.series import NO_DEFENSE

KNOWS = f"datum.who === '{WHO['adaptive']}'"
TOLD = {"series": "Defence", "strength": "Strength", "who": "Attacker"}


def tradeoff(data: Any, look: Look) -> Chart:
    """Return accuracy against leakage: a mark for each defence, strength and attacker, and the front."""
    x = look.leakage_axis((f"leakage: mean {SSIM[0]}", SSIM[1]))
    y = look.quality_axis("quality:Q", look.quality.title.lower(), look.final)
    base = alt.Chart(data).encode(x=x, y=y)
    colour = look.defence(alt.Color, look.colours())
    told = {"told_leakage": "Mean SSIM", "leaked": "Leaked", "told_quality": look.quality.title}
    tips = _tips({**TOLD, **told, "told_n": "Images, seeds"})
    rules = base.mark_rule(strokeWidth=1.5, opacity=0.55)
    joined = base.transform_filter(f"datum.series !== '{NO_DEFENSE}'").mark_line(strokeWidth=1, opacity=0.35)
    marks = base.mark_point(opacity=1, strokeWidth=1.8)
    return alt.layer(
        *_guess(data, x),
        joined.encode(color=colour, detail="line:N", order="rank:Q"),
        _front(base),
        rules.encode(x="low:Q", x2="high:Q", color=colour),
        rules.encode(y="quality_low:Q", y2="quality_high:Q", color=colour),
        marks.encode(
            stroke=look.defence(alt.Stroke, look.colours()),
            fill=alt.condition(
                KNOWS, alt.Fill("series:N", scale=look.colours(), legend=None), alt.value(PAPER)
            ),
            shape=look.defence(alt.Shape, look.shapes()),
            size=alt.Size("rank:Q", scale=alt.Scale(domain=[0, 1], range=[55, 190]), legend=None),
            tooltip=tips,
        ),
    )


def _front(base: Chart) -> Chart:
    """Return the steps between the cells shown that no other shown beats, for each attacker.

    It is `front` in Vega's words, so that it follows the filters: what gains more than all that leak no more.
    """
    order = [alt.SortField("leakage"), alt.SortField("gain", order="descending")]
    best = (
        base.transform_window(
            best="max(gain)", frame=[None, 0], ignorePeers=True, sort=order, groupby=["who"]
        )
        .transform_window(before="lag(best)", sort=order, groupby=["who"])
        .transform_filter("!isValid(datum.before) || datum.gain > datum.before")
    )
    dashes = alt.StrokeDash("who:N", scale=by_attacker(ATTACKER_DASHES), legend=None)
    line = best.mark_line(interpolate="step-after", color=INK, strokeWidth=1.4, opacity=0.8)
    return line.encode(strokeDash=dashes, order="leakage:Q")


def _guess(data: Any, x: Any) -> list[Chart]:
    """Return a rule where an attacker stands who saw no upload."""
    mean = (
        alt.Chart(data).transform_aggregate(leakage="mean(blind)").transform_filter("isValid(datum.leakage)")
    )
    text = alt.value("guess without upload")
    return [
        mean.mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x=x),
        mean.mark_text(color=MUTED, fontSize=11, align="left", baseline="top", dx=4).encode(
            x=x, y=alt.value(0), text=text
        ),
    ]


def strength(data: Any, look: Look, labels: Sequence[str], title: str) -> Chart:
    """Return the leakage of the most leaked tenth against strength: measured, fitted, and its interval."""
    scale = alt.Scale(domain=list(labels))
    x = alt.X("at:N", title=title, sort=None, scale=scale, axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = look.leakage_axis(SSIM, alt.Y, "fitted:Q")
    base = alt.Chart(data).encode(x=x)
    colour = attacker(alt.Color, ATTACKER_COLOURS)
    shape = attacker(alt.Shape, ATTACKER_SHAPES)
    dash = alt.StrokeDash("who:N", scale=by_attacker(ATTACKER_DASHES), legend=None)
    told = {"told_measured": "Measured", "told_fitted": "Fitted", "told_bound": "Bound"}
    tips = _tips({**TOLD, **told, "told_n": "Images, seeds"})
    colours = by_attacker(ATTACKER_COLOURS)
    fill = alt.Fill("who:N", scale=colours, legend=None)
    chosen = base.transform_filter("datum.threshold")
    return alt.layer(
        base.mark_area(opacity=0.16).encode(y=alt.Y("low:Q"), y2="high:Q", color=colour),
        *_bound(data, y),
        base.mark_line(strokeWidth=2).encode(y=y, color=colour, strokeDash=dash),
        chosen.mark_rule(strokeWidth=1, strokeDash=[1, 3]).encode(y=y, color=colour),
        base.mark_point(size=60, opacity=1, strokeWidth=1.8).encode(
            y="measured:Q",
            stroke=alt.Stroke("who:N", scale=colours, legend=None),
            fill=alt.condition(KNOWS, fill, alt.value(PAPER)),
            shape=shape,
            tooltip=tips,
        ),
        chosen.mark_point(shape="circle", size=330, color=INK, strokeWidth=2, opacity=1).encode(y=y),
    )


def _bound(data: Any, y: Any) -> list[Chart]:
    bound = (
        alt.Chart(data)
        .transform_aggregate(fitted="max(bound)")
        .transform_filter("isValid(datum.fitted)")
        .transform_calculate(text="'bound ' + format(datum.fitted, '.2f')")
    )
    text = bound.mark_text(color=MUTED, fontSize=11, align="right", baseline="bottom", dy=-3)
    return [
        bound.mark_rule(color=MUTED, strokeDash=[4, 4]).encode(y=y),
        text.encode(y=y, x=alt.value("width"), text="text:N"),
    ]


def rounds(data: Any, ends: Any, look: Look, last: int) -> Chart:
    """Return accuracy by round, a line for each strength, named at its end."""
    scale = alt.Scale(domain=[0, last], nice=False)
    ticks = alt.Axis(grid=False, tickMinStep=1, tickCount=4)
    x = alt.X("round:Q", title="round", axis=ticks, scale=scale)
    y = look.quality_axis("quality:Q", None, look.learning)
    colour = alt.Color("series:N", scale=look.colours(), legend=None)
    opacity = alt.Opacity("rank:Q", scale=alt.Scale(domain=[0, 1], range=[0.45, 1]), legend=None)
    width = alt.StrokeWidth("rank:Q", scale=alt.Scale(domain=[0, 1], range=[1.2, 2.8]), legend=None)
    told = {"series": "Defence", "strength": "Strength", "round": "Round"}
    tips = _tips({**told, "told_quality": look.quality.title, "seeds": "Seeds"})
    base = alt.Chart(data).encode(x=x, y=y, color=colour, detail=["series:N", "strength:N"])
    shape, label = look.defence(alt.Shape, look.shapes()), look.quality_axis("label:Q", None, look.learning)
    end = alt.Chart(ends).encode(x=x)
    mark = end.encode(color=colour, shape=shape)
    return alt.layer(
        base.transform_filter("datum.seeds > 1")
        .mark_area(opacity=0.1)
        .encode(y=look.quality_axis("quality_low:Q", None, look.learning), y2="quality_high:Q"),
        base.mark_line().encode(opacity=opacity, strokeWidth=width),
        base.mark_point(filled=True, size=28, opacity=0).encode(tooltip=tips),
        mark.mark_point(filled=True, size=45, opacity=1).encode(y=y),
        # Beside its name again: names of lines that end together stand apart.
        mark.mark_point(filled=True, size=25, opacity=1, xOffset=12).encode(y=label),
        end.mark_text(color=INK, align="left", dx=20, fontSize=11).encode(y=label, text="name:N"),
    )


def _tips(names: dict[str, str]) -> list[Any]:
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in names.items()]
