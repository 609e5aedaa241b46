"""Timesteps of models in which no layer sees them alone: those at which a noisy image explains most."""

import torch
from torch import Tensor

from adversary.diffusion.layers import Place, diffusion, places
from adversary.diffusion.noisy import find_noisy
from adversary.diffusion.rowspace import is_usable, row_spaces
from adversary.problem import Problem
from fedsim.errors import InputError

GRID = 16
"""Timesteps that are tried at first, spread evenly over T: all of a short chain."""


def enumerate_timesteps(problem: Problem, start: Tensor, max_evaluations: int) -> Tensor:
    """Return the timesteps (P, 1), int64, whose noisy image, from `start` (P, pixels), fits row spaces best.

    Tried on a grid, then on ever finer ones around the best so far, each from the image found there. Raises
    InputError for batches, and for models whose layers tell nothing of the image.
    """
    if problem.batch_size > 1:
        raise InputError(
            "model: no layer sees the timestep alone, and a batch has several; allowed: grant `timesteps`"
        )
    where = [place for place in places(problem) if is_usable(problem, place)]
    if not where:
        raise InputError("model: no layer tells timestep or image; allowed: grant `timesteps`")
    count = diffusion(problem).timesteps
    step = -(-count // GRID)
    tried = torch.arange(step // 2, count, step).expand(len(problem), -1)
    best, images = tried[:, 0], start
    losses = torch.full_like(start[:, 0], torch.inf)
    while True:
        for times in tried.clamp(0, count - 1).T:
            found, scores = _fit(problem, where, times[:, None].to(start.device), images, max_evaluations)
            better = scores < losses
            losses = torch.where(better, scores, losses)
            best = torch.where(better.cpu(), times.clamp(0, count - 1), best)
            images = torch.where(better[:, None], found, images)
        if step == 1:
            return best[:, None].to(start.device)
        step = -(-step // 2)
        tried = torch.stack([best - step, best + step], dim=1)


def _fit(
    problem: Problem, where: list[Place], times: Tensor, start: Tensor, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    """Return the noisy images (P, pixels) found at timesteps (P, 1), and the misfit of row spaces (P,)."""
    noisy = find_noisy(problem, times, start, max_evaluations)[0].flatten(1)
    rows = torch.arange(len(problem), device=noisy.device)
    return noisy, row_spaces(problem, where, times)(noisy, rows)[0]
