"""What `torch.compile`, or on a GPU a CUDA graph, does to the evaluations of iDLG: the same ones, timed.

    python -m benchmarks.compiled [--data FILE.npz] [--n N] [--seed S] [--json OUT] [--device cuda]

The matching loss and its gradient of N captures of one LeNet at once, float32, one thread, as it is and
compiled (on a GPU: recorded and replayed as well): seconds of compilation, milliseconds an evaluation of all,
largest difference of the gradients relative to the largest gradient, and after how many evaluations the
compilation would have paid. Medians of 30, bootstrap intervals.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from adversary.objectives import matching
from adversary.precision import cast
from adversary.problem import Evidence, Problem
from adversary.replay import Outcome, record_cuda
from benchmarks import common
from benchmarks.victims import Victim, groups_of
from fedsim.engines.environment import threads

TIMES = 30

Evaluate = Callable[[Tensor], Outcome]


def evaluation_of(problem: Problem, labels: Tensor) -> Evaluate:
    """Return what evaluates the matching loss of images (P, B, C, H, W), and its gradient."""
    distance = matching(problem)

    def loss(images: Tensor, fixed: Tensor, seen: tuple[Evidence, ...]) -> Tensor:
        return distance(images, fixed, seen)

    batched = vmap(grad_and_value(loss))
    evidence = problem.evidence()
    return lambda images: batched(images, labels, evidence)


def timed(evaluate: Evaluate, images: Tensor) -> list[float]:
    """Return the seconds of each of TIMES evaluations."""
    found = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        evaluate(images)[1].cpu()  # a GPU is done when its values are here
        found.append(time.perf_counter() - begun)
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures, and the hash of the data."""
    pool = common.read_pool(arguments)
    images, labels = pool.draw(arguments.n, arguments.seed)
    victim = Victim()
    (group,) = groups_of(victim, images, labels, pool.classes, arguments.seed, arguments.n)
    problem = cast(group.problem(victim, arguments.seed, device=arguments.device), torch.float32)
    points = torch.full((arguments.n, 1, *pool.shape), 0.5) + 0.1 * problem.draw_images().float()
    points = points.to(problem.like)
    plain = evaluation_of(problem, group.labels.to(arguments.device))
    compiled: Evaluate = torch.compile(plain)
    expected = plain(points)[0]
    begun = time.perf_counter()
    found = compiled(points)[0]
    spent = time.perf_counter() - begun
    seconds = {"as it is": timed(plain, points), "compiled": timed(compiled, points)}
    before, after = (statistics.median(values) for values in seconds.values())
    if problem.like.is_cuda:
        graph = record_cuda(lambda leaves: plain(*leaves), [points])
        seconds["replayed"] = timed(lambda images: graph([images]), points)
    return {
        "data": common.data_of(pool, images, labels),
        "compilation": spent,
        "error": float((found - expected).abs().max() / expected.abs().max()),
        "milliseconds": {name: common.median([1e3 * value for value in of]) for name, of in seconds.items()},
        "pays_after": spent / (before - after) if after < before else None,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; see the module's docstring."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common.add_options(top, 16, "captures")
    top.add_argument("--device", default="cpu")
    arguments = top.parse_args(argv)

    def run() -> None:
        with threads(1):
            found = measure(arguments)
        out = common.prints_to(arguments.json)
        print(f"compilation {found['compilation']:.0f} s, largest error {found['error']:.1e}", file=out)
        for name, value in found["milliseconds"].items():
            print(f"{name}: {common.show(value)} ms an evaluation of {arguments.n} captures", file=out)
        after = found["pays_after"]
        print("never pays" if after is None else f"pays after {after:,.0f} evaluations", file=out)
        common.write_json({"benchmark": "compiled", "command": vars(arguments), **found}, arguments.json)

    return common.exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
