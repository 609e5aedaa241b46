"""The figures for a paper: each as PNG, SVG and PDF in the folder `figures`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from fedsim.studies.page.figures import Figures, Plot
from fedsim.studies.page.look import config
from fedsim.studies.page.palette import IN_PRINT, themed

FOLDER = "figures"
FORMATS = ("png", "svg", "pdf")
WIDTH = 300
SCALE = 2
"""Pixels of the PNG for each unit of the drawing."""
SUBTITLES = {
    "tradeoff": [
        "Filled: the attacker knows the defence; hollow: ignores it. Larger: stronger. Bars: 95% intervals.",
        "Steps: what no other cell beats (solid: knows the defence; dashed: ignores it).",
    ],
    "strength": [
        "Points: 0.9 quantile of the images' SSIM. Lines: monotone fit with its 95% interval.",
        "Ringed: the smallest strength below the bound.",
    ],
    "rounds": ["Thicker: stronger. Of several seeds the mean, and a band from the least to the highest."],
}


def write_figures(figures: Figures, folder: Path) -> list[Path]:
    """Write every figure in every format and return the paths."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    found = []
    for name, plots in figures.table.items():
        svg = vl_convert.vegalite_to_svg(composed(name, plots, figures), vl_version=_version())
        contents = {
            "png": vl_convert.svg_to_png(svg, scale=SCALE),
            "svg": svg.encode(),
            "pdf": vl_convert.svg_to_pdf(svg),
        }
        for ending in FORMATS:
            path = place / f"{name}.{ending}"
            path.write_bytes(contents[ending])
            found.append(path)
    for path in {place / f"{name}.{ending}" for name in SUBTITLES for ending in FORMATS} - {*found}:
        path.unlink(missing_ok=True)  # an earlier page's, which this one does not show
    return found


def _version() -> str:
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def composed(name: str, plots: Sequence[Plot], figures: Figures) -> dict[str, Any]:
    """Return a figure's panels side by side, with data, legends and the colours of paper."""
    title = {
        "text": figures.titles[name],
        "subtitle": SUBTITLES[name],
        "anchor": "start",
        "fontSize": 16,
        "offset": 16,
    }
    spec = {
        "config": config("#ffffff"),
        "title": title,
        "concat": [_panel(plot, figures, alone=len(plots) == 1) for plot in plots],
        "columns": columns(len(plots)),
        "spacing": 28,
        "datasets": {
            f"{plot.key} {data}": rows for plot in plots for data, rows in plot.rows(figures.data).items()
        },
    }
    themed_spec: dict[str, Any] = json.loads(themed(json.dumps(spec), IN_PRINT))
    return themed_spec


def columns(panels: int) -> int:
    """Return how many panels stand in a row: so many that rows are whole, if three or four do it."""
    if panels in (2, 4):
        return 2
    return 4 if panels % 4 == 0 else 3


def _panel(plot: Plot, figures: Figures, *, alone: bool) -> Any:
    spec = _renamed(figures.specifications[plot.like], plot.key)
    return {**spec, "width": WIDTH * (2 if alone else 1), **({"title": plot.title} if plot.title else {})}


def _renamed(spec: Any, key: str) -> Any:
    """Return a specification whose data are those of one plot: in a figure several stand side by side."""
    if isinstance(spec, list):
        return [_renamed(part, key) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {
        name: {"name": f"{key} {part['name']}"} if name == "data" else _renamed(part, key)
        for name, part in spec.items()
    }
