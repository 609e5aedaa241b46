"""Gradient matching by L-BFGS: what DLG and iDLG share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from adversary.attacks.prior_weights import prior_weights
from adversary.objectives import Distance, matching, noise_floor
from adversary.optimizers.adam import adam, cosine_decay
from adversary.optimizers.lbfgs import Evaluate, Minimum, Stop, lbfgs
from adversary.priors import box, total_variation
from adversary.problem import Evidence, Problem

Split = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(variables (n,), row's labels) -> (images, labels) of one capture."""

Objective = Callable[[Tensor, Tensor, tuple[Evidence, ...]], Tensor]
"""(variables (n,), row's labels, evidence) of one capture -> scalar."""

Penalty = Callable[[Tensor], Tensor]
"""Variables (n,) of one capture -> scalar."""

Minimize = Callable[[Evaluate, Tensor, Stop, Tensor, Tensor], Minimum]
"""(evaluate, start (P, n), stop, targets (P,), budgets (P,)) -> where each row ended."""

EXPLAINED = 1e-6
"""A relative matching loss below which the gradient counts as explained (the released iDLG stops at 1e-6)."""


@dataclass(frozen=True)
class Matched:
    """Where the matching ended; `losses` are without the prior."""

    variables: Tensor
    losses: Tensor
    evaluations: Tensor
    converged: Tensor


def by_lbfgs(evaluate: Evaluate, start: Tensor, stop: Stop, targets: Tensor, budgets: Tensor) -> Minimum:
    """Minimise by L-BFGS; a row may spend its own budget (P,), what earlier stages left of it included."""
    return lbfgs(evaluate, start, stop, targets=targets, budgets=budgets)


def by_signed_adam(
    evaluate: Evaluate, start: Tensor, stop: Stop, targets: Tensor, budgets: Tensor
) -> Minimum:
    """Minimise over [0, 1] by Adam on the gradient's sign: for models with kinks (Geiping et al. 2020)."""
    del budgets  # the schedule of its rate is the same for every row
    return adam(
        evaluate,
        start.clamp(0, 1),
        cosine_decay(0.1, stop.max_evaluations),
        max_evaluations=stop.max_evaluations,
        signed=True,
        after=lambda points, _rows, _rate: points.clamp(0, 1),
        targets=targets,
    )


def match(
    problem: Problem,
    start: Tensor,
    labels: Tensor,
    split: Split,
    *,
    max_evaluations: int,
    objective: Objective | None = None,
    penalty: Penalty | None = None,
    smoothness: float = 0.0,
    minimize: Minimize = by_lbfgs,
) -> Matched:
    """Minimise matching loss + prior over `start` (P, n), stage after stage with a smaller prior.

    `objective` stands in for the distance of one gradient to the observed one, `penalty` is added to it, and
    `smoothness` to the prior's weight. The losses returned are the objective's alone.
    """
    loss = objective or matched(matching(problem), split)
    noisy = noise_floor(problem)
    stages = prior_weights(problem)
    point, spent = start, torch.zeros(len(problem), dtype=torch.int64)
    for number, weight in enumerate(stages, start=1):
        last = number == len(stages)
        budgets = (max_evaluations * number // len(stages) - spent).clamp(min=2)
        evaluate = _evaluator(problem, loss, split, labels, weight + smoothness, penalty)
        goal = torch.where(weight == 0, 1e-3 * EXPLAINED, 0.0)
        stop = Stop(max_evaluations=max(2, max_evaluations // len(stages)), patience=300 if last else 60)
        found = minimize(evaluate, point, stop, goal, budgets)
        point, spent = found.points, spent + found.evaluations
    plain = _evaluator(problem, loss, split, labels, torch.zeros_like(noisy), None)
    losses = plain(point, torch.arange(len(problem), device=point.device))[0]
    explained = losses <= torch.maximum(torch.full_like(noisy, EXPLAINED), 1.5 * noisy)
    return Matched(variables=point, losses=losses, evaluations=spent, converged=explained.cpu())


def matched(distance: Distance, split: Split) -> Objective:
    """Return the objective that compares the dummy batch which `split` makes of the variables."""

    def objective(variables: Tensor, fixed: Tensor, evidence: tuple[Evidence, ...]) -> Tensor:
        return distance(*split(variables, fixed), evidence)

    return objective


def _evaluator(
    problem: Problem,
    objective: Objective,
    split: Split,
    labels: Tensor,
    weight: Tensor,
    penalty: Penalty | None,
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    with_prior = bool((weight > 0).any())

    def loss(variables: Tensor, fixed: Tensor, evidence: tuple[Evidence, ...], w: Tensor) -> Tensor:
        value = objective(variables, fixed, evidence)
        if penalty is not None:
            value = value + penalty(variables)
        if with_prior:
            images, _ = split(variables, fixed)
            value = value + w * (total_variation(images) + 10 * box(images))
        return value

    batched = vmap(grad_and_value(loss))

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        gradients, losses = batched(points, labels[rows], problem.evidence(rows), weight[rows])
        return losses, gradients

    return evaluate
