"""The committed picture: image success by ratio of signal to noise, a line for each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert


def plot(runs: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw success with its interval by ratio, a panel for each data set, as PNG."""
    points = [
        {
            "data": run["data"]["name"],
            "method": entry["rows"]["method"],
            "ratio": entry["ratio"],
            **{key: 100 * entry["figures"]["success"][key] for key in ("share", "low", "high")},
        }
        for run in runs
        for entry in run["settings"]
        if "ratio" in entry and "success" in entry["figures"]
    ]
    x = alt.X("ratio:Q", scale=alt.Scale(type="log"), title="signal to noise, ||g|| / (sigma sqrt(d))")
    base = alt.Chart(alt.Data(values=points)).encode(x=x, color=alt.Color("method:N", title=None))
    lines = base.mark_line(point=True).encode(y=alt.Y("share:Q", title="images found, %"))
    bands = base.mark_rule(opacity=0.4).encode(y="low:Q", y2="high:Q")
    chart = alt.layer(bands, lines).properties(width=330, height=240).facet("data:N", columns=2)
    out.write_bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=2))
