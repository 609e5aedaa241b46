"""How much the prior of images weighs against the distance of gradients."""

import torch
from torch import Tensor

from adversary.objectives import noise_floor
from adversary.problem import Problem


def prior_weights(problem: Problem) -> list[Tensor]:
    """Return the weights (P,) of the prior, one stage after the other; a single zero where none is needed.

    Maximum a posteriori: `||g - g*||^2 / (2 sigma^2) + TV / b`, divided by `||g*||^2 / (2 sigma^2)`,
    gives the weight `2 sigma^2 / (b ||g*||^2)`; b = 1/3 was best over noise of 0.03 to 0.2 on MNIST. Entries
    that are missing without noise leave a set of images that fit: annealing the weight towards zero finds the
    one of least variation.
    """
    zero = torch.zeros(len(problem), dtype=problem.like.dtype, device=problem.like.device)
    if problem.knowledge is None:
        return [zero]
    entries = sum(int(value[0].numel()) for value in problem.target.values())
    noise = 6 * noise_floor(problem) / entries
    if problem.present or problem.slack:
        return [zero + weight + noise for weight in (1e-5, 1e-6, 1e-7, 1e-8)]
    return [10 * noise, noise] if bool((noise > 0).any()) else [zero]
