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
    where, size = places(problem), problem.batch_size
    found, spent, told = start.clone(), torch.zeros(len(start), dtype=torch.int64), []
    for row, begun in enumerate(start):
        one = problem.select([row])
        inputs = solved_inputs(one, where)
        if inputs:
            reached = by_inputs(one, inputs, timesteps[row], begun.reshape(size, -1), max_evaluations)
            found[row], spent[row] = reached.points.flatten(), reached.evaluations.max()
            told += [row] if bool(reached.converged.all()) else []
    rest = [row for row in range(len(start)) if row not in told]
    where = [place for place in where if is_usable(problem, place)]
    if rest and where:
        part = problem.select(rest)
        reached = by_row_spaces(part, where, timesteps[rest], found[rest], max_evaluations)
        found[rest] = reached.points
        spent[rest] += reached.evaluations
    return found.reshape(len(found), size, *problem.task.input_shape), spent
