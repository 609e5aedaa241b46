"""What the template shows, and what the page's script works on."""

import json
from collections.abc import Mapping
from typing import Any

import fedsim
from fedsim.report.words import plural
from fedsim.studies.page import (
    concerns,
    embed,
    methods,
    palette,
    pictures,
    promises,
    sentences,
    tables,
    verdict,
)
from fedsim.studies.page.content import About, Content
from fedsim.studies.page.export import FOLDER, FORMATS
from fedsim.studies.page.words import name_of
from fedsim.studies.threshold import Threshold

Row = Mapping[str, Any]


def data_of(content: Content, about: About) -> dict[str, Any]:
    """Return what the script filters, plots and hands out as CSV: each row once."""
    layout, sets = content.layout, content.figures.data
    return {
        "name": about.name,
        "panels": [dict(panel.factors) for panel in layout.panels],
        "places": [dict(panel.factors) for panel in layout.places],
        "sets": {name: embed.columns(rows, embed.DIGITS) for name, rows in sets.items()},
        "tables": {
            "rows": embed.columns(content.rows),
            "thresholds": embed.columns(
                [_csv_threshold(one) for curve in content.curves for one in curve.thresholds]
            ),
        },
    }


def _csv_threshold(one: Threshold) -> dict[str, Any]:
    """Return a threshold's own columns, with those of its setting before them."""
    kept = {
        key: json.dumps(value) if isinstance(value, list | tuple) else value
        for key, value in one.as_dict().items()
        if key != "setting"
    }
    return {**one.setting, **kept}


def answers_of(content: Content) -> dict[str, Any]:
    """Return the first screen."""
    points, curves, quality = content.points, content.curves, content.quality
    series = content.figures.look.series
    colours, shapes = palette.colours(series), palette.shapes(series)
    return {
        "verdict": verdict.verdict(curves, points, quality, content.rows),
        "answers": sentences.answers(curves, points, quality),
        "undefended": verdict.without_defense(points, quality) if points else "",
        "untaught": verdict.untaught(content.rows),
        "criterion": verdict.criterion(curves),
        "swatches": {name: palette.swatch(shapes[name], colours[name]) for name in series},
        "names": {name: name_of(name) for name in series},
        "factors": content.layout.factors,
        "quality": quality,
        "seeds": sorted({row["seed"] for row in content.rows}),
    }


def evidence_of(content: Content) -> dict[str, Any]:
    """Return figures, pictures, tables and methods."""
    rows, layout, defences, quality = content.rows, content.layout, content.defences, content.quality
    finished = dict.fromkeys(row["cell"] for row in rows if row["status"] == "finished")
    runs = [content.store.run(cell) for cell in finished]
    albums, left_out = pictures.albums(content.points, layout.panels, content.store)
    return {
        "figures": content.figures.table,
        "folder": FOLDER,
        "formats": FORMATS,
        "albums": albums,
        "left_out": left_out,
        "thresholds": tables.threshold_table(content.curves, content.points, layout, quality),
        "table": tables.row_table(rows, layout, defences, quality),
        "attacked": bool(content.points),
        "promises": promises.promise_table(content.points, layout, rows, defences, quality),
        "unfinished": concerns.unfinished(rows, layout, defences),
        "cautions": concerns.cautions(rows, defences),
        "methods": methods.paragraphs(rows, runs, content.points, content.curves, defences),
        "works": methods.works(runs, content.curves),
        "cells": len({row["cell"] for row in rows}),
        "version": fedsim.__version__,
        "plural": plural,
    }
