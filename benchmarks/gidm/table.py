"""The figures as a Markdown table, what phase 1 adds image by image, and the commands."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import command_line, markdown, mean, show
from benchmarks.gidm.measure import figures
from benchmarks.gidm.settings import BOTH, CHANNELS, OTHER_PRIOR, PHASE_2
from fedsim.errors import InputError
from fedsim.options import require

SCORES = (
    ("amplified", "amplification", 2, 1),
    ("PSNR, dB", "psnr", 3, 1),
    ("SSIM", "ssim", 4, 1),
    ("x_t, dB", "noisy_psnr", 3, 1),
    ("noise error", "noise_error", 2, 1),
    ("timestep right, %", "timestep", 3, 100),
    ("30 dB, %", "success", 3, 100),
    ("at first start, %", "first start", 3, 100),
    ("evaluations", "evaluations", 3, 1),
    ("CPU s", "cpu_seconds", 2, 1),
)
"""(column, key of the figures, digits, factor)"""


def lines(tables: Sequence[dict[str, Any]]) -> str:
    """Return the rows of several files as a Markdown table, with the columns that any of them fills."""
    columns = ["data", "victim", "attack", "batch", "granted", "t", "n", *(column for column, *_ in SCORES)]
    rows = [row for table in tables for row in _table_rows(table)]
    filled = [i for i in range(len(columns)) if any(row[i] != "-" for row in rows)]
    return markdown([columns[i] for i in filled], [[row[i] for i in filled] for row in rows])


def _table_rows(table: dict[str, Any]) -> Iterator[list[str]]:
    command = table["command"]
    victim, batch = "trained" if command["weights"] else "untrained", str(command.get("batch", 1))
    if command.get("model") == "dit":
        victim += f", DiT of patch {command.get('patch', 4)}"
    elif command["channels"] != CHANNELS:
        victim += f", channels {', '.join(map(str, command['channels']))}"
    for entry in table["settings"]:
        granted = ", ".join(entry["privileges"]) or "-"
        name = entry["name"] + (f", T = {steps}" if (steps := command["timesteps"]) != 1000 else "")
        data = entry["data"]["name"] + (f", {side}x{side}" if (side := command["size"]) else "")
        for part, found in figures(entry["rows"], command["timesteps"]).items():
            if command["what"] != "timesteps" or part == "all":
                cells = [data, victim, name, batch, granted, part, str(found["n"])]
                yield [*cells, *_cells(found)]


def _cells(found: dict[str, Any]) -> list[str]:
    return [show(found[key], digits, factor) if found.get(key) else "-" for _, key, digits, factor in SCORES]


def table(files: Sequence[Path]) -> tuple[str, str]:
    """Return the kind of benchmark that JSON files hold, and their table with the commands that made them."""
    for path in files:
        require(path.is_file(), "FILE", str(path), "what --json of this benchmark wrote")
    read = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    kinds = {one["command"]["what"] for one in read if one.get("benchmark") == "gidm"}
    if len(kinds) != 1:
        raise InputError(
            f"FILE = {', '.join(map(str, files))}: allowed: files of one subcommand of this benchmark"
        )
    commands = [f"    {command_line('benchmarks.gidm', one['command'])}" for one in read]
    return kinds.pop(), "\n\n".join([lines(read), *gains(read), "\n".join(commands)])


def gains(tables: Sequence[dict[str, Any]]) -> list[str]:
    """Return what phase 1 adds to phase 2, image by image, for each data, noise and prior: lines of text."""
    pairs: dict[str, list[float]] = {}
    alone: dict[tuple[str, str, int], dict[str, Any]] = {}
    for entry in (entry for one in tables for entry in one["settings"]):
        if PHASE_2.name in entry["name"]:
            noise = entry["name"].removeprefix(PHASE_2.name)
            alone |= {(entry["data"]["images_sha256"], noise, row["case"]): row for row in entry["rows"]}
    for entry in (entry for one in tables for entry in one["settings"]):
        if entry["name"].startswith(BOTH.name):
            told = entry["name"].removeprefix(BOTH.name)
            noise = told.removeprefix(OTHER_PRIOR)
            keys = [(entry["data"]["images_sha256"], noise, row["case"]) for row in entry["rows"]]
            pairs.setdefault(f"{entry['data']['name']}{told}", []).extend(
                row["ssim"] - alone[key]["ssim"]
                for row, key in zip(entry["rows"], keys, strict=True)
                if key in alone
            )
    return [
        f"SSIM of both phases less that of phase 2 alone, {name}: {show(mean(found), 2)} (n = {len(found)})"
        for name, found in pairs.items()
        if found
    ]
