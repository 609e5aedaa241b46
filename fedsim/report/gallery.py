"""Truth beside reconstruction: an image stays in its column; one row per attack, defence and attacker."""

import base64
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedsim.report.folder import Row, RunFolder
from fedsim.report.words import attacker, title

COLUMNS = 10
"""Images side by side in one strip."""
STRIPS = 5
"""Strips shown per panel; the page says how many images it leaves out."""
SAMPLED = 12
"""About so many rounds of samples are shown."""

Column = tuple[int, int, int]
"""Which image: round, client (-1 for an aggregate), position in the batch."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a strip: its PNG and what is said of it."""

    png: bytes
    text: str
    caption: str
    leaked: bool = False

    @property
    def uri(self) -> str:
        """Return the picture as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels, read from the PNG's header."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of a strip: what it shows, and a picture per column (None where there is none)."""

    title: str
    details: list[str]
    pictures: list[Picture | None]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Columns of images: the truth on top, the reconstructions below."""

    heads: list[str]
    lines: list[Line]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """All strips of one set of images: a cohort of clients, or one batch under several defences."""

    title: str
    shared: bool
    """Whether several defences share the images, so that each row must name its own."""
    strips: list[Strip]
    left_out: int


def panels(run: RunFolder) -> list[Panel]:
    """Return the panels of a run, the undefended first; defences that share their images share a panel."""
    by_defense: dict[str, dict[Column, list[Row]]] = {}
    for score in run.scores:
        if score.get("picture"):
            column = _column(score)
            by_defense.setdefault(score["defense"], {}).setdefault(column, []).append(score)
    groups: dict[frozenset[Column], list[str]] = {}
    for defense in sorted(by_defense, key=lambda name: (name != "none", name)):
        groups.setdefault(frozenset(by_defense[defense]), []).append(defense)
    return [_panel(run, defenses, by_defense) for defenses in groups.values()]


def samples(run: RunFolder) -> Panel | None:
    """Return the panel of what a generative model drew: a line a round, a latent a column; None for none."""
    drawn = run.samples
    if not drawn:
        return None
    rounds = list(drawn)
    every = max(1, -(-(len(rounds) - 1) // (SAMPLED - 1)))
    shown = sorted({*rounds[::every], rounds[-1]})
    lines = [Line(title=f"Round {n}", details=[], pictures=_samples(run, n)) for n in shown]
    heads = [f"latent {index + 1}" for index in range(max(len(line.pictures) for line in lines))]
    strip = Strip(heads=heads, lines=lines)
    return Panel(title="Samples by round", shared=False, strips=[strip], left_out=len(rounds) - len(shown))


def _samples(run: RunFolder, number: int) -> list[Picture | None]:
    pictures = [run.picture(path) for path in run.samples[number][:COLUMNS]]
    return [
        Picture(png=png, text=f"Sample {index}, round {number}", caption="") if png else None
        for index, png in enumerate(pictures, 1)
    ]


def _column(score: Row) -> Column:
    client = score.get("client")
    return score.get("round") or 0, -1 if client is None else client, score.get("index") or 0


def _panel(run: RunFolder, defenses: list[str], by_defense: dict[str, dict[Column, list[Row]]]) -> Panel:
    columns = sorted(by_defense[defenses[0]])
    shown = columns[: COLUMNS * STRIPS]
    scores = {column: [s for d in defenses for s in by_defense[d][column]] for column in shown}
    strips = [_strip(run, columns[i : i + COLUMNS], scores) for i in range(0, len(shown), COLUMNS)]
    name = ", ".join("No defence" if defense == "none" else defense for defense in defenses)
    return Panel(title=name, shared=len(defenses) > 1, strips=strips, left_out=len(columns) - len(shown))


def _strip(run: RunFolder, columns: list[Column], scores: dict[Column, list[Row]]) -> Strip:
    kinds = dict.fromkeys(kind for column in columns for kind in map(_kind, scores[column]))
    truths = [_truth(run, scores[column][0]) for column in columns]
    lines = [Line(title="Truth", details=["the client's image"], pictures=truths)] if any(truths) else []
    for kind in sorted(kinds, key=lambda kind: (kind[0] != "none", *kind)):
        found = [next((s for s in scores[column] if _kind(s) == kind), None) for column in columns]
        shown = [(line.title, line.details) for line in lines]
        gradients = [g for g in _gradients(run, kind, found) if (g.title, g.details) not in shown]
        first = _phase1(run, kind, found)
        last = _line(run, kind, found)
        if first:
            last = replace(last, details=["after phase 2", *last.details])
        lines += [*gradients, *first, last]
    return Strip(heads=[_head(column) for column in columns], lines=lines)


def _kind(score: Row) -> tuple[str, str, bool]:
    return score["defense"], score["attack"], bool(score.get("adaptive"))


def _line(run: RunFolder, kind: tuple[str, str, bool], scores: list[Row | None]) -> Line:
    defense, attack, adaptive = kind
    details = ["no defence"] if defense == "none" else [defense, attacker(adaptive, defense)]
    return Line(
        title=title(attack),
        details=details,
        pictures=[_reconstruction(run, s) if s else None for s in scores],
    )


def _phase1(run: RunFolder, kind: tuple[str, str, bool], scores: list[Row | None]) -> list[Line]:
    """Return the line of what the first of two phases found, where an attack keeps it."""
    shown = [run.picture(score.get("phase1_picture")) if score else None for score in scores]
    if not any(shown):
        return []
    text = f"{title(kind[1])}, after phase 1"
    pictures = [Picture(png=png, text=text, caption="") if png else None for png in shown]
    return [Line(title=title(kind[1]), details=["after phase 1"], pictures=pictures)]


GRADIENTS = (("clean", "Gradient, clean"), ("sent", "Gradient, as sent"), ("found", "Gradient, denoised"))
"""(key of the pictures, what the line is called)"""


def shows_gradients(panel: Panel) -> bool:
    """Return whether a panel has lines of gradients."""
    names = {name for _, name in GRADIENTS}
    return any(line.title in names for strip in panel.strips for line in strip.lines)


def _gradients(run: RunFolder, kind: tuple[str, str, bool], scores: list[Row | None]) -> list[Line]:
    """Return lines of the gradients that a denoiser began and ended with, where an attack has one."""
    lines = []
    for key, name in GRADIENTS:
        pictures = [_gradient(run, score, key, name) if score else None for score in scores]
        if any(pictures):
            details = {"clean": [], "sent": [kind[0]], "found": [title(kind[1]), attacker(kind[2], kind[0])]}
            lines.append(Line(title=name, details=details[key], pictures=pictures))
    return lines


def _gradient(run: RunFolder, score: Row, key: str, name: str) -> Picture | None:
    png = run.picture((score.get("gradient_pictures") or {}).get(key))
    if png is None:
        return None
    value = {"clean": 1.0, "sent": score.get("sent_cosine"), "found": score.get("gradient_cosine")}[key]
    caption = "–" if value is None else f"cos {value:.3f}".replace("-", "−")
    return Picture(png=png, text=f"{name}: cosine with the clean one {caption}", caption=caption)


def _truth(run: RunFolder, score: Row) -> Picture | None:
    png = run.picture(score.get("truth_picture"))
    name = run.class_name(score.get("label"))
    if png is None:
        return None
    return Picture(png=png, text=f"Truth, {_head(_column(score))}: {name}", caption=name)


def _reconstruction(run: RunFolder, score: Row) -> Picture | None:
    png = run.picture(score.get("picture"))
    if png is None:
        return None
    ssim, leaked = score.get("ssim"), bool(score.get("leaked"))
    caption = "–" if ssim is None else f"{ssim:.2f}".replace("-", "−")
    words = f"{title(score['attack'])}, {attacker(bool(score.get('adaptive')), score['defense'])}"
    text = f"Reconstruction by {words}: SSIM {caption}, {'leaked' if leaked else 'not leaked'}"
    return Picture(png=png, text=text, caption=caption, leaked=leaked)


def _head(column: Column) -> str:
    round_, client, index = column
    who = "sum of clients" if client < 0 else f"client {client}"
    return f"{who}, round {round_}" + (f", image {index + 1}" if index else "")


def pictures(panel_list: list[Panel]) -> Iterator[Picture]:
    """Yield every picture of the panels."""
    for panel in panel_list:
        for strip in panel.strips:
            for line in strip.lines:
                yield from (picture for picture in line.pictures if picture)
