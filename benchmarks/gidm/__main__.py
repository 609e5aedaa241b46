"""GIDM and GIDM+ against the gradients of diffusion models.

    python -m benchmarks.gidm known|unknown|ablations|defenses|timesteps [--data FILE.npz] [--n N] [--seed S]
        [--size PIXELS] [--channels 32 64 64] [--weights FILE.safetensors] [--json OUT]
    python -m benchmarks.gidm table FILE.json ... [--into docs/gidm.md]

One image a capture (or `--batch`), gradients in float32, timesteps spread evenly over T (or `--share` of it).
`known` grants timestep and noise (GIDM), `unknown` neither (GIDM+, and joint descent with `--joint`),
`timesteps` looks for nothing else, under each defence. Medians have bootstrap intervals, shares Wilson's; CPU
seconds are those of the process, an image.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import (
    add_options,
    command_line,
    data_of,
    exit_code,
    machine,
    markdown,
    mean,
    prints_to,
    put_table,
    read_pool,
    show,
    write_json,
)
from benchmarks.gidm.cases import cases
from benchmarks.gidm.measure import Row, Way, figures, measure
from fedsim.data.load import load_dataset
from fedsim.engines.environment import threads
from fedsim.errors import InputError
from fedsim.options import require

PIXELS = {"phases": "pixels"}
RELEASED = {**PIXELS, "start": "normal", "coordinates": "pixels"}
KNOWN = [Way(name="GIDM, phase 2 alone", attack="gidm", options=PIXELS, known=True, restarts=3)]
PLUS = Way(name="GIDM+", attack="gidm_plus", options={}, restarts=5)
TIMESTEPS = Way(name="timesteps alone", attack="timesteps", options={})
JOINT = Way(name="joint descent", attack="joint", options={})
BOTH = Way(name="GIDM, both phases", attack="gidm", options={}, known=True)
PHASE_2 = Way(name="GIDM, phase 2 alone", attack="gidm", options=PIXELS, known=True)
OTHER_PRIOR = ", prior of other data"
ABLATIONS = [
    BOTH,
    Way(name="phase 1 alone", attack="gidm", options={"phases": "latents"}, known=True),
    Way(name="DLG (pixels alone, from noise)", attack="gidm", options=RELEASED, known=True),
    PHASE_2,
    Way(
        name="Inverting Gradients",
        attack="gidm",
        options={**PIXELS, "start": "grey", "objective": "cosine", "optimizer": "adam", "tv": 0.1},
        known=True,
    ),
    PLUS,
    Way(name="prior alone, no gradient", attack="prior", options={}),
    Way(name="nearest other image", attack="nearest", options={}),
]
DEFENSES = (
    {"name": "quantizing", "dtype": "fp16"},
    {"name": "quantizing", "dtype": "bf16"},
    {"name": "quantizing", "dtype": "int8"},
    {"name": "clipping", "norm": 1.0},
    {"name": "noising", "std": 1e-4},
    {"name": "noising", "std": 1e-3},
    {"name": "pruning", "fraction": 0.5},
    {"name": "masking", "p": 0.5},
)
Setting = tuple[str, Way, dict[str, Any] | None, bool]
"""(name of the row, way, defence, whether the attacker knows it)"""


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """Return the rows of the table that a subcommand measures."""
    if arguments.what == "defenses":
        way = replace(KNOWN[0] if arguments.granted else PLUS, restarts=2)
        return [
            (f"{', '.join(map(str, table.values()))}, {'adaptive' if known else 'naive'}", way, table, known)
            for known in (True, False)
            for table in DEFENSES
        ]
    if arguments.what == "timesteps":
        tables = (None, *DEFENSES)
        names = ["undefended", *(", ".join(map(str, table.values())) for table in DEFENSES)]
        return [(name, TIMESTEPS, table, True) for name, table in zip(names, tables, strict=True)]
    if arguments.what == "ablations":
        noise = {"name": "noising", "std": arguments.std} if arguments.std else None
        told = f", noise {arguments.std:g}" if noise else ""
        ways = [_with_prior(way, arguments.prior) for way in ABLATIONS]
        return [(f"{way.name}{told}", way, noise, bool(noise)) for way in ways]
    ways = {"known": KNOWN, "unknown": [PLUS, *([JOINT] if arguments.joint else [])]}[arguments.what]
    return [(way.name, way, None, False) for way in ways]


def _with_prior(way: Way, prior: str | None) -> Way:
    """Return the way with the denoiser of other data as its prior, where it makes use of one."""
    uses = way.attack == "prior" or (way.attack == "gidm" and way.options.get("phases") != "pixels")
    if prior is None or not uses:
        return way
    return replace(way, name=f"{way.name}{OTHER_PRIOR}", options={**way.options, "prior": prior})


def chosen(arguments: argparse.Namespace) -> list[Setting]:
    """Return the settings of which `--rows` names a part. Raises InputError where it names none."""
    settings = settings_of(arguments)
    found = [setting for setting in settings if (arguments.rows or "") in setting[0]]
    require(bool(found), "--rows", arguments.rows, "part of " + "; ".join(name for name, *_ in settings))
    return found


def training_images(arguments: argparse.Namespace) -> Tensor:
    """Return all images of `--training`, whichever of them a federation trained on, resized as `--data`."""
    train = read_pool(argparse.Namespace(**{**vars(arguments), "data": arguments.training}))
    test = replace(train, split=load_dataset("npz", {"path": arguments.training}, 0).test)
    return torch.cat([pool.draw(len(pool.split), arguments.seed)[0] for pool in (train, test)])


def entries(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the figures of each row, and the scores of every image."""
    pool = read_pool(arguments)
    count = arguments.n * arguments.batch
    images, labels = pool.draw(count + min(arguments.others, len(pool.split) - count), arguments.seed)
    victims, others = images[:count], images[count:]
    if arguments.training:
        others = training_images(arguments)
    for name, way, defense, known in chosen(arguments):

        def progress(row: Row, name: str = name) -> None:
            told = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            print(f"{name}: {told}", file=sys.stderr, flush=True)

        rows = measure(way, cases(arguments, pool, victims, defense, known), others, progress)
        yield {
            "name": name,
            "attack": way.attack,
            "options": dict(way.options),
            "restarts": way.restarts,
            "privileges": ["timesteps", "noise"] if way.known else [],
            "data": data_of(pool, victims, labels[:count]),
            "figures": figures(rows, arguments.timesteps),
            "rows": rows,
        }


