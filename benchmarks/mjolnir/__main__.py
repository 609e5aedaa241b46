"""Mjolnir and what it has to beat: noisy gradients denoised in each way, then attacked.

    python -m benchmarks.mjolnir run [--data FILE.npz] [--n N] [--seed S] [--size PIXELS] [--ratios 4 2 1 ...]
        [--epsilons 100 10 1 ...] [--methods NAME ...] [--updates U] [--cache FOLDER] [--json OUT]
    python -m benchmarks.mjolnir train [--denoiser NAME] [--threads N] [--device cuda] [as above]
    python -m benchmarks.mjolnir table FILE.json ... [--into docs/mjolnir.md]
    python -m benchmarks.mjolnir plot FILE.json ... --out FILE.png

One LeNet with drawn weights, one image a gradient, Gaussian (or Laplace) noise that the attacker knows the
strength of; the surrogate client has the same weights and public images. Every method hands its gradient to
iDLG. A level is the median victim's ratio of signal to noise, ||g|| / (sigma sqrt(d)), or an epsilon as in
the paper: sigma = 2 * 0.001 * 10 sqrt(2 ln(1.25 / 1e-4)) / epsilon, or 2 * 0.001 * 10 / epsilon for Laplace's
scale. Medians have bootstrap intervals, shares Wilson's; gains over MAP are paired, with bootstrap intervals.
"""

import argparse
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch

from adversary.attacks.mjolnir import Mjolnir
from adversary.mjolnir.denoisers import RECIPES, VERSION, Kind
from adversary.mjolnir.store import folder_of
from benchmarks.common import (
    add_options,
    command_line,
    data_of,
    exit_code,
    machine,
    prints_to,
    put_table,
    read_pool,
    show,
    write_json,
)
from benchmarks.mjolnir.measure import METHODS, Scene, measure, std_of_epsilon, std_of_ratio
from benchmarks.mjolnir.plot import plot
from benchmarks.mjolnir.table import figures, is_whole, kinds_of, tables
from benchmarks.victims import Victim, groups_of
from fedsim.engines.environment import require_device, threads
from fedsim.errors import InputError
from fedsim.options import require

RATIOS = (8.0, 4.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.25)
EPSILONS = (100.0, 50.0, 10.0, 5.0, 1.0)


def scene_of(arguments: argparse.Namespace) -> tuple[Scene, dict[str, Any]]:
    """Return the victims, and what identifies their images."""
    pool = read_pool(arguments)
    images, labels = pool.draw(arguments.n, arguments.seed)
    (group,) = groups_of(Victim(), images, labels, pool.classes, arguments.seed, arguments.n)
    before: list[dict[str, Any]] = []
    if arguments.clip is not None:
        before.append({"name": "clipping", "norm": arguments.clip})
    if arguments.mask is not None:
        before.append({"name": "masking", "p": arguments.mask})
    scene = Scene(
        group=group,
        before=tuple(before),
        seed=arguments.seed,
        public=arguments.surrogate,
        split="test" if pool.name == arguments.surrogate else "train",  # victims are from the training split
        gradients=arguments.gradients,
        updates=arguments.updates,
        training_seed=arguments.training_seed,
        cache=arguments.cache,
        granted=arguments.labels == "granted",
        evaluations=arguments.evaluations,
    )
    return scene, data_of(pool, images, labels)


def check(arguments: argparse.Namespace) -> None:
    """Raise InputError for options that are out of range: before a long training, not after it."""
    for name in arguments.methods or ():
        require(name in METHODS, "--methods", name, ", ".join(METHODS))
    for key in ("gradients", "updates", "evaluations", "threads"):
        require(getattr(arguments, key) >= 1, f"--{key}", getattr(arguments, key), "1 or more")
    if arguments.json not in (None, "-"):
        in_a_folder("--json", Path(arguments.json))
    if arguments.cache is not None:
        arguments.cache = folder_of(arguments.cache)
    for key in ("ratios", "epsilons"):
        for level in getattr(arguments, key):
            require(0 < level < math.inf, f"--{key}", level, "above 0, and finite")


def in_a_folder(key: str, path: Path) -> None:
    """Raise InputError unless the folder of a file that is to be written is there."""
    folder = path.absolute().parent
    require(not path.is_dir(), key, str(path), "a file, not a folder")
    require(folder.is_dir(), key, str(path), f"a file in a folder that is there, not in {folder}")


def run(arguments: argparse.Namespace) -> None:
    """Measure every method at every level."""
    names = arguments.methods or list(METHODS)
    left_out = ("json", "cache") if arguments.gradients_only else ("json", "cache", "gradients_only")
    command = {key: value for key, value in vars(arguments).items() if key not in left_out}
    written: dict[str, Any] = {"benchmark": "mjolnir", "command": command, "machine": machine()}
    with threads(arguments.threads):
        scene, written["data"] = scene_of(arguments)
        written["training"] = trainings(names, arguments.updates, arguments.training_seed)
        levels = [(std_of_ratio(scene, ratio), {"ratio": ratio}) for ratio in arguments.ratios]
        kind = arguments.distribution
        levels += [(std_of_epsilon(epsilon, kind), {"epsilon": epsilon}) for epsilon in arguments.epsilons]
        written["settings"] = []
        for std, told in levels:
            for row in measure(scene, std, arguments.distribution, names, not arguments.gradients_only):
                entry = {**told, "std": std, "figures": figures(row), "rows": row}
                written["settings"].append(entry)
                print(_line(entry), file=prints_to(arguments.json), flush=True)
                if arguments.json != "-":  # kept after each method: a long run may be cut off
                    write_json(written, arguments.json)
    if arguments.json == "-":
        write_json(written, arguments.json)


