"""The committed picture: image success by ratio of signal to noise, a line for each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from benchmarks.mjolnir.measure import METHODS
from benchmarks.mjolnir.table import label, ordered, row_name
from fedsim.report.svg import data

RATIO = "signal to noise, ||g|| / (sigma sqrt(d))"
COLOURS = (
    *("#999999", "#c49c94", "#8c564b", "#e69f00", "#bcbd22", "#56b4e9"),
    *("#0072b2", "#7f7f7f", "#aec7e8", "#9edae5"),
    *("#d55e00", "#000000", "#cc79a7", "#009e73", "#2ca02c", "#98df8a", "#17becf", "#9467bd"),
)
"""In the order of METHODS; those that matter have Okabe & Ito's, which colour-blind people tell apart."""


def plot(runs: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw success with its interval by ratio, a panel for each data set, as PNG.

    Of what several runs measured the later counts; a method of another training is dashed.
    """
    measured = {
        (label(run), row_name(run, entry), entry["ratio"]): entry["figures"]["success"]
        for run in runs
        if not run["command"].get("gradients_only")
        for entry in run["settings"]
        if "ratio" in entry and "success" in entry["figures"]
    }
    points = [
        {
            **dict(zip(("data", "method", "ratio"), place, strict=True)),
            **{key: 100 * found[key] for key in ("share", "low", "high")},
        }
        for place, found in measured.items()
    ]
    shown = ordered({name for _, name, _ in measured})
    names = [name for _, name in shown]
    x = alt.X("ratio:Q", scale=alt.Scale(type="log", nice=False, padding=12), title=RATIO)
    color = alt.Color(
        "method:N",
        title=None,
        scale=alt.Scale(domain=names, range=[COLOURS[list(METHODS).index(method)] for method, _ in shown]),
        legend=alt.Legend(symbolOpacity=1, symbolType="circle"),
    )
    base = data(points).encode(x=x, color=color)
    share = alt.Y("share:Q", title="images found, %", scale=alt.Scale(domain=[0, 100]))
    dashes = alt.StrokeDash(
        "method:N",
        scale=alt.Scale(domain=names, range=[[1, 0] if method == name else [4, 3] for method, name in shown]),
        legend=None,
    )
    lines = base.mark_line(point=True).encode(y=share, strokeDash=dashes)
    bands = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
    panels = alt.layer(bands, lines).properties(width=330, height=240)
    chart = panels.facet(alt.Facet("data:N", title=None), columns=2)
    out.write_bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=2))
