"""What the page carries for its script: data and plots as JSON, and Vega-Lite itself."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from fedsim.studies.page.figures import Figures
from fedsim.studies.page.look import config
from fedsim.studies.page.palette import ON_PAGE, themed

DIGITS = 5
ENTRY = "window.vegaEmbed = vegaEmbed;"
Rows = Sequence[Mapping[str, Any]]


def columns(rows: Rows, digits: int | None = None) -> dict[str, Any]:
    """Return rows as columns: a list of values, or `{"all": value}` where they are all alike."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = {}
    for name in names:
        values = [_plain(row.get(name), digits) for row in rows]
        alike = all(value == values[0] and type(value) is type(values[0]) for value in values)
        found[name] = {"all": values[0]} if alike else values
    return {"size": len(rows), "columns": found}


def _plain(value: Any, digits: int | None) -> Any:
    """Return a value that JSON has; what is not finite is null, as JavaScript's JSON knows no other."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return float(f"{value:.{digits}g}") if digits else value
    return value


def script_json(value: Any) -> Markup:
    """Return JSON for a script element: no text in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def plots_json(figures: Figures) -> Markup:
    """Return each kind of plot, as wide as its container, and which data every plot shows."""
    specs = {
        like: {**_without_legends(spec), "width": "container"}
        for like, spec in figures.specifications.items()
    }
    plots = {
        plot.key: {"like": plot.like, "match": plot.match}
        for found in figures.table.values()
        for plot in found
    }
    # Colours are replaced in text: no name of the user's can look like one, as they are quoted whole.
    content = script_json({"config": config(), "specs": specs, "plots": plots})
    return Markup(themed(str(content), ON_PAGE))


def _without_legends(spec: Any) -> Any:
    if isinstance(spec, list):
        return [_without_legends(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {name: None if name == "legend" else _without_legends(part) for name, part in spec.items()}


@lru_cache(maxsize=1)
def library() -> Markup:
    """Return Vega, Vega-Lite and vega-embed as one script, of the version that altair writes for."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    known = version in vl_convert.get_vegalite_versions()
    return _script(vl_convert.javascript_bundle(ENTRY, version if known else None))


@lru_cache(maxsize=1)
def program() -> Markup:
    """Return the page's own script."""
    return _script((Path(__file__).parent / "page.js").read_text(encoding="utf-8"))


def _script(text: str) -> Markup:
    """Return a script that no text in it can end: both marks can only stand in strings and patterns."""
    return Markup(re.sub(r"</(script)", r"<\\/\1", text, flags=re.IGNORECASE).replace("<!--", r"<\!--"))


def policy(scripts: Sequence[str]) -> str:
    """Return a content security policy: these scripts run and no other, and nothing is loaded from anywhere.

    `unsafe-eval` is Vega's, which compiles the expressions of its specifications.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes} 'unsafe-eval'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
