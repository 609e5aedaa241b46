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
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import (
    add_options,
    data_of,
    exit_code,
    machine,
    prints_to,
    put_table,
    read_pool,
    write_json,
)
from benchmarks.gidm.cases import cases
from benchmarks.gidm.measure import Row, figures, measure
from benchmarks.gidm.settings import CHANNELS, chosen
from benchmarks.gidm.table import lines, table
from fedsim.data.load import load_dataset
from fedsim.engines.environment import threads
from fedsim.options import require


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
            written = {"benchmark": "gidm", "command": command, "machine": machine(), "settings": found}
            print(lines([written]).splitlines()[-1], file=prints_to(arguments.json), flush=True)
            if arguments.json != "-":  # kept after each row: a long run may be cut off
                write_json(written, arguments.json)
    if arguments.json == "-":
        write_json(written, arguments.json)


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
        command.add_argument("--channels", type=int, nargs="+", default=CHANNELS, help="of the U-Net")
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
        command.add_argument(
            "--evaluations", type=int, metavar="N", help="`max_evaluations` of the attacks, not their default"
        )
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
