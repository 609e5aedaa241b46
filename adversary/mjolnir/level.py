"""How strong the noise on a gradient is: declared by the defence, or read off the gradient alone."""

import torch
from torch import Tensor

from adversary.labels import classifier_names
from adversary.mjolnir.vectors import NOTHING, flatten, presence, signal_to_noise
from adversary.objectives import NAIVE
from adversary.problem import Problem
from fedsim.errors import InputError

ROUNDS = 50
"""Of alternating least squares, where entries are absent."""
RIDGE = 1e-9
"""Of their squares: decides what no entry tells."""


def declared_level(problem: Problem) -> Tensor:
    """Return the standard deviation of the noise on each entry that the attacker knows of, (P,)."""
    std = (problem.knowledge or NAIVE).noise_std / abs(problem.unit)
    return torch.full((len(problem),), std, dtype=problem.like.dtype, device=problem.like.device)


def estimated_level(problem: Problem) -> Tensor:
    r"""Return the noise's standard deviation, (P,), from the gradient of the classifier alone.

    Weight and bias of the last layer, side by side A (C, K), are a sum of B products, one an image: of rank
    at most B. What is left of A beyond its first B singular values is noise alone, for any distribution:
    $\sigma^2 = ||A - A_B||^2 / (n - B C - \sum_k \min(B, n_k) + B^2)$, $A_B$ the nearest matrix of rank B
    over the n entries that are there, $n_k$ of them in column k. Within a tenth for one image with up to nine
    entries of ten absent; too high where few are left for each parameter of the fit. Raises InputError where
    none is.
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
    values = values.nan_to_num(0.0, 0.0, 0.0)  # one broken upload must not stop the others
    rank, (rows, columns) = problem.batch_size, values.shape[1:]
    fitted = there.sum(dim=1).clamp(max=rank).sum(dim=1) + rank * (rows - rank)
    free = there.sum(dim=(1, 2)) - fitted
    if rank >= min(rows, columns) or bool((free < 1).any()):
        allowed = f"fewer images than classes ({rows}), and entries enough; or a declared level"
        raise InputError(f"level = 'estimated': batch of {rank}; allowed: {allowed}")
    rest = (values - low_rank(values, there, rank)) * there
    std: Tensor = (rest.square().sum(dim=(1, 2)) / free).sqrt()
    return std.to(problem.like)


def shown_ratio(problem: Problem, std: Tensor) -> Tensor:
    r"""Return the signal-to-noise ratio that uploads show under noise `std` (P,), (P,).

    $\sqrt{\max(0, ||g^*||^2 / (\sigma^2 d) - 1)}$ over the d entries that are there: of the upload's mean
    square, $\sigma^2$ is the noise's. Infinite without noise.
    """
    seen = signal_to_noise(flatten(problem.target), std, presence(problem.present, problem.target))
    return (seen.square() - 1).clamp(min=0).sqrt()


def low_rank(values: Tensor, there: Tensor, rank: int) -> Tensor:
    """Return the matrix of a rank nearest to `values` (P, C, K) over the entries that are there.

    By alternating least squares where some are absent.
    """
    left, size, right = torch.linalg.svd(values * there, full_matrices=False)
    left, right = left[:, :, :rank] * size[:, None, :rank], right[:, :rank].mT
    if not bool(there.all()):
        for _ in range(ROUNDS):
            right = _factor(values.mT, there.mT, left)
            left = _factor(values, there, right)
    return torch.as_tensor(left @ right.mT)


def _factor(values: Tensor, there: Tensor, other: Tensor) -> Tensor:
    """Return the rows (P, C, B) whose products with `other` (P, K, B) are nearest to `values` (P, C, K)."""
    weights = there.to(values)
    squares = torch.einsum("pck,pkb,pkd->pcbd", weights, other, other)
    products = torch.einsum("pck,pkb->pcb", weights * values, other)
    least = RIDGE * squares.diagonal(dim1=2, dim2=3).mean(dim=(1, 2)).clamp(min=NOTHING)
    unit = torch.eye(other.shape[2], dtype=values.dtype, device=values.device)
    found: Tensor = torch.linalg.solve(squares + least[:, None, None, None] * unit, products)
    return found
