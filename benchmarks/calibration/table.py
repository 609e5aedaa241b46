"""The committed tables: JSON files of the benchmark as Markdown."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.calibration import choice, local, pairs
from benchmarks.common import command_line, markdown, show
from fedsim.errors import InputError

Entry = Mapping[str, Any]
Cell = Callable[[Entry, Mapping[str, Any]], str]
"""(setting, its figures of one kind) -> text."""

PUBLISHED = {
    ("idlg", "mnist"): "88 / -",
    ("idlg", "cifar"): "83 / -",
    ("idlg", "lfw"): "91 / -",
    ("dlg", "mnist"): "76 / .0038",
    ("dlg", "cifar"): "65 / .0069",
    ("dlg", "lfw"): "51 / .0055",
    ("dlg", "svhn"): "- / .0051",
}
"""Share in % with MSE < 0.001 (iDLG's Figure 1, 1000 runs) / MSE (DLG), batch 1."""
INVERTING = {False: "18.00 / 19.83", True: "18.08 / 13.95"}
"""PSNR untrained and trained, eval mode: mean of 100 validation images of CIFAR-10 (Geiping et al. 2020)."""


def _percent(interval: Mapping[str, Any]) -> str:
    return show(interval, 3, 100)


_COMMON: dict[str, Cell] = {
    "data": lambda entry, _: entry["data"]["name"],
    "attack": lambda entry, _: entry["attack"],
    "setting": lambda entry, _: entry["name"],
    "starts": lambda entry, found: str(entry["restarts"]) if found is entry["restarted"] else "1",
    "n": lambda _, found: str(found["captures"]),
}
_QUALITY: dict[str, Cell] = {
    "MSE < .001, %": lambda _, found: _percent(found["mse_below"]["0.001"]),
    "SSIM > .9, %": lambda _, found: _percent(found["ssim_above"]["0.9"]),
    "labels, %": lambda _, found: _percent(found["labels"]),
    "median MSE": lambda _, found: show(found["median_mse"], 2),
    "mean clipped MSE": lambda _, found: show(found["mean_mse_clipped"], 2),
}
_COST: dict[str, Cell] = {
    "stalled / diverged": lambda _, found: f"{found['stalled']} / {found['diverged']}",
    "evaluations": lambda _, found: show(found["median_evaluations"], 4),
    "CPU s an image": lambda _, found: show(found["cpu_seconds_per_image"], 2),
}
_PLAIN: dict[str, Cell] = {
    **_COMMON,
    **_QUALITY,
    **_COST,
    "published": lambda entry, _: _published(entry),
}
_FIDELITY: dict[str, Cell] = {
    **_COMMON,
    **{
        f"< {bound}": lambda _, found, bound=bound: _percent(found["mse_below"][bound])  # type: ignore[misc]
        for bound in ("0.01", "0.005", "0.001", "0.0005", "0.0001")
    },
}
_COUNTS: dict[str, Cell] = {
    "equations : unknowns": lambda _, found: f"{found['equations']} : {found['unknowns']}",
}
_BATCHES: dict[str, Cell] = {
    **_COMMON,
    **_COUNTS,
    **_QUALITY,
    "SSIM > .5, %": lambda _, found: _percent(found["ssim_above"]["0.5"]),
    **_COST,
}
_SIMILARITY: dict[str, Cell] = {
    **_COMMON,
    "SSIM": lambda _, found: show(found["mean_ssim"], 2),
    "SSIM after affine fit": lambda _, found: show(found["mean_ssim_affine"], 2),
    "SSIM > .9, %": lambda _, found: _percent(found["ssim_above"]["0.9"]),
    "MSE < .001, %": lambda _, found: _percent(found["mse_below"]["0.001"]),
    "PSNR": lambda _, found: show(found["mean_psnr"]),
    **_COST,
}
_RESNET: dict[str, Cell] = {
    **_COMMON,
    **_QUALITY,
    "SSIM": lambda _, found: show(found["mean_ssim"], 2),
    "SSIM after affine fit": lambda _, found: show(found["mean_ssim_affine"], 2),
    "SSIM > .5, %": lambda _, found: _percent(found["ssim_above"]["0.5"]),
    **_COST,
}
_MEASURED = {name: cell for name, cell in _PLAIN.items() if name != "published"}
COLUMNS: dict[str, tuple[dict[str, Cell], ...]] = {
    "idlg": (_PLAIN, _FIDELITY),
    "dlg": (_PLAIN, _FIDELITY),
    "coordinates": (_MEASURED,),
    "batches": (_BATCHES,),
    "resnet": (_RESNET,),
    "defenses": ({**_SIMILARITY, **_COUNTS},),
    "prior": (_SIMILARITY,),
    "repeats": (_SIMILARITY,),
    "gradinversion": (_SIMILARITY,),
    "inverting": (
        {**_SIMILARITY, "published PSNR, LeNet / ResNet20-4": lambda entry, _: _published_psnr(entry)},
    ),
}
_WHOLE = {"auto": choice.table, "cases": pairs.table, "local": local.table}


def tables(files: Sequence[Path]) -> tuple[str, str]:
    """Return the kind of benchmark that JSON files hold, and its tables with the commands that made them.

    Raises InputError for files that are none, or of several kinds.
    """
    read = [_read(path) for path in files]
    kinds = {_kind(one) for one in read}
    if len(kinds) > 1:
        raise InputError(f"FILE = {', '.join(map(str, files))}: allowed: files of one subcommand at a time")
    entries = [entry for one in read for entry in one["settings"]]
    what = read[0]["command"]["what"]
    blocks = [_WHOLE[what](entries)] if what in _WHOLE else [_markdown(one, entries) for one in COLUMNS[what]]
    commands = [f"    {command_line('benchmarks.calibration', one['command'])}" for one in read]
    return kinds.pop(), "\n\n".join([*blocks, "\n".join(commands)])


def _read(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if table["benchmark"] == "calibration":
            return table
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"FILE = {str(path)!r}: allowed: what --json of this benchmark wrote")


def _kind(table: Mapping[str, Any]) -> str:
    what: str = table["command"]["what"]
    return "lenet" if what in ("idlg", "dlg") else what


def _markdown(columns: Mapping[str, Cell], entries: Sequence[Entry]) -> str:
    rows = [
        [cell(entry, entry[kind]) for cell in columns.values()]
        for entry in entries
        for kind in (("single", "restarted") if entry["restarts"] > 1 else ("single",))
    ]
    return markdown(list(columns), rows)


def _published(entry: Entry) -> str:
    name = entry["data"]["name"]
    found = [text for (attack, data), text in PUBLISHED.items() if attack == entry["attack"] and data in name]
    return found[0] if found and "fashion" not in name else "-"


def _published_psnr(entry: Entry) -> str:
    comparable = "cifar" in entry["data"]["name"] and entry["victim"]["mode"] == "eval"
    return INVERTING["trained" in entry["name"]] if comparable else "-"
