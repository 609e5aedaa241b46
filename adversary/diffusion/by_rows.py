"""The noisy images by row spaces: the search, and how it gets out of where it ends wrongly."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

import torch
from torch import Tensor

from adversary.diffusion.layers import Place
from adversary.diffusion.rowspace import row_spaces
from adversary.objectives import noise_floor
from adversary.optimizers.lbfgs import Evaluate, Minimum, Stop, lbfgs
from adversary.problem import Problem

SETTLE = 100
"""Evaluations after which a search by row spaces has an image, though perhaps a shifted one."""
REACH = 1
"""By how many positions of the coarsest layer images are moved each way."""
HOPELESS = 1e-2
"""Loss of a batch with an image in the wrong place: 3e-2 and more, where right ones are at 1e-3 by then."""
NEAR = 2.0
"""How many times its loss a moved image may have to be looked at; wrong ones have 3 to 5 times it."""


def by_row_spaces(
    problem: Problem, where: list[Place], timesteps: Tensor, start: Tensor, max_evaluations: int
) -> Minimum:
    """Return the noisy images (P, pixels) that the layers' row spaces lead to from `start`.

    Row spaces do not know in which order the patches come: an image that is moved by a position of the
    coarsest layer has nearly the same ones, all but those at the edge, and searches end there; so they do
    where images of a batch stand in each other's place, at each other's timestep. So every now and then each
    one is moved back where that leads further down. A batch that is nowhere near then is given up.
    """
    evaluate, step = row_spaces(problem, where, timesteps), coarsest(problem, where)
    found, left, share = _nowhere(start), max_evaluations, SETTLE
    while left > 0:
        stop = Stop(max_evaluations=min(share, left), patience=50, min_progress=1e-3)
        further = lbfgs(evaluate, found.points, stop)
        ended = bool((further.evaluations < stop.max_evaluations).all())
        found = replace(further, evaluations=found.evaluations + further.evaluations)
        left, share = max_evaluations - int(found.evaluations.max()), 2 * share
        before = found
        if left >= SETTLE:
            found = _moved_back(problem, evaluate, found, step)
            left = max_evaluations - int(found.evaluations.max())
        if (ended and torch.equal(before.points, found.points)) or _is_hopeless(problem, found):
            break
    return found


def _is_hopeless(problem: Problem, found: Minimum) -> bool:
    """Return whether batches that nothing disturbs are so far off that another start is worth more."""
    undisturbed = problem.batch_size > 1 and not problem.slack and not noise_floor(problem).any()
    far = bool((found.losses > HOPELESS).all()) and int(found.evaluations.max()) >= 3 * SETTLE
    return undisturbed and far


def _nowhere(start: Tensor) -> Minimum:
    """Return where a search stands that has not begun."""
    count, none = len(start), torch.full_like(start[:, 0], math.inf)
    return Minimum(start, none, torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool))


def _moved_back(problem: Problem, evaluate: Evaluate, found: Minimum, step: int) -> Minimum:
    """Return what is found from the nearest moved images where it is better."""
    moved, losses, tried = nearest_move(problem, evaluate, found.points, step)
    spent = found.evaluations + tried
    if not bool((losses < NEAR * found.losses).any()):
        return replace(found, evaluations=spent)
    other = lbfgs(evaluate, moved, Stop(max_evaluations=SETTLE // 2))
    better = other.losses < found.losses
    points = torch.where(better[:, None], other.points, found.points)
    lower = torch.minimum(other.losses, found.losses)
    return replace(found, points=points, losses=lower, evaluations=spent + other.evaluations)


def nearest_move(
    problem: Problem, evaluate: Evaluate, points: Tensor, step: int
) -> tuple[Tensor, Tensor, int]:
    """Return of points (P, pixels) with an image moved, or two in each other's place, those of least loss.

    With their losses (P,) and how many were looked at.
    """
    rows, best = torch.arange(len(points), device=points.device), torch.full_like(points[:, 0], math.inf)
    moves = list(_moves(points.reshape(-1, problem.batch_size, *problem.task.input_shape), step))
    nearest = points
    for moved in moves:
        losses = evaluate(moved.flatten(1), rows)[0]
        nearest = torch.where((losses < best)[:, None], moved.flatten(1), nearest)
        best = torch.minimum(best, losses)
    return nearest, best, len(moves)


def _moves(batches: Tensor, step: int) -> Iterator[Tensor]:
    """Yield batches (P, B, C, H, W) with one image moved, then with two in each other's place."""
    size, reach = batches.shape[1], range(-REACH, REACH + 1)
    for image, down, across in product(range(size), reach, reach):
        if (down, across) != (0, 0):
            moved = batches.clone()
            moved[:, image] = moved[:, image].roll((step * down, step * across), dims=(-2, -1))
            yield moved
    for one, other in combinations(range(size), 2):
        order = list(range(size))
        order[one], order[other] = other, one
        yield batches[:, order]


def coarsest(problem: Problem, where: list[Place]) -> int:
    """Return how many pixels a position of the coarsest layer is wide."""
    widths = [place.shape[-1] for place in where if len(place.shape) == 4]
    return max(1, problem.task.input_shape[-1] // min(widths, default=problem.task.input_shape[-1]))
