"""The papers' tables, had again.

    python -m benchmarks.calibration WHAT
        [--data FILE.npz] [--n N] [--seed S] [--json OUT]
    python -m benchmarks.calibration table FILE.json ... [--into docs/calibration.md]

WHAT is idlg, dlg, auto, coordinates, batches, resnet, defenses, cases, prior, inverting, gradinversion,
repeats or local.

Random pairs of image and start: images drawn from the training half of the data (default: the embedded
Fashion-MNIST), gradients in float32 as a client computes them, `--per-weights` captures for each draw of
weights. Shares have Wilson's intervals, means and medians bootstrap intervals over the draws of weights.
`--json -` prints the figures, every image's scores and the hash of the data.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import load_file

from adversary.attacks import ATTACKS
from adversary.balance import Weighting
from benchmarks.calibration import local
from benchmarks.calibration.figures import figures
from benchmarks.calibration.measure import attack_groups
from benchmarks.calibration.settings import (
    CASES,
    CHOICES,
    Setting,
    auto,
    batches,
    cases,
    coordinates,
    defenses,
    gradinversion,
    inverting,
    lenet,
    prior,
    repeats,
    resnet,
)
from benchmarks.calibration.table import tables
from benchmarks.common import (
    add_options,
    data_of,
    exit_code,
    machine,
    prints_to,
    put_table,
    read_pool,
    show,
    write_json,
)
from benchmarks.victims import groups_of
from fedsim.engines.environment import threads
from fedsim.options import build, require

ATTACK = {
    "batches": "dlg",
    "coordinates": "idlg",
    "resnet": "dlg",
    "defenses": "dlg",
    "cases": "idlg",
    "prior": "idlg",
    "repeats": "inverting",
}
"""The attack of a subcommand where `--attack` names none."""
HELP = {
    "idlg": "iDLG on LeNet, batch 1",
    "dlg": "DLG on LeNet, batch 1",
    "auto": "auto beside the attacks that it chooses from, each with the same budget",
    "coordinates": "LeNet, batch 1: natural coordinates and pixels, each from grey and from noise",
    "batches": "DLG on LeNet, several images a batch",
    "resnet": "DLG on ResNet-20 and ResNet-56 with sigmoid and without strides",
    "defenses": "DLG's table of defences: naive and adaptive",
    "cases": "a strength of each defence at which knowing it decides: naive and adaptive",
    "prior": "noise, and how much the prior weighs",
    "inverting": "Inverting Gradients on ConvNet or ResNet-18",
    "gradinversion": "GradInversion on LeNet and on a narrow ConvNet with BatchNorm",
    "repeats": "batches of different labels, and of one that all images share",
    "local": "several local steps: epochs E in batches of B",
}
DEFAULT_N = {
    **{"auto": 10, "coordinates": 10, "resnet": 5, "defenses": 10, "cases": 40},
    **{"prior": 8, "inverting": 3, "gradinversion": 3, "repeats": 5, "local": 3},
}


def settings_of(arguments: argparse.Namespace) -> list[Setting]:
    """Return the lines of the table that a subcommand measures."""
    budget = arguments.max_evaluations
    options: dict[str, Any] = {} if budget is None else {"max_evaluations": budget}
    match arguments.what:
        case "idlg" | "dlg":
            return lenet(arguments.what, arguments.restarts, options)
        case "auto":
            return auto(arguments.only, options)
        case "coordinates":
            return coordinates(arguments.attack, options)
        case "batches":
            return batches(arguments.batches, arguments.attack, options, arguments.restarts, arguments.prior)
        case "resnet":
            return resnet(arguments.model, arguments.batches, arguments.attack, options)
        case "defenses":
            return defenses(arguments.attack, options)
        case "cases":
            return cases(arguments.only, arguments.attack, options)
        case "prior":
            return prior(arguments.std, arguments.attack, options)
        case "gradinversion":
            return gradinversion(arguments.seeds, options)
        case "repeats":
            a = arguments
            return repeats(a.model, a.batch, a.attack, options, a.prior)
        case _:
            a = arguments
            if a.weighting != "auto":
                options["weighting"] = a.weighting
            return inverting(a.model, a.width, a.mode, a.statistics, a.weights is not None, options)


def measure(setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return one line: its figures, and the scores of every image."""
    pool = read_pool(arguments)
    captures = setting.n or arguments.n
    size = setting.victim.batch_size
    if setting.distinct is None:
        images, labels = pool.draw(captures * size, arguments.seed)
    else:
        images, labels = pool.draw_batches(captures, size, setting.distinct, arguments.seed)
    weights = load_file(arguments.weights) if arguments.weights else None
    groups = groups_of(
        setting.victim, images, labels, pool.classes, arguments.seed, arguments.per_weights, weights
    )
    attack = build(ATTACKS.resolve(setting.attack, "attack"), setting.options, setting.attack)
    done = 0

    def progress(rows: list[dict[str, Any]]) -> None:
        nonlocal done
        done += len({row["capture"] for row in rows})
        print(f"{setting.name}: {done} of {captures} captures", file=sys.stderr, flush=True)

    found = attack_groups(
        groups,
        setting.victim,
        attack,
        seed=arguments.seed,
        restarts=setting.restarts,
        device=arguments.device,
        progress=progress,
    )
    return {
        "name": setting.name,
        "attack": setting.attack,
        "options": dict(setting.options),
        "victim": _plain(setting.victim),
        "data": data_of(pool, images, labels),
        "restarts": setting.restarts,
        "leaked": setting.leaked,
        "single": figures(found.single),
        "restarted": figures(found.restarted),
        "seconds": found.seconds,
        "rows": {"single": found.single, "restarted": found.restarted},
    }


