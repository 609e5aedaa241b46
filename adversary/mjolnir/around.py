"""What the upload itself still says of an image that was found in its denoised gradient."""

from dataclasses import replace

import torch
from torch import Tensor

from adversary.attacks.prior_weights import noise_weight
from adversary.coordinates import Chart
from adversary.lockstep import lockstep, matching_losses
from adversary.mjolnir.chain import drawn
from adversary.mjolnir.surrogate import after_defense, gradients_of
from adversary.mjolnir.vectors import unflatten
from adversary.objectives import NAIVE, matching
from adversary.optimizers.lbfgs import Evaluate, Stop, lbfgs
from adversary.precision import cast
from adversary.priors import box, total_variation
from adversary.problem import Evidence, Problem
from fedsim.seeds import torch_generator

SURPLUS = 1.5
"""How many times what it explains of noise alone a search has to explain: by digits at ratios of 1 to 8 and
small colour pictures at 1 to 4, forty and thirty of them."""


def mended(
    problem: Problem, images: Tensor, labels: Tensor, *, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    """Return images (P, B, C, H, W) mended where the noisy gradients of the problem's first round say so.

    And the evaluations spent (P,).

    A search explains some noise whatever it departs from: how much is seen by the same search in the gradient
    of the image itself, under noise drawn anew. What it finds counts where it explains SURPLUS times that.
    """
    problem = replace(problem, rounds=())  # what noise alone explains is drawn anew of this one
    found, spent = search_around(problem, images, labels, max_evaluations=max_evaluations)
    other = redrawn(problem, images, labels)
    fitted, more = search_around(other, images, labels, max_evaluations=max_evaluations)
    gain = _gain(problem, labels, images, found)
    enough = SURPLUS * _gain(other, labels, images, fitted).clamp(min=0)
    chosen = torch.where((gain > enough)[:, None, None, None, None], found, images.to(found))
    return chosen, spent + more


def redrawn(problem: Problem, images: Tensor, labels: Tensor) -> Problem:
    """Return the problem as it were if these images were the truth: with their gradients, and other noise."""
    rows = after_defense(problem, gradients_of(problem, images.to(problem.like), labels))
    std = (problem.knowledge or NAIVE).noise_std / abs(problem.unit)
    noise = drawn([torch_generator(seed, "mjolnir noise") for seed in problem.seeds], rows)
    target = unflatten(rows + std * noise, problem.target)
    masked = {
        name: value * problem.present[name] if name in problem.present else value
        for name, value in target.items()
    }
    return replace(problem, target=masked)


def _gain(problem: Problem, labels: Tensor, before: Tensor, after: Tensor) -> Tensor:
    losses = [matching_losses(problem, one.to(problem.like), labels) for one in (before, after)]
    return losses[0] - losses[1]


def search_around(
    problem: Problem, centre: Tensor, labels: Tensor, *, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    r"""Return the images (P, B, C, H, W) that explain noisy gradients and depart from `centre` in patches.

        min over x of ||g(x) - g^*||^2 / ||g^*||^2 + w (TV(x - c) + 10 box(x))

    from c, with w by the universal threshold (`noise_weight`): what departs from c is what the gradient says
    above the noise that is known of, and nothing where it says nothing. With grey for c it is MAP, whose
    prior is TV(x). Also returns evaluations (P,).
    """
    single = cast(problem, torch.float32)
    chart = Chart(tuple(problem.task.input_shape))
    evaluate = _evaluator(single, chart, centre.to(single.like), labels, noise_weight(single))
    start = chart.of(centre.to(single.like)).flatten(1)
    found = lbfgs(evaluate, start, Stop(max_evaluations=max_evaluations, patience=60))
    images = chart.images(found.points.reshape(len(problem), problem.batch_size, -1))
    return images.to(problem.like), found.evaluations


def _evaluator(problem: Problem, chart: Chart, centre: Tensor, labels: Tensor, weight: Tensor) -> Evaluate:
    distance = matching(problem)

    def loss(
        variables: Tensor, fixed: Tensor, evidence: tuple[Evidence, ...], c: Tensor, w: Tensor
    ) -> Tensor:
        images = chart.images(variables.reshape(problem.batch_size, -1))
        prior = total_variation(images - c) + 10 * box(images)
        return distance(images, fixed, evidence) + w * prior

    batched = lockstep(problem, loss)

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        own = points.to(problem.like)
        losses, slopes = batched(own, labels[rows], problem.evidence(rows), centre[rows], weight[rows])
        return losses.to(points), slopes.to(points)

    return evaluate
