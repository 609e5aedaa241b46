"""Ours: many captures at once."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from adversary.attacks import ATTACKS
from adversary.problem import Problem
from adversary.reconstruct import Attack, reconstruct
from benchmarks.attacks.gauge import Spent, quality
from fedsim.options import build


def attack_of(name: str, evaluations: int, start: str | None = None) -> Attack:
    """Return the attack with a budget of evaluations, from its default start or another."""
    options: dict[str, Any] = {"max_evaluations": evaluations}
    if start:
        options["start"] = start
    attack: Attack = build(ATTACKS.resolve(name, "attack"), options, name)
    return attack


def lockstep(
    problem: Problem, truths: Sequence[Tensor], attack: Attack, at_once: int
) -> list[dict[str, Any]]:
    """Return the rows of all captures, `at_once` of them in lockstep.

    What a batch cost is laid to its captures by their evaluations. There is no look at the truth on the way,
    so that `good_*` is the whole.
    """
    rows = []
    for first in range(0, len(problem), at_once):
        part = list(range(first, min(first + at_once, len(problem))))
        start = Spent.now()
        found = reconstruct(attack, problem.select(part))
        spent = Spent.now().since(start)
        total = sum(one.evaluations for one in found)
        for row, one in zip(part, found, strict=True):
            cost = {"cpu": spent.cpu * one.evaluations / total, "wall": spent.wall * one.evaluations / total}
            rows.append(
                {
                    **quality(one.images[0], truths[row]),
                    "label_found": int(one.labels[0]),
                    "loss": one.loss,
                    "evaluations": one.evaluations,
                    **cost,
                    **{f"good_{key}": value for key, value in cost.items()},
                }
            )
    return rows
