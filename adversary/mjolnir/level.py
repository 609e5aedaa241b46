"""How strong the noise on a gradient is: declared by the defence, or read off the gradient alone."""

import torch
from torch import Tensor

from adversary.labels import classifier_names
from adversary.objectives import NAIVE
from adversary.problem import Problem
from fedsim.errors import InputError

FILLINGS = 30
"""Rounds in which absent entries are filled by the low-rank fit of the others."""


def declared_level(problem: Problem) -> Tensor:
    """Return the standard deviation of the noise on each entry that the attacker knows of, (P,)."""
    std = (problem.knowledge or NAIVE).noise_std / abs(problem.unit)
    return torch.full((len(problem),), std, dtype=problem.like.dtype, device=problem.like.device)


def estimated_level(problem: Problem) -> Tensor:
    r"""Return the noise's standard deviation, (P,), from the gradient of the classifier alone.

    Weight and bias of the last layer, side by side A (C, K), are a sum of B products, one an image: of rank
    at most B. What is left of A beyond its first B singular values is noise alone, for any distribution:
    $\sigma^2 = \sum_{i > B} s_i^2 / (n - B (C + K - B))$, n the entries that are there. Absent ones are
    filled by the fit, again and again. Raises InputError where B is no smaller than C: nothing is left.
    """
    try:
        names = classifier_names(problem)
    except ValueError as error:
        raise InputError(f"level = 'estimated': {error}; allowed: a declared level") from None
    parts = [problem.target[name].reshape(len(problem), problem.task.num_classes, -1) for name in names]
    masks = [
        problem.present.get(name, torch.ones_like(problem.target[name], dtype=torch.bool)).reshape(part.shape)
        for name, part in zip(names, parts, strict=True)
    ]
    values, there = torch.cat(parts, dim=2).double(), torch.cat(masks, dim=2)
    rank, (rows, columns) = problem.batch_size, values.shape[1:]
    free = there.sum(dim=(1, 2)) - rank * (rows + columns - rank)
    if rank >= min(rows, columns) or bool((free < 1).any()):
        allowed = f"fewer images than classes ({rows}), and entries enough; or a declared level"
        raise InputError(f"level = 'estimated': batch of {rank}; allowed: {allowed}")
    rest = (values - low_rank(values, there, rank)) * there
    std: Tensor = (rest.square().sum(dim=(1, 2)) / free).sqrt()
    return std.to(problem.like)


def low_rank(values: Tensor, there: Tensor, rank: int) -> Tensor:
    """Return the matrix of a rank nearest to `values` (P, C, K) over the entries that are there."""
    fit = torch.zeros_like(values)
    for _ in range(1 if bool(there.all()) else FILLINGS):
        left, size, right = torch.linalg.svd(torch.where(there, values, fit), full_matrices=False)
        fit = left[:, :, :rank] * size[:, None, :rank] @ right[:, :rank]
    return fit
