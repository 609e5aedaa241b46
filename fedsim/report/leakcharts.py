"""The charts of what leaked: each a function of the run and a width, and its description in words."""

from typing import Any

import altair as alt
from markupsafe import Markup

from fedsim.report import svg
from fedsim.report.charts import MAX_CLIENTS
from fedsim.report.folder import Row, RunFolder
from fedsim.report.words import attacker, number, ordered, plural, title

KINDS = {
    "no defence": svg.PLAIN,
    "ignores the defence": svg.NAIVE,
    "adapts to the defence": svg.ADAPTIVE,
}
MAX_DOTS = 5000
WIDE_LETTER = 8.5
"""Pixels that a letter of a label takes in a wide font, such as DejaVu Sans."""
SSIM = "SSIM after the best brightness fit"


def leakage(run: RunFolder) -> Markup | None:
    """Return every image's score as a dot, with mean and interval, one line per row of the table."""
    rows = [row for row in ordered(run.leakage) if (row.get("ssim_affine") or {}).get("mean") is not None]
    if not rows:
        return None
    means = [_mean(row) for row in rows]
    dots = [_named(s) | {"score": s["ssim_affine"]} for s in run.scores if s.get("ssim_affine") is not None]
    p99 = (run.summary.get("baseline") or {}).get("ssim_affine_p99")
    values = [f"{m['row']}: {number(m['score'])} ({number(m['low'])} to {number(m['high'])})" for m in means]
    words = f"{SSIM}, mean and 95% interval. {'; '.join(values)}."
    words += f" The blind baseline's 99th percentile is {number(p99)}." if p99 is not None else ""
    return svg.figure(lambda width: _leakage_chart(means, dots[:MAX_DOTS], p99, width), words)


def _named(row: Row) -> Row:
    kind = attacker(bool(row.get("adaptive")), row["defense"])
    who = "adaptive · " if row.get("adaptive") else "naive · "
    name = "· no defence" if row["defense"] == "none" else who + row["defense"]
    return {"row": f"{title(row['attack'])} {name}", "kind": kind}


def _mean(row: Row) -> Row:
    estimate = row["ssim_affine"]
    mean = estimate["mean"]
    low, high = estimate.get("low"), estimate.get("high")
    return _named(row) | {
        "score": mean,
        "low": mean if low is None else low,
        "high": mean if high is None else high,
    }


def _leakage_chart(means: list[Row], dots: list[Row], p99: float | None, width: int) -> svg.Chart:
    wide = width == svg.WIDE
    names = list(dict.fromkeys(mean["row"] for mean in means))
    floor = min([0.0, *(dot["score"] for dot in dots), *(mean["low"] for mean in means)])
    axis = alt.Axis(format=".1f", tickCount=6 if wide else 4)
    x = alt.X("score:Q", title=SSIM, axis=axis, scale=alt.Scale(domain=[floor, 1]))
    y = alt.Y("row:N", sort=names, title=None, axis=_beside(names) if wide else _above())
    color = alt.Color("kind:N", scale=alt.Scale(domain=list(KINDS), range=list(KINDS.values())), legend=None)
    base = svg.data(means).encode(y=y, color=color)
    layers: list[Any] = [
        *_threshold(p99, x),
        svg.data(dots).mark_circle(size=36, opacity=0.3).encode(x=x, y=y, color=color),
        base.mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q"),
        base.mark_point(filled=True, size=120, opacity=1, stroke=svg.PAPER, strokeWidth=1.5).encode(x=x),
    ]
    return _size(alt.layer(*layers), width - (340 if wide else 24), len(names) * (40 if wide else 56))


def _threshold(p99: float | None, x: alt.X) -> list[Any]:
    if p99 is None:
        return []
    rule = svg.data([{"score": p99, "text": "blind guess, 99th percentile"}]).encode(x=x)
    label = rule.mark_text(color=svg.MUTED, align="center", baseline="bottom", fontSize=11)
    return [
        rule.mark_rule(color=svg.MUTED, strokeDash=[4, 4]),
        label.encode(y=alt.value(-4), text="text:N"),
    ]


def _beside(names: list[str]) -> alt.Axis:
    """Return an axis with room for its labels in a reader's wide font, which Vega does not measure by."""
    room = min(320, WIDE_LETTER * max(map(len, names)))
    return alt.Axis(labelLimit=280, minExtent=room, labelColor=svg.INK, labelFontSize=13)


def _above() -> alt.Axis:
    """Return an axis whose labels stand above their rows: beside them a phone has no room."""
    return alt.Axis(
        labelAlign="left",
        labelBaseline="bottom",
        labelPadding=0,
        labelOffset=-10,
        labelColor=svg.INK,
        labelFontSize=13,
        labelLimit=310,
    )


def by_client(run: RunFolder) -> list[tuple[str, Markup]]:
    """Return, per defence, the most leaked image of each upload under its strongest attacker."""
    worst: dict[str, dict[tuple[int, str], float]] = {}
    for score in run.scores:
        if score.get("ssim_affine") is None or score.get("round") is None:
            continue
        client = "sum" if score.get("client") is None else str(score["client"])
        cells = worst.setdefault(score["defense"], {})
        place = score["round"], client
        cells[place] = max(cells.get(place, -1.0), score["ssim_affine"])
    order = sorted(worst, key=lambda defense: (defense != "none", defense))
    return [("No defence" if name == "none" else name, _clients_figure(worst[name])) for name in order]


def _clients_figure(worst: dict[tuple[int, str], float]) -> Markup:
    (round_, client), top = max(worst.items(), key=lambda item: item[1])
    words = (
        f"The most leaked image of each of {plural(len(worst), 'upload')} under its strongest attacker: "
        f"highest for client {client} in round {round_}, {SSIM} {number(top)}."
    )
    order = sorted({c for _, c in worst}, key=lambda c: (not c.isdigit(), int(c) if c.isdigit() else 0))
    order = order[:MAX_CLIENTS]
    cells = [{"round": r, "client": c, "score": score} for (r, c), score in worst.items() if c in order]
    return svg.figure(lambda width: _clients_chart(cells, order, width), words)


def _clients_chart(cells: list[Row], order: list[str], width: int) -> svg.Chart:
    rounds = len({cell["round"] for cell in cells})
    column = min(56, (width - 70) // len(order))
    base = svg.data(cells).encode(
        x=alt.X("client:O", sort=order, title="client", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("round:O", title="round", axis=_title_on_top()),
    )
    # At most 55% opaque, so that the text on it stands out, light and dark.
    scale = alt.Scale(domain=[0, 1], range=[0.05, 0.55], clamp=True)
    shade = alt.Opacity("score:Q", scale=scale, legend=None)
    layers: list[Any] = [
        base.mark_rect(color=svg.ADAPTIVE, stroke=svg.PAPER, strokeWidth=1).encode(opacity=shade)
    ]
    if column >= 30:
        text = base.mark_text(color=svg.INK, fontSize=11)
        layers.append(text.encode(text=alt.Text("score:Q", format=".2f")))
    height = min(32, max(6, 480 // rounds))
    return _size(alt.layer(*layers), column * len(order), height * rounds)


def _size(chart: Any, width: int, height: int) -> svg.Chart:
    sized: svg.Chart = chart.properties(width=width, height=height)
    return sized


def _title_on_top() -> alt.Axis:
    return alt.Axis(labelOverlap=True, titleAngle=0, titleAlign="right", titleY=-8)
