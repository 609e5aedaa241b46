"""The page: one HTML file that needs nothing else, not even a script."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedsim.report import charts, gallery, leakcharts, settings, tables, words
from fedsim.report.citations import citations
from fedsim.report.folder import RunFolder, read_run
from fedsim.report.privileges import privileges

HERE = Path(__file__).parent
CELL = 84


def write_report(folder: Path) -> Path:
    """Write `report.html` from what lies in a run folder and return its path; an aborted run has a page too.

    Raises InputError if the folder is no run folder or a file in it is broken.
    """
    html = render(read_run(folder))
    target = folder / "report.html"
    partial = target.with_suffix(".partial")
    partial.write_text(html, encoding="utf-8")
    partial.replace(target)
    return target


def render(run: RunFolder) -> str:
    """Return the page of a run as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((HERE / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(style=style, **context(run))


def context(run: RunFolder) -> dict[str, Any]:
    """Return all that the template shows."""
    panels, samples = gallery.panels(run), gallery.samples(run)
    granted, denied = privileges(run)
    return {
        "run": run,
        "verdict": words.verdict(run),
        "figures": tables.figures(run),
        "panels": panels,
        "gradients": any(gallery.shows_gradients(panel) for panel in panels),
        "samples": samples,
        "cell": _cell_width([*panels, *([samples] if samples else [])]),
        "charts": {
            "accuracy": charts.accuracy(run),
            "loss": charts.loss(run),
            "sample_distance": charts.sample_distance(run),
            "labels": charts.labels(run),
            "leakage": leakcharts.leakage(run),
            "clients": leakcharts.by_client(run),
        },
        "settings": settings.what_was_run(run),
        "leakage": tables.leakage_rows(run),
        "promises": tables.promises(run),
        "baseline": run.summary.get("baseline") or {},
        "threat": run.summary.get("threat_model") or {},
        "granted": granted,
        "denied": denied,
        "client_failures": tables.client_failures(run),
        "attack_failures": tables.attack_failures(run),
        "unfinished": tables.unfinished(run),
        "cohorts": tables.cohorts(run),
        "max_clients": charts.MAX_CLIENTS,
        "max_classes": charts.MAX_CLASSES,
        "number": words.number,
        "plural": words.plural,
        "citations": citations(run),
    }


def _cell_width(panels: list[gallery.Panel]) -> int:
    """Return the width in pixels at which pictures are shown: a multiple of half of theirs, up to `CELL`."""
    widest = max((picture.size[0] for picture in gallery.pictures(panels)), default=CELL)
    return round(widest * max(1.0, 2 * CELL // widest / 2)) if widest <= CELL else CELL
