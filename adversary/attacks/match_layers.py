"""Gradient matching behind many sigmoids: each layer in units of what tells images apart there."""

from math import prod

import torch
from torch import Tensor
from torch.func import vmap

from adversary.attacks.match import CERTIFIED, Matched, Split, match, matched
from adversary.balance import layer_spreads
from adversary.objectives import layer_squares, matching, spread_squares
from adversary.priors import box
from adversary.problem import Problem

MISFITS = (1.0, 1e-3)
"""Share of what tells images apart that a stage takes for unexplained, stage after stage."""


def match_layers(
    problem: Problem, start: Tensor, labels: Tensor, split: Split, *, max_evaluations: int
) -> Matched:
    """Minimise `spread_squares` and the box over `start` (P, n), stage after stage, in float64.

    The gradients of deep layers of sigmoids are nearly the same whatever the image: relative to their length
    all is explained before the image has moved. Relative to how far those of images lie apart every layer
    counts; as the image is found, the later stage lets those layers go that rounding has the last word on.
    Judged by `layer_squares`, at most CERTIFIED.
    """
    spreads, pixels = layer_spreads(problem), problem.batch_size * prod(problem.task.input_shape)
    point, spent = start, torch.zeros(len(problem), dtype=torch.int64)
    for misfit in MISFITS:
        found = match(
            problem,
            point,
            labels,
            split,
            max_evaluations=max_evaluations // len(MISFITS),
            compare=spread_squares(spreads, misfit),
            penalty=lambda variables: box(split(variables, variables)[0]) / pixels,
            precision="double",
        )
        point, spent = found.variables, spent + found.evaluations
    objective = matched(matching(problem, compare=layer_squares), split)
    losses: Tensor = vmap(objective)(point, labels, problem.evidence())
    converged = (losses <= CERTIFIED).cpu()
    return Matched(variables=point, losses=losses, evaluations=spent, converged=converged)
