"""Adam over many independent problems in lockstep, on the gradient or on its sign."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from adversary.optimizers.lbfgs import Evaluate, Minimum

Rate = Callable[[int], float]
"""Number of the step, from 0 -> learning rate."""

After = Callable[[Tensor, Tensor, float], Tensor]
"""(points (k, n), rows (k,), learning rate) -> points: a projection, or noise, after each step."""


def step_decay(learning_rate: float, steps: int) -> Rate:
    """Return a rate that falls tenfold at 3/8, 5/8 and 7/8 of the steps (Geiping et al. 2020)."""
    marks = [share * steps for share in (3 / 8, 5 / 8, 7 / 8)]
    return lambda step: learning_rate * 0.1 ** sum(step >= mark for mark in marks)


def cosine_decay(learning_rate: float, steps: int, warmup: int = 0) -> Rate:
    """Return a rate that rises linearly for `warmup` steps, then falls to zero along half a cosine."""

    def rate(step: int) -> float:
        if step < warmup:
            return learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(1, steps - warmup)
        return learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return rate


def shifted(rate: Rate, first: int) -> Rate:
    """Return the rate from its step `first` on."""
    return lambda step: rate(first + step)


def adam(
    evaluate: Evaluate,
    start: Tensor,
    rate: Rate,
    *,
    max_evaluations: int,
    signed: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    after: After | None = None,
    targets: Tensor | None = None,
    keep: Literal["best", "last"] = "best",
) -> Minimum:
    """Minimise each row of `start` (P, n), and return the best point that each row met.

    Or the `last`, with the least loss met all the same: where the loss jitters, and the rate falls to zero,
    the last point is the better one. A row whose loss is no number any more ends at its best.

    Kingma & Ba 2015, Algorithm 1; `signed` puts the gradient's sign in the gradient's place (Geiping et al.
    2020, section 4). `targets` (P,) are losses at which a row has converged (none where missing); such a row
    stops, as does one whose loss is not a number.
    """
    points, best = start.clone(), start.clone()
    losses = torch.full((len(start),), math.inf, dtype=start.dtype, device=start.device)
    goals = torch.full_like(losses, -math.inf) if targets is None else targets.to(losses)
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    evaluations = torch.zeros(len(start), dtype=torch.int64)
    rows = torch.arange(len(start), device=start.device)
    for step in range(max_evaluations):
        found, gradients = evaluate(points[rows], rows)
        evaluations[rows.cpu()] += 1
        better = found < losses[rows]
        losses[rows[better]], best[rows[better]] = found[better], points[rows[better]]
        broken = rows[~found.isfinite()]
        points[broken] = best[broken]
        running = found.isfinite() & (found > goals[rows])
        rows, gradients = rows[running], gradients[running]
        if len(rows) == 0:
            break
        gradients = gradients.sign() if signed else gradients
        first[rows] = torch.lerp(first[rows], gradients, 1 - betas[0])
        second[rows] = torch.lerp(second[rows], gradients.square(), 1 - betas[1])
        deviation = (second[rows] / (1 - betas[1] ** (step + 1))).sqrt() + 1e-8
        size = rate(step)
        moved = points[rows] - size / (1 - betas[0] ** (step + 1)) * first[rows] / deviation
        points[rows] = moved if after is None else after(moved, rows, size)
    ends = points if keep == "last" else best
    return Minimum(points=ends, losses=losses, evaluations=evaluations, converged=(losses <= goals).cpu())
