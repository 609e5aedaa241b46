"""The noisy images, without their noise: from layers' inputs that are solved for, else from row spaces."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

import torch
from torch import Tensor

from adversary.diffusion.inputs import LayerInput, is_solvable, solve_input
from adversary.diffusion.layers import Place, diffusion, places, recording
from adversary.diffusion.rowspace import is_usable, row_spaces
from adversary.objectives import noise_floor
from adversary.optimizers.lbfgs import Evaluate, Minimum, Stop, lbfgs
from adversary.problem import Problem

EXCESS = 6
"""How many numbers the solved inputs have to give for each of the noisy image, where so many are had."""
TOLD = 10.0
"""How many times its squared misfit may be left of inputs that the noisy image explains."""
EXACT = 1e-2
"""Misfit above which a solved input is not trusted."""
SETTLE = 100
"""Evaluations after which a search by row spaces has an image, though perhaps a shifted one."""
REACH = 1
"""By how many positions of the coarsest layer images are moved each way."""
HOPELESS = 1e-2
"""Loss of a batch with an image in the wrong place: 3e-2 and more, where right ones are at 1e-3 by then."""
NEAR = 2.0
"""How many times its loss a moved image may have to be looked at; wrong ones have 3 to 5 times it."""


def solved_inputs(problem: Problem, where: list[Place]) -> dict[str, LayerInput]:
    """Return by layer the inputs that follow from the gradient of the problem's only capture.

    The first ones that give EXCESS numbers for each pixel; none of those that had entries left out.
    """
    size, pixels, had, found = problem.batch_size, math.prod(problem.task.input_shape), 0, {}
    for place in where:
        layer = problem.model.get_submodule(place.name)
        whole = not any(f"{place.name}.{part}" in problem.present for part in ("weight", "bias"))
        if had >= EXCESS * pixels or not whole or not is_solvable(layer, size * place.positions):
            continue
        assert isinstance(layer, torch.nn.Conv2d)
        one = solve_input(layer, place.name, problem.target, place.shape, size)
        if one.misfit < EXACT:
            found[place.name] = one
            had += one.value.numel()
    return found


def invert_inputs(
    problem: Problem, inputs: dict[str, LayerInput], timesteps: Tensor, start: Tensor, max_evaluations: int
) -> Minimum:
    r"""Return the noisy images (B, pixels) at which the layers' inputs are those solved for, by L-BFGS.

    $\sum_l w_l \|a_l(x_t) - a_l\|^2 / \|a_l\|^2$ with weights $1 / misfit_l^2$ that sum to 1, a the nearest
    point of the plane: each image of a batch by itself, from `start` (B, pixels), found by its timestep (B,).
    """
    task = diffusion(problem)
    total = sum(one.weight for one in inputs.values())
    shares = {name: one.weight / total for name, one in inputs.items()}

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        point = points.detach().requires_grad_()
        with torch.enable_grad(), recording(problem.model, list(inputs), enough=True) as seen:
            task.predict(problem.model, point.reshape(-1, *task.input_shape), timesteps[rows])
        gaps = [shares[name] * one.gap(seen[name][0]) for name, one in inputs.items()]
        losses = torch.stack(gaps).sum(dim=0)
        return losses.detach(), torch.autograd.grad(losses.sum(), point)[0]

    stop = Stop(max_evaluations=max_evaluations, patience=50, min_progress=0.05)
    return lbfgs(evaluate, start, stop, targets=torch.full_like(start[:, 0], 1e-3 * misfit(inputs) ** 2))


def misfit(inputs: dict[str, LayerInput]) -> float:
    """Return the root mean square of the misfits, by their weights: 1 / sqrt(mean(1 / misfit^2))."""
    return math.sqrt(len(inputs) / sum(one.weight for one in inputs.values()))


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


def find_noisy(
    problem: Problem, timesteps: Tensor, start: Tensor, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    """Return noisy images (P, B, C, H, W) at `timesteps` (P, B) from `start` (P, pixels), evaluations (P,).

    From solved inputs where these tell all; by row spaces else, from where the former led to.
    """
    where, size = places(problem), problem.batch_size
    found, spent, told = start.clone(), torch.zeros(len(start), dtype=torch.int64), []
    for row, begun in enumerate(start):
        one = problem.select([row])
        inputs = solved_inputs(one, where)
        if inputs:
            images = begun.reshape(size, -1)
            reached = invert_inputs(one, inputs, timesteps[row], images, max_evaluations)
            found[row], spent[row] = reached.points.flatten(), reached.evaluations.max()
            told += [row] if bool((reached.losses <= TOLD * misfit(inputs) ** 2).all()) else []
    rest = [row for row in range(len(start)) if row not in told]
    where = [place for place in where if is_usable(problem, place)]
    if rest and where:
        part = problem.select(rest)
        reached = by_row_spaces(part, where, timesteps[rest], found[rest], max_evaluations)
        found[rest] = reached.points
        spent[rest] += reached.evaluations
    return found.reshape(len(found), size, *problem.task.input_shape), spent
