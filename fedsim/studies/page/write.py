"""From a study's folder to `study.html` and its figures."""

import json
from dataclasses import asdict
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedsim.errors import InputError
from fedsim.report import page as report
from fedsim.studies.page import context, embed, palette
from fedsim.studies.page.content import About, Content, read_content
from fedsim.studies.page.export import write_figures
from fedsim.studies.table import RESULTS

PAGE = "study.html"
ABOUT = "study.json"
HERE = Path(__file__).parent


def write_page(folder: Path, *, name: str = "", about: str = "") -> Path:
    """Write `study.html` and `figures/` from a study's folder and return the page's path.

    `name` and `about` are remembered for the next time. Raises InputError where there is no table of a study.
    """
    if not (folder / RESULTS).is_file():
        raise InputError(f"{folder}: no {RESULTS}; allowed: a folder that `fedsim study` wrote")
    told = _about(folder, About(name, about) if name else None)
    content = read_content(folder)
    write_figures(content.figures, folder)
    target = folder / PAGE
    partial = target.with_suffix(".partial")
    partial.write_text(render(content, told), encoding="utf-8")
    partial.replace(target)
    return target


def _about(folder: Path, given: About | None) -> About:
    """Return name and purpose of the study: as given, and then written down, or as they were."""
    path = folder / ABOUT
    if given is not None:
        path.write_text(json.dumps(asdict(given), indent=2) + "\n", encoding="utf-8")
        return given
    if not path.is_file():
        return About(folder.resolve().name)
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return About(str(known["name"]), str(known.get("about", "")))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not name and about of a study ({error})") from None


def render(content: Content, about: About) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    library, program = embed.library(), embed.program()
    style = (report.HERE / "style.css", HERE / "style.css")
    return environment.get_template("page.html").render(
        about=about,
        style=Markup("\n").join(Markup(path.read_text(encoding="utf-8")) for path in style),
        variables=palette.variables(),
        policy=embed.policy([library, program]),
        library=library,
        program=program,
        data=embed.script_json(context.data_of(content, about)),
        plots=embed.plots_json(content.figures),
        **context.answers_of(content),
        **context.evidence_of(content),
    )