def run(arguments: argparse.Namespace) -> None:
    """Measure the rows of a subcommand one after the other."""
    require(0 < arguments.share <= 1, "--share", arguments.share, "above 0, at most 1")
    alone = arguments.what == "ablations"
    require(1 <= arguments.batch <= (1 if alone else 8), "--batch", arguments.batch, "1 to 8; ablations: 1")
    found: list[dict[str, Any]] = []
    command = {key: value for key, value in vars(arguments).items() if key != "json" and value is not False}
    with threads(arguments.threads):
        for entry in entries(arguments):
            found.append(entry)
            table = {"benchmark": "gidm", "command": command, "machine": machine(), "settings": found}
            print(lines([table]).splitlines()[-1], file=prints_to(arguments.json), flush=True)
            if arguments.json != "-":  # kept after each row: a long run may be cut off
                write_json(table, arguments.json)
    if arguments.json == "-":
        write_json(table, arguments.json)


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
    victim += f", DiT of patch {command.get('patch', 4)}" if command.get("model") == "dit" else ""
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
    alone = {}
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


def parser() -> argparse.ArgumentParser:
    """Return the options of the subcommands."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.gidm", description=(__doc__ or "").splitlines()[0]
    )
    commands = top.add_subparsers(dest="what", required=True)
    for what, n in (("known", 20), ("unknown", 20), ("ablations", 4), ("defenses", 4), ("timesteps", 100)):
        command = commands.add_parser(what)
        add_options(command, n, "captures")
        command.add_argument("--batch", type=int, default=1, help="images a capture")
        command.add_argument("--model", choices=("unet", "dit"), default="unet")
        command.add_argument("--patch", type=int, default=4, help="of the DiT")
        command.add_argument("--channels", type=int, nargs="+", default=[32, 64, 64], help="of the U-Net")
        command.add_argument("--prediction", default="epsilon")
        command.add_argument("--schedule", default="cosine", help="that with which --weights were trained")
        command.add_argument("--timesteps", type=int, default=1000, help="T")
        command.add_argument(
            "--share", type=float, default=1.0, help="timesteps are from this first share of T"
        )
        command.add_argument("--weights", metavar="FILE.safetensors", help="a trained denoiser")
        command.add_argument("--others", type=int, default=1000, help="images to find the nearest one in")
        command.add_argument(
            "--training", metavar="FILE.npz", help="find the nearest one in these instead: what --weights saw"
        )
        command.add_argument("--joint", action="store_true", help="unknown: joint descent as well")
        command.add_argument(
            "--prior", metavar="FILE.safetensors", help="ablations: a denoiser of other data"
        )
        command.add_argument("--std", type=float, help="ablations: of noise on each entry, which is known of")
        command.add_argument("--rows", metavar="TEXT", help="only those rows whose name has this in it")
        command.add_argument("--granted", action="store_true", help="defenses: GIDM in place of GIDM+")
        command.add_argument("--threads", type=int, default=1)
    command = commands.add_parser("table")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--into", type=Path)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; see the module's docstring."""
    arguments = parser().parse_args(argv)
    if arguments.what == "table":
        return exit_code(lambda: put_table(*table(arguments.files), arguments.into))
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
