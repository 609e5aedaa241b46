"""The noisy images, without their noise: from layers' inputs that are solved for, else from row spaces."""

import torch
from torch import Tensor

from adversary.diffusion.by_inputs import by_inputs, solved_inputs
from adversary.diffusion.by_rows import by_row_spaces
from adversary.diffusion.layers import places
from adversary.diffusion.rowspace import is_usable
from adversary.problem import Problem


def find_noisy(
    problem: Problem, timesteps: Tensor, start: Tensor, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    """Return noisy images (P, B, C, H, W) at `timesteps` (P, B) from `start` (P, pixels), evaluations (P,).

    From solved inputs where these tell all; by row spaces else, from where the former led to.
    """
    found, spent, told = noisy_by_inputs(problem, timesteps, start, max_evaluations)
    rest = (~told).nonzero().flatten().tolist()
    where = [place for place in places(problem) if is_usable(problem, place)]
    if rest and where:
        part = problem.select(rest)
        reached = by_row_spaces(part, where, timesteps[rest], found[rest], max_evaluations)
        found[rest] = reached.points
        spent[rest] += reached.evaluations
    return found.reshape(len(found), problem.batch_size, *problem.task.input_shape), spent


def noisy_by_inputs(
    problem: Problem, timesteps: Tensor, start: Tensor, max_evaluations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy images (P, pixels) from solved inputs, evaluations (P,), and whether these tell all (P,).

    Where no input can be solved for, `start` (P, pixels) is what is returned.
    """
    found, where = start.clone(), places(problem)
    spent, told = (torch.zeros(len(start), dtype=kind) for kind in (torch.int64, torch.bool))
    for row, begun in enumerate(start):
        one = problem.select([row])
        inputs = solved_inputs(one, where)
        if inputs:
            begun = begun.reshape(problem.batch_size, -1)
            reached = by_inputs(one, inputs, timesteps[row], begun, max_evaluations)
            found[row], spent[row] = reached.points.flatten(), reached.evaluations.max()
            told[row] = bool(reached.converged.all())
    return found, spent, told
