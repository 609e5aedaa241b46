"""Colours and shapes of a study's figures: told apart by colour-blind readers, on paper and in the dark."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from fedsim.report.svg import ACCENT, ADAPTIVE, INK, MUTED, NAIVE, PLAIN, RULE
from fedsim.studies.page.series import NO_DEFENSE

PAPER = "#080808"
SERIES = tuple(f"#0b0b0{place}" for place in range(8))
"""Each stands for the colour of a defence; like those of `fedsim.report.svg` Vega never shows them."""
LIGHT = ("#2353c4", "#6e4614", "#1a9a66", "#b5479b", "#83870a", "#204c55", "#8a2ba6", "#e8365a")
"""At least 3:1 on the page. Simulated for protan, deutan and tritan eyes (Machado et al. 2009) any two differ
by a CIE76 distance of 10 or more, of the first six by 19."""
DARK = ("#5f8fff", "#c9824b", "#93e8b8", "#da5f90", "#ecc42a", "#cfe6f4", "#d9a3ec", "#ee4a30")
ON_PAGE: Mapping[str, str] = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PLAIN: "var(--plain)",
    NAIVE: "var(--naive)",
    ADAPTIVE: "var(--adaptive)",
    ACCENT: "var(--accent)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{place})" for place, colour in enumerate(SERIES)},
}
"""On the page colours are the style sheet's, so that light, dark and print need one drawing."""
IN_PRINT: Mapping[str, str] = {
    INK: "#1c1b1a",
    MUTED: "#55514c",
    RULE: "#e5e1d9",
    PLAIN: "#5b5750",
    NAIVE: "#b06a00",
    ADAPTIVE: "#b3261e",
    ACCENT: "#1f5f8b",
    PAPER: "#ffffff",
    **dict(zip(SERIES, LIGHT, strict=True)),
}
SHAPES = ("square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
_PATHS = {
    "circle": "M8 2.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 1 1 0-11z",
    "square": "M3 3h10v10h-10z",
    "triangle-up": "M8 2.5l6 11h-12z",
    "triangle-down": "M8 13.5l6-11h-12z",
    "triangle-left": "M2.5 8l11-6v12z",
    "triangle-right": "M13.5 8l-11-6v12z",
    "diamond": "M8 1.5l5.5 6.5l-5.5 6.5l-5.5-6.5z",
    "cross": "M6 2h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
}


def colours(series: Sequence[str]) -> dict[str, str]:
    """Return the placeholder of each series' colour; beyond eight they come again with other shapes."""
    defended = [name for name in series if name != NO_DEFENSE]
    own = {name: SERIES[place % len(SERIES)] for place, name in enumerate(defended)}
    return {name: own.get(name, PLAIN) for name in series}


def shapes(series: Sequence[str]) -> dict[str, str]:
    """Return the mark of each series; the undefended is a circle."""
    defended = [name for name in series if name != NO_DEFENSE]
    own = {name: SHAPES[place % len(SHAPES)] for place, name in enumerate(defended)}
    return {name: own.get(name, "circle") for name in series}


def themed(text: str, colours_of: Mapping[str, str]) -> str:
    """Return a specification as JSON with its placeholders replaced."""
    for placeholder, colour in colours_of.items():
        text = text.replace(f'"{placeholder}"', f'"{colour}"')
    return text


def swatch(shape: str, colour: str) -> Markup:
    """Return a mark as inline SVG, for legends in HTML."""
    box = Markup('<svg class="swatch" viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">{}</svg>')
    return box.format(Markup('<path d="{}" fill="{}"/>').format(_PATHS[shape], ON_PAGE[colour]))


def variables() -> Markup:
    """Return the style sheet's variables of the series, light and dark."""
    rules = [
        ";".join(f"--series-{place}:{colour}" for place, colour in enumerate(scheme))
        for scheme in (LIGHT, DARK)
    ]
    light, dark = rules
    return Markup(f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}")
