"""The noisy images, without their noise: from layers' inputs that are solved for, else from row spaces."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adversary.diffusion.inputs import LayerInput, is_solvable, solve_input
from adversary.diffusion.layers import called, diffusion, patches, recording
from adversary.diffusion.rowspace import row_spaces, with_whole_rows
from adversary.optimizers.lbfgs import Minimum, Stop, lbfgs
from adversary.problem import Problem

EXCESS = 6
"""How many numbers the solved inputs have to give for each of the noisy image, where so many are had."""
TOLD = 10.0
"""How many times its squared misfit may be left of inputs that the noisy image explains."""
TOO_FAR = 0.1
"""Misfit above which a solved input is not trusted."""


@dataclass(frozen=True)
class Place:
    """A layer on the way, as one image passes it."""

    name: str
    shape: torch.Size
    """Of its input."""
    positions: int
    width: int
    """Weights per output, K, the bias included."""


def places(problem: Problem) -> list[Place]:
    """Return the plain layers that see the image, in the order of their calls; those called once."""
    task, names = diffusion(problem), called(problem, timed=False)
    image = problem.like.new_zeros(1, *task.input_shape)
    with torch.no_grad(), recording(problem.model, names) as seen:
        task.predict(problem.model, image, torch.zeros(1, dtype=torch.long, device=image.device))
    found = []
    for name in names:
        if len(seen[name]) == 1:
            rows = patches(problem.model.get_submodule(name), seen[name], 1)
            found.append(Place(name, seen[name][0].shape, rows.shape[1], rows.shape[2]))
    return found


def solved_inputs(problem: Problem, where: list[Place]) -> dict[str, LayerInput]:
    """Return by layer the inputs that follow from the gradient of the problem's only capture, of one image.

    The first ones that give EXCESS numbers for each pixel; none of those that had entries left out.
    """
    pixels, had, found = problem.like[0].new_zeros(problem.task.input_shape).numel(), 0, {}
    for place in where:
        layer = problem.model.get_submodule(place.name)
        whole = not any(f"{place.name}.{part}" in problem.present for part in ("weight", "bias"))
        if had >= EXCESS * pixels or not whole or not is_solvable(layer, place.positions):
            continue
        assert isinstance(layer, torch.nn.Conv2d)
        one = solve_input(layer, place.name, problem.target, place.shape, place.positions)
        if one.misfit < TOO_FAR:
            found[place.name] = one
            had += one.value.numel()
    return found


def invert_inputs(
    problem: Problem, inputs: dict[str, LayerInput], timesteps: Tensor, start: Tensor, max_evaluations: int
) -> Minimum:
    r"""Return the noisy image (1, pixels) at which the layers' inputs are those solved for, by L-BFGS.

    $\sum_l w_l \|a_l(x_t) - a_l\|^2 / \|a_l\|^2$ with weights $1 / misfit_l^2$ that sum to 1.
    """
    task = diffusion(problem)
    total = sum(one.weight for one in inputs.values())
    shares = {name: one.weight / total for name, one in inputs.items()}

    def evaluate(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        point = points.detach().requires_grad_()
        with torch.enable_grad(), recording(problem.model, list(inputs), enough=True) as seen:
            task.predict(problem.model, point.reshape(1, *task.input_shape), timesteps)
        gaps = [
            shares[name] * (seen[name][0] - one.value).square().sum() / one.value.square().sum()
            for name, one in inputs.items()
        ]
        loss = torch.stack(gaps).sum()
        return loss.detach()[None], torch.autograd.grad(loss, point)[0]

    stop = Stop(max_evaluations=max_evaluations, patience=50, min_progress=0.05)
    return lbfgs(evaluate, start, stop, targets=start.new_tensor([1e-3 * misfit(inputs) ** 2]))


def misfit(inputs: dict[str, LayerInput]) -> float:
    """Return the root mean square of the misfits, by their weights: 1 / sqrt(mean(1 / misfit^2))."""
    return math.sqrt(len(inputs) / sum(one.weight for one in inputs.values()))


def by_row_spaces(
    problem: Problem, names: list[str], timesteps: Tensor, start: Tensor, max_evaluations: int
) -> Minimum:
    """Return the noisy images (P, pixels) that the layers' row spaces lead to, or the start."""
    names = with_whole_rows(problem, names)
    stop = Stop(max_evaluations=max_evaluations if names else 1)
    return lbfgs(row_spaces(problem, names, timesteps), start, stop)


def find_noisy(
    problem: Problem, timesteps: Tensor, start: Tensor, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    """Return noisy images (P, B, C, H, W) at `timesteps` (P, B) from `start` (P, pixels), evaluations (P,).

    From solved inputs where there are any; by row spaces from there on where these do not tell all.
    """
    where = places(problem)
    size = problem.batch_size
    names = [place.name for place in where if size * place.positions < place.width]
    found, spent, told = start.clone(), torch.zeros(len(start), dtype=torch.int64), []
    for row in range(len(start) if size == 1 else 0):
        one = problem.select([row])
        inputs = solved_inputs(one, where)
        if inputs:
            reached = invert_inputs(one, inputs, timesteps[row], start[row : row + 1], max_evaluations)
            found[row], spent[row] = reached.points[0], reached.evaluations[0]
            told += [row] if reached.losses[0] <= TOLD * misfit(inputs) ** 2 else []
    rest = [row for row in range(len(start)) if row not in told]
    if rest:
        part = problem.select(rest)
        reached = by_row_spaces(part, names, timesteps[rest], found[rest], max_evaluations)
        found[rest] = reached.points
        spent[rest] += reached.evaluations
    return found.reshape(len(found), size, *problem.task.input_shape), spent
