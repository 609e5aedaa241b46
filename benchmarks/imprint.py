"""Robbing the Fed: how many images of a batch a malicious server reads off one gradient.

    python -m benchmarks.imprint [--data FILE.npz] [--n N] [--seed S] [--batch B] [--bins K] [--model NAME]
                                 [--masking P] [--naive] [--json OUT] [--into FILE.md]

`--n` batches of `--batch` images, each on the model with fresh weights behind an imprint block; up to 1000
other images of the same data are public. An image counts as exact where no pixel is off by more than 1e-3.
Printed for each block: exact images a batch, mean with a 95 % interval (BCa bootstrap over batches), the
fewest of any batch, images above 40 dB and with an SSIM above 0.9, labels found for exact images, and the
seconds a batch.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adversary.attacks.imprint import ImprintAttack
from adversary.leakage import SUCCESS
from adversary.manipulation.imprint import Imprint
from adversary.manipulation.surgery import manipulated
from adversary.matching import match
from adversary.metrics import psnr, ssim
from benchmarks import common
from benchmarks.victims import Group, Victim
from fedsim.options import require
from fedsim.seeds import derive

EXACT = 1e-3
PUBLIC = 1000
BLOCK = "imprint"
BLOCKS: tuple[tuple[str, dict[str, Any], bool], ...] = (
    (
        "the paper's: mean brightness, Gaussian",
        {"directions": 1, "measure": "brightness", "fit": "gaussian"},
        True,
    ),
    ("mean brightness, smoothed", {"directions": 1, "measure": "brightness"}, True),
    ("mean brightness, nothing public", {"directions": 1, "measure": "brightness"}, False),
    ("random direction, smoothed", {"directions": 1, "measure": "random"}, True),
    ("1 DCT direction, smoothed", {"directions": 1}, True),
    ("2 DCT directions, smoothed", {"directions": 2}, True),
    ("4 DCT directions, smoothed", {}, True),
    ("4 DCT directions, nothing public", {}, False),
)
"""What the table calls it, options of the block, and whether the server holds public images."""


def read_batch(group: Group, victim: Victim, seed: int) -> dict[str, float]:
    """Attack one batch, and return what was read of it."""
    problem = group.problem(victim, seed)
    begun = time.perf_counter()
    attempt = ImprintAttack().attack(problem)
    seconds = time.perf_counter() - begun
    truth, labels = group.images[0], group.labels[0]
    pairs = [0 if pair is None else pair for pair in match(attempt.images[0], truth)]
    found = attempt.images[0][pairs]
    exact = (found - truth).abs().flatten(1).amax(dim=1) < EXACT
    return {
        "exact": int(exact.sum()),
        "similar": int((ssim(found.clamp(0, 1).float(), truth) > SUCCESS).sum()),
        "above_40_db": int((psnr(found.clamp(0, 1).float(), truth) > 40).sum()),
        "labels": int((exact & (attempt.labels[0][pairs] == labels)).sum()),
        "converged": bool(attempt.converged[0]),
        "seconds": seconds,
    }


def measured(
    arguments: argparse.Namespace,
    pool: common.Pool,
    batches: tuple[Tensor, Tensor],
    public: Tensor,
    block: tuple[str, Mapping[str, Any], bool],
) -> dict[str, Any]:
    """Return the figures of one block."""
    name, options, informed = block
    imprint = Imprint(bins=arguments.bins, **options)
    defenses = ({"name": "masking", "p": arguments.masking},) if arguments.masking else ()
    victim = Victim(
        model=arguments.model, batch_size=arguments.batch, defenses=defenses, adaptive=not arguments.naive
    )
    task = manipulated(victim.task(pool.shape, pool.classes), imprint)
    scores = []
    for number, (images, labels) in enumerate(zip(*batches, strict=True)):
        state = dict(task.build(derive(arguments.seed, "benchmark weights", number)).state_dict())
        state |= imprint.weights(state, pool.shape, public if informed else None)
        group = Group(task, state, images[None], labels[None], number)
        scores.append(read_batch(group, victim, arguments.seed))
    figures = {
        key: common.mean([score[key] for score in scores])
        for key in ("exact", "above_40_db", "similar", "labels", "seconds")
    }
    return {"block": name, "options": options, "public": informed, **figures, "scores": scores}


def row_of(row: Mapping[str, Any]) -> list[str]:
    """Return a line of the table."""
    least = min(score["exact"] for score in row["scores"])
    keys = ("above_40_db", "similar", "labels", "seconds")
    return [row["block"], common.show(row["exact"]), str(least), *(f"{row[key]['mean']:.3g}" for key in keys)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imprint", description=__doc__)
    common.add_options(parser, 20, "batches")
    parser.add_argument("--batch", type=int, default=64, help="images in a batch (default 64)")
    parser.add_argument("--bins", type=int, default=1000, help="over all directions (default 1000)")
    parser.add_argument("--model", default="cnn", help="behind the block (default cnn)")
    parser.add_argument("--masking", type=float, default=0.0, help="share of entries that clients withhold")
    parser.add_argument("--naive", action="store_true", help="the attacker takes withheld entries for zeros")
    parser.add_argument("--into", metavar="FILE.md", help="put the table between the marks of this document")
    arguments = parser.parse_args(argv)
    pool = common.read_pool(arguments)
    asked = arguments.n * arguments.batch
    require(0 <= arguments.masking < 1, "--masking", arguments.masking, "0 to less than 1")
    left = min(PUBLIC, len(pool.split) - asked)
    require(left >= 100, "--n", arguments.n, "so few batches that 100 images are left to be public")
    images, labels = pool.draw(asked + left, arguments.seed)
    shape = (arguments.n, arguments.batch)
    batches = images[:asked].reshape(*shape, *images.shape[1:]), labels[:asked].reshape(shape)
    out = common.prints_to(arguments.json)
    rows = []
    for block in BLOCKS:
        rows.append(measured(arguments, pool, batches, images[asked:], block))
        print(" | ".join(row_of(rows[-1])), file=out, flush=True)
    columns = ["block", f"exact of {arguments.batch}", "fewest", "above 40 dB", "SSIM > .9"]
    columns += ["labels", "seconds"]
    table = common.markdown(columns, [row_of(row) for row in rows])
    command = common.command_line("benchmarks.imprint", vars(arguments), skip=("json", "into"))
    data = common.data_of(pool, images[:asked], labels[:asked])
    common.write_json(
        {"command": command, "machine": common.machine(), "data": data, "rows": rows}, arguments.json
    )
    if arguments.into:
        common.replace_block(Path(arguments.into), f"{BLOCK} {pool.name}", f"`{command}`\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
