"""Truth and reconstructions: the same image at each strength of a defence, naive above adaptive."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fedsim.report.gallery import Picture
from fedsim.report.words import number, title
from fedsim.studies.page.layout import Panel
from fedsim.studies.page.look import WHO
from fedsim.studies.page.points import METRIC, Point
from fedsim.studies.page.series import NO_DEFENSE
from fedsim.studies.page.store import Store
from fedsim.studies.page.words import where

Row = Mapping[str, Any]
Key = tuple[int, int, int]
"""Which image: round, client (-1 for an aggregate), place in the batch."""
MOST = 8
"""Reconstructions of one strength, about, over all settings."""
IMAGES = 2
"""Of one setting, at most."""
SIDE = 96
"""Pixels to which larger pictures are reduced."""
BYTES = 2_000_000
"""Of all pictures; what is beyond is left out, and said to be."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One image, and what each attacker made of it at each strength."""

    truth: Picture | None
    lines: Mapping[str, Sequence[Picture | None]]
    """Attacker in words -> a picture for each strength."""


@dataclass(frozen=True, kw_only=True)
class Album:
    """The strip of one defence in one setting."""

    panel: Panel
    series: str
    title: str
    heads: Sequence[str]
    shots: Sequence[Shot]


@dataclass(frozen=True)
class _Column:
    """A strength: the lines of scores.jsonl by attacker and image."""

    head: str
    cell: str
    lines: Mapping[tuple[str, Key], Row]


def albums(points: Sequence[Point], panels: Sequence[Panel], store: Store) -> tuple[list[Album], int]:
    """Return an album for each setting and defence, and how many were left out for their size.

    Only the first seed is shown, and its first images that most strengths have: none is picked.
    """
    images = max(1, min(IMAGES, MOST // 2 // max(1, len(panels))))
    found, left_out, size = [], 0, 0
    for panel in panels:
        own = [point for point in points if point.panel == panel.number]
        for series in dict.fromkeys(point.defended.series for point in own):
            album = _album(panel, series, own, store, images) if series != NO_DEFENSE else None
            size += sum(len(picture.png) for picture in _pictures(album)) if album else 0
            if album and size <= BYTES:
                found.append(album)
            left_out += bool(album and size > BYTES)
    return found, left_out


def _pictures(album: Album) -> Iterator[Picture]:
    for shot in album.shots:
        if shot.truth:
            yield shot.truth
        for line in shot.lines.values():
            yield from (picture for picture in line if picture)


def _album(panel: Panel, series: str, points: Sequence[Point], store: Store, images: int) -> Album | None:
    seeds = [seed for point in points if point.defended.series == series for seed in point.seeds]
    columns = [
        column
        for name in (NO_DEFENSE, series)
        if (own := [point for point in points if point.defended.series == name])
        for column in _columns(own, min(seeds), store)
    ]
    held = Counter(key for column in columns for key in {key for _, key in column.lines})
    chosen = sorted(sorted(held, key=lambda key: (-held[key], key))[:images])
    shots = [_shot(place, key, columns, store) for place, key in enumerate(chosen, 1)]
    if not any(shot.lines for shot in shots):  # the pictures were not kept
        return None
    return Album(
        panel=panel,
        series=series,
        title=where(series, panel.title),
        heads=[column.head for column in columns],
        shots=[shot for shot in shots if shot.lines],
    )


def _columns(points: Sequence[Point], seed: int, store: Store) -> list[_Column]:
    """Return a column for each strength, weakest first, of the cells with one seed."""
    by_strength: dict[tuple[tuple[float, ...], str], dict[tuple[str, Key], Row]] = {}
    cells: dict[tuple[tuple[float, ...], str], str] = {}
    for point in points:
        row = next((row for row in point.rows if row["seed"] == seed), None)
        if row is None:
            continue
        place = point.defended.order, point.defended.strength or point.defended.series
        cells[place] = row["cell"]
        lines = by_strength.setdefault(place, {})
        for line in store.scores(row, point.attacker):
            if line.get("picture"):
                lines.setdefault((point.attacker, _key(line)), line)
    return [_Column(place[1], cells[place], by_strength[place]) for place in sorted(by_strength)]


def _key(line: Row) -> Key:
    client = line.get("client")
    return line.get("round") or 0, -1 if client is None else client, line.get("index") or 0


def _shot(place: int, key: Key, columns: Sequence[_Column], store: Store) -> Shot:
    truth = next((png for column in columns if (png := _truth(column, key, store))), None)
    lines = {
        who: [_picture(column, attacker, key, truth, store) for column in columns]
        for attacker, who in WHO.items()
    }
    return Shot(
        truth=_shown(truth, f"The client's image {place}", f"image {place}"),
        lines={who: shown for who, shown in lines.items() if any(shown)},
    )


def _truth(column: _Column, key: Key, store: Store) -> bytes | None:
    paths = (line.get("truth_picture") for (_, image), line in column.lines.items() if image == key)
    return store.run(column.cell).picture(next(paths, None))


def _picture(column: _Column, attacker: str, key: Key, truth: bytes | None, store: Store) -> Picture | None:
    """Return the reconstruction at one strength, None where the cell attacked another image."""
    line = column.lines.get((attacker, key))
    if line is None or _truth(column, key, store) != truth:
        return None
    score, leaked = line.get(METRIC), bool(line.get("leaked"))
    caption = number(score)
    words = f"Reconstruction by {title(line['attack'])}, attacker {WHO[attacker]}, {column.head}"
    text = f"{words}: SSIM {caption}, {'leaked' if leaked else 'not leaked'}"
    return _shown(store.run(column.cell).picture(line["picture"]), text, caption, leaked)


def _shown(png: bytes | None, text: str, caption: str, leaked: bool = False) -> Picture | None:
    return Picture(png=reduced(png), text=text, caption=caption, leaked=leaked) if png else None


def reduced(png: bytes) -> bytes:
    """Return the picture with no side above `SIDE` pixels."""
    with Image.open(io.BytesIO(png)) as image:
        if max(image.size) <= SIDE:
            return png
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
