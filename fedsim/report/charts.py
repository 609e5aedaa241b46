"""The charts of the federation: each a function of the run and a width, and its description in words."""

from dataclasses import dataclass
from itertools import count

import altair as alt
from markupsafe import Markup

from fedsim.report import svg
from fedsim.report.folder import Row, RunFolder
from fedsim.report.words import percent, plural

MAX_CLIENTS = 50
MAX_CLASSES = 20
PERCENT = alt.Axis(format=".0%", tickCount=5)


def accuracy(run: RunFolder) -> Markup | None:
    """Return test accuracy by round, with a mark at each round that was captured; None without accuracies."""
    scale = alt.Scale(domain=[0, 1])
    return _by_round(run, Curve("accuracy", "Test accuracy", ".1%", PERCENT, scale, highest=True))


def loss(run: RunFolder) -> Markup | None:
    """Return the held-out loss by round; None where there is an accuracy, which says more, or no loss."""
    if any(row.get("accuracy") is not None for row in run.rounds):
        return None
    return _by_round(run, Curve("loss", "Held-out loss", ".3f", alt.Axis(tickCount=5), alt.Scale()))


def sample_distance(run: RunFolder) -> Markup | None:
    """Return the distance of samples to held-out images by round; None where none were drawn."""
    values = [float(row["sample_distance"]) for row in run.rounds if row.get("sample_distance") is not None]
    ticks = _ticks(max(values, default=1.0))
    axis = alt.Axis(values=ticks, format=".2~f")
    scale = alt.Scale(type="symlog", domain=[min([0.0, *values]), ticks[-1]], nice=False)
    return _by_round(run, Curve("sample_distance", "Sample distance", ".3g", axis, scale))


def _ticks(highest: float) -> list[float]:
    """Return 0, 1, 3, 10 and so on (0, .1, .3 below 1), up to the first that is not below `highest`."""
    steps = (first * 10.0**power for power in count(-1 if highest <= 1 else 0) for first in (1, 3))
    ticks = [0.0, next(steps)]
    while ticks[-1] < highest:
        ticks.append(next(steps))
    return ticks


@dataclass(frozen=True)
class Curve:
    """A figure of rounds.jsonl, and how it is drawn."""

    key: str
    title: str
    format: str
    axis: alt.Axis
    scale: alt.Scale
    highest: bool = False
    """Whether more is better."""

    def words(self, value: float) -> str:
        """Return a value of the curve as text."""
        return format(value, self.format)


def _by_round(run: RunFolder, curve: Curve) -> Markup | None:
    points = [
        {"round": row["round"], "value": row[curve.key]}
        for row in run.rounds
        if row.get(curve.key) is not None
    ]
    if len(points) < 2:
        return None
    marks = [{"round": row["round"]} for row in run.rounds if row.get("captured")]
    first, last = points[0], points[-1]
    best = (max if curve.highest else min)(points, key=lambda point: float(point["value"]))
    words = (
        f"{curve.title} by round: {curve.words(first['value'])} in round {first['round']}, "
        f"{curve.words(last['value'])} in round {last['round']}, "
        f"{'highest' if curve.highest else 'lowest'} {curve.words(best['value'])} in round {best['round']}."
    )
    return svg.figure(lambda width: _curve_chart(curve, points, marks, width), words)


def _curve_chart(curve: Curve, points: list[Row], marks: list[Row], width: int) -> svg.Chart:
    ticks = alt.Axis(grid=False, tickMinStep=1, tickCount=min(10, width // 50))
    x = alt.X("round:Q", title="round", axis=ticks, scale=alt.Scale(nice=False))
    y = alt.Y("value:Q", title=None, axis=curve.axis, scale=curve.scale)
    base = svg.data(points).encode(x=x, y=y)
    end = svg.data(points[-1:]).encode(x=x, y=y)
    layers = [
        base.mark_line(color=svg.ACCENT, strokeWidth=2.5, point=False),
        end.mark_point(color=svg.ACCENT, filled=True, size=60, opacity=1),
        end.mark_text(color=svg.INK, dx=9, align="left", fontSize=14, fontWeight=600).encode(
            text=alt.Text("value:Q", format=curve.format)
        ),
    ]
    if marks:
        rug = svg.data(marks).mark_tick(
            color=svg.ADAPTIVE, orient="vertical", height=10, thickness=2, yOffset=-5
        )
        layers.append(rug.encode(x=x, y=alt.datum(0)))
    return alt.layer(*layers).properties(width=width - 100, height=220)


def labels(run: RunFolder) -> Markup | None:
    """Return how labels lie with clients: a heat map of shares, and each client's number of examples."""
    counts = [list(map(int, row)) for row in run.clients.get("counts") or []]
    if not counts or not counts[0]:
        return None
    names = run.classes if len(run.classes) == len(counts[0]) else [str(i) for i in range(len(counts[0]))]
    order = sorted(range(len(names)), key=lambda c: -sum(row[c] for row in counts))[:MAX_CLASSES]
    kept = sorted(order)
    cells = [
        {"client": client, "label": names[c], "share": row[c] / max(sum(row), 1)}
        for client, row in enumerate(counts[:MAX_CLIENTS])
        for c in kept
    ]
    sizes = [{"client": client, "examples": sum(row)} for client, row in enumerate(counts[:MAX_CLIENTS])]
    totals = [sum(row) for row in counts]
    modes = [max(row) / max(sum(row), 1) for row in counts]
    words = (
        f"Labels by client: {plural(len(counts), 'client')}, {min(totals):,} to {max(totals):,} examples "
        f"each; a client's most frequent label is {percent(sum(modes) / len(modes))} of them on average."
    )
    return svg.figure(lambda width: _labels_chart(cells, sizes, [names[c] for c in kept], width), words)


def _labels_chart(cells: list[Row], sizes: list[Row], names: list[str], width: int) -> svg.Chart:
    wide = width == svg.WIDE
    height = min(22, max(8, 440 // len(sizes))) * len(sizes)
    bars = 120 if wide else 50
    every = max(1, len(sizes) // 25)
    y = alt.Y(
        "client:O",
        title="client",
        axis=alt.Axis(values=list(range(0, len(sizes), every)), titleAngle=0, titleAlign="right", titleY=-8),
    )
    heat = (
        svg.data(cells)
        .mark_rect(color=svg.ACCENT, stroke=svg.PAPER, strokeWidth=1)
        .encode(
            x=alt.X(
                "label:N",
                sort=names,
                title=None,
                axis=alt.Axis(labelAngle=-40, labelLimit=100, orient="bottom"),
            ),
            y=y,
            opacity=alt.Opacity("share:Q", scale=_shades(), legend=None),
        )
        .properties(width=width - bars - 110, height=height)
    )
    size = (
        svg.data(sizes)
        .mark_bar(color=svg.MUTED, height={"band": 0.6})
        .encode(
            x=alt.X("examples:Q", title="examples", axis=alt.Axis(grid=False, tickCount=2, format="~s")),
            y=alt.Y("client:O", axis=None),
        )
        .properties(width=bars, height=height)
    )
    return alt.hconcat(heat, size, spacing=12)


def _shades() -> alt.Scale:
    """Return opacities that tell a tenth from a fifth, and make equal shares look equal."""
    return alt.Scale(type="sqrt", domain=[0, 1], range=[0.03, 1])
