"""Gradient matching by L-BFGS: what DLG and iDLG share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adversary.attacks.prior_weights import prior_weights, telling
from adversary.lockstep import lockstep
from adversary.objectives import Comparison, Distance, matching, noise_floor
from adversary.optimizers.adam import adam, cosine_decay
from adversary.optimizers.lbfgs import Evaluate, Minimum, Preview, Stop, lbfgs
from adversary.precision import Precision, cast
from adversary.priors import image_prior
from adversary.problem import Evidence, Problem
from fedsim.tasks.diffusion import DiffusionTask

Split = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(variables (n,), row's labels) -> (images, labels) of one capture."""

Objective = Callable[[Tensor, Tensor, tuple[Evidence, ...]], Tensor]
"""(variables (n,), row's labels, evidence) of one capture -> scalar."""

Penalty = Callable[[Tensor], Tensor]
"""Variables (n,) of one capture -> scalar."""

Minimize = Callable[[Evaluate, Tensor, Stop, Tensor, Tensor, Preview | None], Minimum]
"""(evaluate, start (P, n), stop, targets (P,), budgets (P,), cheaper evaluation) -> where each row ended."""

EXPLAINED = 1e-6
"""A relative matching loss below which the gradient counts as explained (the released iDLG stops at 1e-6)."""
CERTIFIED = 1e-8
"""The same without noise or rounding: at 2e-8 an image may still be off by a mean square of 0.005."""
TELLING = 3e-5
"""What `telling` is at least where CERTIFIED holds. Where it is smaller, the bounds are by the square: what
tells images apart worst then shrinks faster than what does on average."""
BLUNT = 1e-4
"""The smallest share of the bounds: below it is the rounding of the client's float32."""
SINGLE_PRECISION = 1e-8
"""Down to this loss L-BFGS does as well in float32, at half the price; further down its path is longer."""


@dataclass(frozen=True)
class Matched:
    """Where the matching ended; `losses` are without the prior."""

    variables: Tensor
    losses: Tensor
    evaluations: Tensor
    converged: Tensor


def by_lbfgs(
    evaluate: Evaluate, start: Tensor, stop: Stop, targets: Tensor, budgets: Tensor, preview: Preview | None
) -> Minimum:
    """Minimise by L-BFGS; a row may spend its own budget (P,), what earlier stages left of it included."""
    return lbfgs(evaluate, start, stop, targets=targets, budgets=budgets, preview=preview)


def by_signed_adam(
    evaluate: Evaluate, start: Tensor, stop: Stop, targets: Tensor, budgets: Tensor, preview: Preview | None
) -> Minimum:
    """Minimise over [0, 1] by Adam on the gradient's sign: for models with kinks (Geiping et al. 2020)."""
    del budgets, preview  # the schedule of its rate is the same for every row
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
    compare: Comparison | None = None,
    objective: Objective | None = None,
    penalty: Penalty | None = None,
    smoothness: float = 0.0,
    minimize: Minimize = by_lbfgs,
    precision: Precision = "mixed",
) -> Matched:
    """Minimise matching loss + prior over `start` (P, n), stage after stage with a smaller prior.

    `compare` is how two gradients are compared; `objective` stands in for the whole distance of one gradient
    to the observed one; `penalty` is added to it, and `smoothness` to the prior's weight. With `mixed`
    precision stages before the last, and the way down to SINGLE_PRECISION where there is no prior, go by
    float32. The losses returned are the objective's alone.
    """

    def at(weight: Tensor, of: Problem = problem) -> Evaluate:
        loss = objective or matched(matching(of, compare=compare), split)
        return _evaluator(of, loss, split, labels, weight, penalty)

    # An objective that is handed in holds the problem as it is: there is no other precision of it.
    single = cast(problem, torch.float32) if precision == "mixed" and objective is None else None
    stages = prior_weights(problem)
    certified = CERTIFIED * (1.0 if objective else sharpness(problem))
    point, spent = start, torch.zeros(len(problem), dtype=torch.int64)
    for number, weight in enumerate(stages, start=1):
        last = number == len(stages)
        budgets = (max_evaluations * number // len(stages) - spent).clamp(min=2)
        evaluate, preview = at(weight + smoothness), None
        if single is not None and not last:  # a stage that only prepares the next
            evaluate = at(weight + smoothness, single)
        elif single is not None and not bool((weight > 0).any()):
            preview = Preview(at(weight + smoothness, single), SINGLE_PRECISION)
        goal = torch.where(weight == 0, 0.1 * certified, 0.0)
        stop = Stop(max_evaluations=max(2, max_evaluations // len(stages)), patience=300 if last else 60)
        found = minimize(evaluate, point, stop, goal, budgets, preview)
        point, spent = found.points, spent + found.evaluations
    losses = at(torch.zeros_like(stages[-1]))(point, torch.arange(len(problem), device=point.device))[0]
    enough = torch.where(stages[-1] == 0, certified, EXPLAINED)
    converged = losses <= torch.maximum(enough, 1.5 * noise_floor(problem))
    return Matched(variables=point, losses=losses, evaluations=spent, converged=converged.cpu())


def sharpness(problem: Problem) -> Tensor:
    """Return by what (P,) the bounds on the loss are to be multiplied so that they tell images apart.

    1 for untrained classifiers, and where a prior has a say; BLUNT at least.
    """
    weight = prior_weights(problem)[-1]
    if isinstance(problem.task, DiffusionTask) or bool((weight > 0).any()):
        return torch.ones_like(weight)
    return (telling(problem) / TELLING).square().clamp(BLUNT, 1.0)


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
            value = value + w * image_prior(images)
        return value

    batched = lockstep(problem, loss)

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        own, weights = points.to(problem.like), weight[rows].to(problem.like)
        losses, gradients = batched(own, labels[rows], problem.evidence(rows), weights)
        return losses.to(points), gradients.to(points)

    return evaluate