def _plain(value: Any) -> dict[str, Any]:
    return {key: dict(part) if isinstance(part, Mapping) else part for key, part in vars(value).items()}


def line(entry: Mapping[str, Any]) -> str:
    """Return a setting's figures for people."""
    parts = [f"one start: {_quality(entry['single'])}"]
    if entry["restarts"] > 1:
        parts.append(f"up to {entry['restarts']} starts: {_quality(entry['restarted'])}")
    cost = entry["single"]
    parts.append(f"{show(cost['median_evaluations'], 4)} evaluations a start")
    parts.append(f"{show(cost['cpu_seconds_per_image'])} CPU s an image")
    return f"{entry['data']['name']}, {entry['name']}, n = {cost['captures']}: {'; '.join(parts)}"


def _quality(found: Mapping[str, Any]) -> str:
    return (
        f"MSE < 0.001 {show(found['mse_below']['0.001'])}, SSIM > 0.9 {show(found['ssim_above']['0.9'])}, "
        f"labels {show(found['labels'])}, median MSE {show(found['median_mse'])}, "
        f"mean of clipped {show(found['mean_mse_clipped'])}, "
        f"{found['stalled']} stalled, {found['diverged']} diverged"
    )


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.calibration",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="what", required=True)
    for name, text in HELP.items():
        command = commands.add_parser(name, help=text, description=text)
        add_options(command, DEFAULT_N.get(name, 100), "clients" if name == "local" else "captures")
        command.add_argument("--threads", type=int, default=1)
        if name == "local":
            local.add_options(command)
        else:
            _add_options(command, name)
    listing = commands.add_parser("table", help="print JSON files as Markdown")
    listing.add_argument("files", type=Path, nargs="+")
    listing.add_argument("--into", type=Path, metavar="DOC.md", help="replace the table there")
    return top


def _add_options(command: argparse.ArgumentParser, name: str) -> None:
    """Give a subcommand that measures settings its options."""
    command.add_argument("--per-weights", type=int, default=10, help="captures for each draw of weights")
    command.add_argument("--restarts", type=int, default=3 if name in ("idlg", "dlg") else 1)
    command.add_argument("--max-evaluations", type=int, help="budget of a start (default: the attack's)")
    command.add_argument("--device", default="cpu")
    command.add_argument("--weights", metavar="FILE.safetensors", help="of a run of ours, in place of draws")
    if name in ATTACK:
        command.add_argument("--attack", default=ATTACK[name])
    if name == "batches":
        command.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    if name == "resnet":
        command.add_argument("--model", choices=("resnet20", "resnet56"), default="resnet20")
        command.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    if name in ("batches", "repeats"):
        text = "noise assumed, from batch 2 on; 0 for no prior"
        command.add_argument("--prior", type=float, default=1e-5, help=text)
    if name == "cases":
        command.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="DEFENCE")
    if name == "auto":
        command.add_argument("--only", nargs="+", choices=CHOICES, default=list(CHOICES), metavar="CASE")
        command.set_defaults(max_evaluations=2000)
    if name == "gradinversion":
        command.add_argument("--seeds", type=int, default=2, help="starts that pull on each other")
        command.set_defaults(max_evaluations=500)
    if name == "prior":
        command.add_argument("--std", type=float, nargs="+", default=[0.001, 0.01, 0.03, 0.1, 0.2])
    if name == "repeats":
        command.add_argument("--model", choices=("lenet", "convnet"), default="lenet")
        command.add_argument("--batch", type=int, default=4)
    if name == "inverting":
        command.add_argument("--model", choices=("convnet", "resnet18"), default="convnet")
        command.add_argument("--width", type=int, help="of the ConvNet (default: the paper's, 64)")
        command.add_argument("--mode", choices=("eval", "train"), default="eval", help="of BatchNorm")
        text = "of BatchNorm that the attacker holds: the model's, or those of the client's batch too"
        command.add_argument("--statistics", choices=("global", "own"), default="global", help=text)
        text = "one cosine over all layers (length), or one a layer (layers)"
        command.add_argument("--weighting", choices=get_args(Weighting), default="auto", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Measure the settings of a subcommand one after the other."""
    for key in ("per_weights", "restarts", "threads"):
        value = getattr(arguments, key, 1)
        require(value >= 1, f"--{key.replace('_', '-')}", value, "1 or more")
    command = {key: value for key, value in vars(arguments).items() if key != "json"}
    found: list[dict[str, Any]] = []
    with threads(arguments.threads):
        for entry in _entries(arguments):
            found.append(entry)
            text = local.line(entry) if arguments.what == "local" else line(entry)
            print(text, file=prints_to(arguments.json), flush=True)
            table = {"benchmark": "calibration", "command": command, "machine": machine(), "settings": found}
            if arguments.json != "-":  # kept after each setting: a long run may be cut off
                write_json(table, arguments.json)
    if arguments.json == "-":
        write_json(table, arguments.json)


def _entries(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if arguments.what == "local":
        return local.entries(arguments)
    return (measure(setting, arguments) for setting in settings_of(arguments))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; see the module's docstring."""
    arguments = parser().parse_args(argv)
    if arguments.what == "table":
        return exit_code(lambda: put_table(*tables(arguments.files), arguments.into))
    return exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
