"""What the attacks that solve and do not search read: analytic, R-GAP and SPEAR, by batch and defence.

    python -m benchmarks.exact [--attack NAME ...] [--data FILE.npz] [--n N] [--seed S] [--json OUT]
        [--into DOCUMENT]

N batches, each with weights drawn anew, uploads in float32. Exact: every pixel of an image to 1e-3. Shares
have Wilson's intervals over images, medians bootstrap intervals over batches; defences act on the gradient,
attackers who know of them are adaptive. `--into` puts the table between the marks of a document.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adversary.attacks import ATTACKS
from adversary.matching import match
from adversary.metrics import psnr, ssim_affine
from adversary.reconstruct import Attack, reconstruct
from benchmarks import common
from benchmarks.victims import Victim, groups_of
from fedsim.engines.environment import threads
from fedsim.options import build, require

EXACT = 1e-3
Row = dict[str, Any]
Defense = tuple[Mapping[str, Any], ...]

MASKING: Defense = ({"name": "masking", "p": 0.5},)
FEW_MASKED: Defense = ({"name": "masking", "p": 0.1},)
MOST_MASKED: Defense = ({"name": "masking", "p": 0.9},)
PRUNING: Defense = ({"name": "pruning", "fraction": 0.5},)
MOST_PRUNED: Defense = ({"name": "pruning", "fraction": 0.9},)
CLIPPING: Defense = ({"name": "clipping", "norm": 1.0},)
PER_TENSOR: Defense = ({"name": "clipping", "norm": 0.2, "scope": "tensor"},)
INT8: Defense = ({"name": "quantizing", "dtype": "int8"},)


def noise(std: float) -> Defense:
    """Return Gaussian noise on each entry."""
    return ({"name": "noising", "std": std},)


SETTINGS: dict[str, tuple[str, dict[str, Any], list[tuple[int, Defense]]]] = {
    "analytic": (
        "mlp",
        {"hidden": (64, 32)},
        [(1, of) for of in ((), MASKING, MOST_MASKED, MOST_PRUNED, PER_TENSOR, INT8, noise(0.02))],
    ),
    "rgap": (
        "lenet",
        {},
        [(1, of) for of in ((), FEW_MASKED, MASKING, noise(2e-6), noise(2e-4))],
    ),
    "spear": (
        "mlp",
        {"hidden": (200, 200)},
        [
            *((batch, ()) for batch in (2, 4, 8, 10)),
            (8, MASKING),
            (8, CLIPPING),
            (4, PRUNING),
            (4, noise(2e-5)),
            (4, noise(2e-4)),
            (4, INT8),
        ],
    ),
}
"""Attack -> model, its options, and batch sizes with the defence."""


def measure(pool: common.Pool, name: str, batch: int, chain: Defense, n: int, seed: int) -> Row:
    """Return the figures of one attack on batches of one size behind one defence."""
    model, options, _ = SETTINGS[name]
    images, labels = pool.draw(n * batch, seed)
    victim = Victim(
        model=model, model_options=options, batch_size=batch, defenses=chain, adaptive=bool(chain)
    )
    attack: Attack = build(ATTACKS.resolve(name), {}, name)
    scores: dict[str, list[Any]] = {key: [] for key in ("error", "psnr", "ssim", "labels", "batch")}
    seconds = []
    for number, group in enumerate(groups_of(victim, images, labels, pool.classes, seed, 1)):
        problem = group.problem(victim, seed)
        worked = time.process_time()
        (found,) = reconstruct(attack, problem)
        seconds.append(time.process_time() - worked)
        pairs = match(found.images, group.images[0])
        for image, label, place in zip(group.images[0], group.labels[0], pairs, strict=True):
            _score(scores, found.images[place], image)
            scores["labels"].append(bool(found.labels[place] == label))
            scores["batch"].append(number)
    clusters = scores["batch"]
    return {
        "attack": name,
        "model": model,
        "data": pool.name,
        "size": batch,
        "defense": ", ".join(str(value) for table in chain for value in table.values()) or "none",
        "n": n,
        "exact": common.share([error < EXACT for error in scores["error"]]),
        "psnr": common.median(scores["psnr"], clusters),
        "ssim": common.median(scores["ssim"], clusters),
        "labels": common.share(scores["labels"]),
        "cpu_seconds": common.median(seconds),
        "scores": scores,
    }


def _score(scores: dict[str, list[Any]], found: Tensor, truth: Tensor) -> None:
    scores["error"].append(float((found - truth).abs().max().nan_to_num(nan=torch.inf)))
    scores["psnr"].append(float(psnr(found.nan_to_num(0.5), truth).clamp(max=200)))
    scores["ssim"].append(float(ssim_affine(found.nan_to_num(0.5), truth)))


HEADER = (
    "attack", "model", "data", "batch", "defence", "n", "exact, %", "PSNR, dB", "SSIM after affine fit",
    "labels, %", "CPU s a batch",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return a row of the table."""
    return [
        *(str(row[key]) for key in ("attack", "model", "data", "size", "defense", "n")),
        common.show(row["exact"], factor=100),
        common.show(row["psnr"]),
        common.show(row["ssim"], 2),
        common.show(row["labels"], factor=100),
        common.show(row["cpu_seconds"], 2),
    ]


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and write."""
    for name in arguments.attack:
        require(name in SETTINGS, "--attack", name, ", ".join(SETTINGS))
    pool, rows, out = common.read_pool(arguments), [], common.prints_to(arguments.json)
    with threads(1):
        for name in arguments.attack:
            for batch, chain in SETTINGS[name][2]:
                rows.append(measure(pool, name, batch, chain, arguments.n, arguments.seed))
                print("| " + " | ".join(cells(rows[-1])) + " |", file=out, flush=True)
    command = {key: value for key, value in vars(arguments).items() if key != "into"}
    written = {"benchmark": "exact", "command": command, "machine": common.machine(), "rows": rows}
    most = arguments.n * max(row["size"] for row in rows)
    drawn = pool.draw(most, arguments.seed)
    common.write_json(written | {"data": common.data_of(pool, *drawn)}, arguments.json)
    if arguments.into:
        text = common.markdown(list(HEADER), [cells(row) for row in rows])
        told = f"{text}\n\n    {common.command_line('benchmarks.exact', command)}"
        common.put_table(f"exact: {pool.name}", told, arguments.into)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the options and measure; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exact",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_options(parser, 4, "batches of each setting")
    parser.add_argument("--attack", nargs="+", default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--into", type=Path, metavar="DOCUMENT", help="with the marks <!-- exact: DATA -->")
    arguments = parser.parse_args(argv)
    return common.exit_code(lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