def trainings(names: Sequence[str], updates: int, seed: int) -> dict[str, Any]:
    """Return how the denoisers of methods are trained, by kind."""
    return {
        kind: {"version": VERSION, **asdict(replace(RECIPES[kind], updates=updates, seed=seed))}
        for kind in sorted(kinds_of(names))
    }


def _line(entry: dict[str, Any]) -> str:
    found, told = entry["figures"], f"sigma {entry['std']:.3g}, {entry['rows']['method']}"
    images = f", images {show(found['success'], 2, 100)} %" if "success" in found else ""
    return f"{told}: cosine {show(found['cosine'], 4)}, centred {show(found['centred'])}{images}"


def train(arguments: argparse.Namespace) -> None:
    """Train a denoiser from nothing, say how long it took, and put it into the cache if one is named."""
    require_device("--device", arguments.device)
    kept = arguments.cache
    with threads(arguments.threads), TemporaryDirectory() as folder:
        arguments.cache = Path(folder)
        scene, data = scene_of(arguments)
        std = torch.full((arguments.n,), std_of_ratio(scene, 1.0), dtype=torch.float64)
        problem = scene.noisy(float(std[0]), arguments.distribution, arguments.device)
        worked, begun = time.process_time(), time.perf_counter()
        scene.mjolnir(denoiser=arguments.denoiser).clean(problem, std)
        spent = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - worked}
        if kept:
            shutil.copytree(folder, kept, dirs_exist_ok=True)
    command = {key: value for key, value in vars(arguments).items() if key not in ("json", "cache")}
    told = {"benchmark": "mjolnir training", "command": command, "machine": machine(), "data": data, **spent}
    what = (
        f"{arguments.denoiser}, {arguments.updates} updates, {arguments.device}, {arguments.threads} threads"
    )
    print(f"{what}: {spent['seconds']:.0f} s", file=prints_to(arguments.json), flush=True)
    write_json(told, arguments.json)


def table(files: Sequence[Path]) -> str:
    """Return the tables of JSON files, those of the same data together, with the commands that made them."""
    read = [_read(path) for path in files]
    commands = [f"    {command_line('benchmarks.mjolnir', one['command'])}" for one in read]
    return "\n\n".join([tables(read), "\n".join(commands)])


def draw(files: Sequence[Path], out: Path) -> None:
    """Draw what JSON files hold."""
    in_a_folder("--out", out)
    plot([_read(path) for path in files], out)


def measured(arguments: argparse.Namespace) -> None:
    """Check the options, then train or run."""
    check(arguments)
    (train if arguments.what == "train" else run)(arguments)


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"FILE = {path}: allowed: JSON of this benchmark ({error})") from None
    ours = isinstance(read, dict) and read.get("benchmark") == "mjolnir"
    require(ours and is_whole(read), "FILE", str(path), "JSON of this benchmark")
    found: dict[str, Any] = read
    return found


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--ratios", type=float, nargs="*", default=list(RATIOS), help="of signal to noise")
    command.add_argument("--epsilons", type=float, nargs="*", default=list(EPSILONS))
    command.add_argument("--distribution", choices=("gaussian", "laplace"), default="gaussian")
    command.add_argument("--clip", type=float, help="clip gradients to this norm first")
    command.add_argument("--mask", type=float, help="withhold each entry with this probability first")
    command.add_argument("--methods", nargs="+", metavar="NAME", help=f"of: {', '.join(METHODS)}")
    command.add_argument("--surrogate", default="fashion_mnist", help="data set of public images")
    help_ = "of the surrogate, for the class means and PCA"
    command.add_argument("--gradients", type=int, default=3000, help=help_)
    command.add_argument("--updates", type=int, default=Mjolnir.updates, help="of a denoiser's training")
    command.add_argument("--training-seed", type=int, default=0, help="of that training")
    command.add_argument("--labels", choices=("read", "granted"), default="read")
    command.add_argument(
        "--evaluations", type=int, default=500, help="of the attack that follows; MAP has twice as many"
    )
    command.add_argument("--gradients-only", action="store_true", help="look for no images")
    command.add_argument("--cache", type=Path, help="folder of trained denoisers")
    command.add_argument("--threads", type=int, default=1)


def parser() -> argparse.ArgumentParser:
    """Return the options of the subcommands."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.mjolnir", description=(__doc__ or "").splitlines()[0]
    )
    commands = top.add_subparsers(dest="what", required=True)
    for what, n in (("run", 100), ("train", 4)):
        command = commands.add_parser(what)
        add_options(command, n, "gradients")
        _add_run_options(command)
    kinds = get_args(Kind)
    command.add_argument("--denoiser", choices=kinds, default=kinds[0], help="train: which")
    command.add_argument("--device", default="cpu", help="train: where, such as cuda")
    command = commands.add_parser("table")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--into", type=Path)
    command = commands.add_parser("plot")
    command.add_argument("files", nargs="+", type=Path)
    command.add_argument("--out", type=Path, required=True)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; see the module's docstring."""
    arguments = parser().parse_args(argv)
    if arguments.what == "table":
        return exit_code(lambda: put_table("mjolnir", table(arguments.files), arguments.into))
    if arguments.what == "plot":
        return exit_code(lambda: draw(arguments.files, arguments.out))
    return exit_code(lambda: measured(arguments))


if __name__ == "__main__":
    sys.exit(main())
