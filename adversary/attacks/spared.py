"""Captures whose start explains the gradient already: they are spared the search."""

from collections.abc import Callable

import torch
from torch import Tensor

from adversary.attacks.match import CERTIFIED
from adversary.attacks.prior_weights import prior_weights
from adversary.lockstep import matching_losses
from adversary.problem import Attempt, Problem


def spared(
    problem: Problem, images: Tensor, labels: Tensor | None, search: Callable[[list[int]], Attempt]
) -> Attempt:
    """Return what `search` finds of the captures (rows) that images (P, B, *input_shape) do not explain.

    A start is the answer where its matching loss is where a search ends, a tenth of CERTIFIED, which costs
    an evaluation. Where a prior has a say, or labels (P, B) are None, every capture is searched.
    """
    everything = list(range(len(problem)))
    if labels is None or any(bool((weight > 0).any()) for weight in prior_weights(problem)):
        return search(everything)
    losses = matching_losses(problem, images, labels)
    checked = Attempt(
        images=images,
        labels=labels,
        losses=losses,
        evaluations=torch.ones(len(problem), dtype=torch.int64),
        converged=(losses <= 0.1 * CERTIFIED).cpu(),
    )
    rows = [row for row in everything if not checked.converged[row]]
    return _put(checked, search(rows), rows) if rows else checked


def _put(checked: Attempt, found: Attempt, rows: list[int]) -> Attempt:
    """Return the attempt with what was found of `rows` in place of what was checked."""
    merged = {}
    for name in ("images", "labels", "losses", "evaluations", "converged"):
        merged[name] = getattr(checked, name).clone()
        merged[name][rows] = getattr(found, name).to(merged[name])
    merged["evaluations"][rows] += 1
    return Attempt(**merged)
