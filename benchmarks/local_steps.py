"""What several local steps hide: the same uploads attacked as one gradient, by a surrogate point, unrolled.

    python -m benchmarks.local_steps [--data FILE.npz] [--n N] [--seed S] [--evaluations M] [--json OUT]

`--n` clients train LeNet from the same fresh weights for E epochs in batches of B over a few images each;
labels are granted, so that the figures are of the images alone. Every attack gets the same number of
evaluations of its objective; one costs a gradient where the update is taken for one, and as much as the
client's steps where these are unrolled. Printed: PSNR and SSIM, mean over the images with a 95 % interval
(BCa bootstrap over clients), and the seconds a client.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adversary.attacks import ATTACKS
from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.matching import match
from adversary.metrics import psnr, ssim
from adversary.problem import Problem, frozen_model
from adversary.reconstruct import reconstruct
from benchmarks import common
from fedsim.data.dataset import Indices
from fedsim.options import build
from fedsim.seeds import derive
from fedsim.tasks.classification import ClassificationTask, classification_task
from fedsim.training import Recipe, draw_batches, train
from fedsim.training.batches import number_of_batches

BLOCK = "local-steps"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a client does: `epochs` over `images` in batches of `batch`."""

    images: int
    epochs: int
    batch: int


CASES = (
    Case(images=1, epochs=2, batch=1),
    Case(images=4, epochs=1, batch=2),
    Case(images=4, epochs=2, batch=4),
    Case(images=4, epochs=2, batch=2),
    Case(images=8, epochs=2, batch=4),
)
Way = tuple[str, str, Mapping[str, Any]]
"""What a table calls it, the attack and its options."""

WAYS: tuple[Way, ...] = (
    ("as one gradient", "idlg", {}),
    ("surrogate point", "sme", {}),
    ("unrolled, an order drawn", "local_steps", {"batches": "drawn"}),
    ("unrolled, batches searched", "local_steps", {}),
    ("unrolled, epochs apart", "epoch_invariant", {}),
)


class Held:
    """The split that a client holds."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._pair = images, labels
        self.labels = labels.numpy()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batch(self, indices: Indices | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images and labels at these positions."""
        rows = torch.as_tensor(np.asarray(indices))
        return self._pair[0][rows], self._pair[1][rows]


def problem_of(
    case: Case, images: Tensor, labels: Tensor, task: ClassificationTask, rate: float, seed: int
) -> Problem:
    """Train clients on images (P, n, C, H, W), float32, shuffled, and return their updates' problem."""
    recipe = Recipe(epochs=case.epochs, batch_size=case.batch, learning_rate=rate)
    weights = dict(task.build(derive(seed, "benchmark weights")).state_dict())
    captures = []
    for number, (own, classes) in enumerate(zip(images, labels, strict=True)):
        model = task.build(0)
        model.load_state_dict(weights)
        batches = draw_batches(recipe, np.arange(case.images), seed, number, 1)
        update = train(task, model, Held(own, classes), batches, recipe, seed=0).update
        captures.append(
            Capture(round=1, client=number, node=number + 1, upload="update", arrays=update, present={})
        )
    return build_problem(
        captures,
        weights,
        task,
        frozen_model(task, weights),
        learning_rate=rate,
        steps=number_of_batches(recipe, case.images),
        batch_size=case.images,
        seeds=[derive(seed, "benchmark start", number) for number in range(len(images))],
        labels=labels.sort(dim=1).values,
        recipe=recipe,
    )


def measured(
    case: Case, problem: Problem, images: Tensor, evaluations: int, ways: Sequence[Way] = WAYS
) -> list[dict[str, Any]]:
    """Return the figures of every way of attacking the clients of a case, one line a way."""
    rows = []
    for way, name, options in ways:
        attack = build(ATTACKS.resolve(name), {"max_evaluations": evaluations, **options}, name)
        begun = time.perf_counter()
        results = reconstruct(attack, problem)
        seconds = (time.perf_counter() - begun) / len(results)
        scores = [scored(r.images, own) for r, own in zip(results, images, strict=True)]
        owners = [number for number, (values, _) in enumerate(scores) for _ in values]
        rows.append(
            {
                **asdict(case),
                "way": way,
                "attack": name,
                "options": options,
                "psnr": common.mean([value for values, _ in scores for value in values], owners),
                "ssim": common.mean([value for _, values in scores for value in values], owners),
                "seconds": seconds,
                "scores": [{"psnr": a, "ssim": b} for a, b in scores],
            }
        )
    return rows


def scored(images: Tensor, truth: Tensor) -> tuple[list[float], list[float]]:
    """Return PSNR and SSIM of a client's images (n, C, H, W), clipped to [0, 1] and matched."""
    found = images.nan_to_num(0.5).clamp(0, 1)
    ordered = torch.stack([found[pair] for pair in match(found, truth) if pair is not None])
    return psnr(ordered, truth).tolist(), ssim(ordered, truth).tolist()


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table: a row a case, a column a way, `PSNR / SSIM`."""
    ways = [way for way, _, _ in WAYS]
    lines = []
    for case in dict.fromkeys((row["images"], row["epochs"], row["batch"]) for row in rows):
        mine = {r["way"]: r for r in rows if (r["images"], r["epochs"], r["batch"]) == case}
        cells = [f"{common.show(mine[w]['psnr'], 3)} / {common.show(mine[w]['ssim'], 2)}" for w in ways]
        lines.append([f"{case[0]} image{'s' * (case[0] > 1)}, E{case[1]} B{case[2]}", *cells])
    seconds = [np.mean([row["seconds"] for row in rows if row["way"] == way]) for way in ways]
    lines.append(["seconds a client", *(f"{value:.0f}" for value in seconds)])
    return common.markdown(["client", *ways], lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local_steps", description=__doc__)
    common.add_options(parser, 3, "clients of each case")
    parser.add_argument(
        "--evaluations", type=int, default=400, help="of each attack's objective (default 400)"
    )
    parser.add_argument("--rate", type=float, default=0.03, help="the clients' learning rate (default 0.03)")
    parser.add_argument("--into", metavar="FILE.md", help="put the table between the marks of this document")
    arguments = parser.parse_args(argv)
    pool = common.read_pool(arguments)
    task = classification_task("lenet", {}, pool.shape, pool.classes)
    rows: list[dict[str, Any]] = []
    out = common.prints_to(arguments.json)
    for case in CASES:
        images, labels = pool.draw(arguments.n * case.images, arguments.seed)
        batches = images.reshape(arguments.n, case.images, *pool.shape)
        targets = labels.reshape(arguments.n, case.images)
        problem = problem_of(case, batches, targets, task, arguments.rate, arguments.seed)
        rows += measured(case, problem, batches, arguments.evaluations)
        print(table_of(rows).splitlines()[-2], file=out, flush=True)
    table = table_of(rows)
    print(table, file=out)
    command = common.command_line("benchmarks.local_steps", vars(arguments), skip=("json", "into"))
    common.write_json({"command": command, "machine": common.machine(), "rows": rows}, arguments.json)
    if arguments.into:
        common.replace_block(Path(arguments.into), BLOCK, f"`{command}`\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
