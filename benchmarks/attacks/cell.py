"""One cell of the benchmark, alone in its process: one method on some captures.

Reads its description as JSON from standard input and writes its figures to standard output, so that nothing
that another method loaded or kept counts towards its memory and its time.
"""

import argparse
import contextlib
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adversary.problem import Problem
from benchmarks.attacks import breaching_peer, ours, textbook
from benchmarks.attacks.gauge import Gauge
from benchmarks.common import data_of, read_pool
from benchmarks.victims import Group, Victim, groups_of
from fedsim.seeds import derive

SMALL: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"hidden": (100,), "activation": "sigmoid"},
    "vit": {"dim": 48, "depth": 2},
}
"""Options of the small models beside LeNet; those of 28x28 or 32x32 have 60,000 to 310,000 parameters."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a process is to do; every field is JSON."""

    method: str
    """`ours`, `textbook` or `breaching`."""
    attack: str
    model: str
    captures: int
    """How many are attacked, all of one draw of weights."""
    first: int = 0
    start: str | None = None
    """Where ours starts, if not from its default."""
    at_once: int = 1
    """How many in lockstep; peers take one at a time."""
    iterations: int
    """Budget of Inverting Gradients and of ours: evaluations a start."""
    variation: float
    data: str | None
    size: int | None
    classes: int | None
    n: int
    """All captures that are drawn; the same ones for every method."""
    seed: int
    device: str
    threads: int
    cuda_graphs: bool = False
    """Whether ours replays its evaluations on a GPU."""


def execute(cell: Cell) -> dict[str, Any]:
    """Return the rows of a cell, and the memory it took."""
    torch.set_num_threads(cell.threads)
    torch.manual_seed(cell.seed)  # breaching draws DLG's labels from the global generator
    pool = read_pool(argparse.Namespace(**asdict(cell)))
    images, labels = pool.draw(cell.n, cell.seed)
    known = cell.attack == "inverting"
    options = SMALL.get(cell.model, {})
    mode: Literal["train", "eval"] = "eval" if known else "train"
    victim = Victim(model=cell.model, model_options=options, mode=mode, labels_known=known)
    (group,) = groups_of(victim, images, labels, pool.classes, cell.seed, per_weights=cell.n)
    dtype = torch.float64 if cell.method == "ours" else torch.float32
    chosen = list(range(cell.first, cell.first + cell.captures))
    problem = group.problem(victim, cell.seed, dtype, cell.device).select(chosen)
    truths = [group.images[row, 0] for row in chosen]
    before = peak_memory()
    problem = replace(problem, graphs=cell.cuda_graphs)
    rows = _ours(cell, problem, truths) if cell.method == "ours" else _peer(cell, group, problem, truths)
    for row, label in zip(rows, labels[chosen].tolist(), strict=True):
        row["label"] = label
    memory = {"peak_mb": peak_memory(), "before_mb": before}
    if cell.device != "cpu":
        memory["device_peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return {"cell": asdict(cell), "data": data_of(pool, images, labels), **memory, "rows": rows}


def _ours(cell: Cell, problem: Problem, truths: Sequence[Tensor]) -> list[dict[str, Any]]:
    ours.attack_of(cell.attack, 2).attack(problem.select([0]))  # what is loaded at the first call
    attack = ours.attack_of(cell.attack, cell.iterations, cell.start)
    return ours.lockstep(problem, truths, attack, cell.at_once)


def _peer(cell: Cell, group: Group, problem: Problem, truths: Sequence[Tensor]) -> list[dict[str, Any]]:
    model = group.task.build(0)
    model.load_state_dict(dict(group.weights))
    model = model.to(cell.device).train(cell.attack != "inverting")
    # The starts of ours: reconstruct() draws them from these seeds.
    problem = replace(problem, seeds=tuple(derive(seed, "start", 0) for seed in problem.seeds))
    pixels = truths[0].numel()
    drawn = problem.draw(pixels + problem.task.num_classes) if cell.attack == "dlg" else None
    starts = problem.draw_images() if drawn is None else drawn[:, :pixels].reshape(-1, 1, *truths[0].shape)
    logits = None if drawn is None else drawn[:, None, pixels:]
    method = _breaching(cell, model) if cell.method == "breaching" else _textbook(cell, model)
    rows = []
    for row, truth in enumerate(truths):
        observed = [value[row] for value in problem.target.values()]
        square = 1.0 if cell.attack == "inverting" else float(sum(value.square().sum() for value in observed))
        goal = {"goal": -1.0} if cell.attack == "inverting" else {}
        gauge = Gauge(truth.to(cell.device), square, **goal)
        label = None if problem.labels is None else problem.labels[row]
        rows.append(method(observed, starts[row], None if logits is None else logits[row], label, gauge))
    return rows


def _textbook(cell: Cell, model: nn.Module) -> Any:
    def method(
        observed: list[Tensor], start: Tensor, logits: Tensor | None, label: Tensor | None, gauge: Gauge
    ) -> dict[str, Any]:
        if label is None:
            return textbook.deep_leakage(model, observed, start, logits, gauge)
        return textbook.inverting(model, observed, start, label, gauge, cell.iterations, cell.variation)

    return method


def _breaching(cell: Cell, model: nn.Module) -> Any:
    def method(
        observed: list[Tensor], start: Tensor, logits: Tensor | None, label: Tensor | None, gauge: Gauge
    ) -> dict[str, Any]:
        del logits  # it draws its own
        attacker = breaching_peer.attacker_of(cell.attack, model, cell.iterations, cell.variation)
        return breaching_peer.reconstruct(attacker, model, observed, start, label, gauge)

    return method


def peak_memory() -> float:
    """Return the largest resident size of this process so far, in MB.

    Linux tells it of this program alone; elsewhere getrusage may count what the parent had.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def main() -> None:
    cell = Cell(**json.load(sys.stdin))
    with contextlib.redirect_stdout(sys.stderr):
        result = execute(cell)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
