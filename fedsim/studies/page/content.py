"""All that is read off a study's folder before it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.studies.page.figures import Figures, figures_of
from fedsim.studies.page.layout import Layout
from fedsim.studies.page.points import Point, Quality, points_of, quality_of
from fedsim.studies.page.rounds import lines_of
from fedsim.studies.page.series import Defences
from fedsim.studies.page.steps import Curve, curves_of
from fedsim.studies.page.store import Store
from fedsim.studies.table import judged, read_table, single_step
from fedsim.studies.threshold import thresholds

Row = Mapping[str, Any]


@dataclass(frozen=True)
class About:
    """What the table does not hold of a study."""

    name: str
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that is read off a study before it is shown."""

    rows: Sequence[Row]
    store: Store
    layout: Layout
    defences: Defences
    quality: Quality
    points: Sequence[Point]
    curves: Sequence[Curve]
    figures: Figures


def read_content(folder: Path) -> Content:
    """Read a study's table and cells."""
    rows = judged(read_table(folder))
    store = Store(folder)
    layout, defences, quality = Layout(rows), Defences(rows), quality_of(rows)
    points = points_of(rows, store, layout, defences, quality)
    # Without a blind baseline (no test images) there is no bound to be below.
    bounded = [row for row in rows if row.get("blind_ssim_affine_p99") is not None]
    curves = curves_of(thresholds(bounded, folder), bounded, store, layout, defences)
    lines = lines_of([row for row in rows if not single_step(row)], store, layout, defences, quality)
    return Content(
        rows=rows,
        store=store,
        layout=layout,
        defences=defences,
        quality=quality,
        points=points,
        curves=curves,
        figures=figures_of(points, curves, lines, layout, quality),
    )
