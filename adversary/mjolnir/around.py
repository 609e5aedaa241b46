"""What the upload itself still says of an image that was found in its denoised gradient."""

import torch
from torch import Tensor

from adversary.attacks.prior_weights import OVERFIT, noise_unit, noise_weight
from adversary.coordinates import Chart
from adversary.lockstep import lockstep, matching_losses
from adversary.objectives import matching
from adversary.optimizers.lbfgs import Evaluate, Stop, lbfgs
from adversary.precision import cast
from adversary.priors import box, total_variation
from adversary.problem import Evidence, Problem


def mended(
    problem: Problem, images: Tensor, labels: Tensor, *, max_evaluations: int
) -> tuple[Tensor, Tensor]:
    """Return images (P, B, C, H, W) mended where noisy gradients say so, and evaluations (P,).

    Those of `search_around` where they explain more than an image could of noise alone: a unit of noise for
    each of OVERFIT of the pixels. A search explains some noise whatever it departs from.
    """
    found, evaluations = search_around(problem, images, labels, max_evaluations=max_evaluations)
    losses = [matching_losses(problem, one.to(problem.like), labels) for one in (images, found)]
    more = losses[0] - losses[1] > OVERFIT * images[0].numel() * noise_unit(problem)
    return torch.where(more[:, None, None, None, None], found, images.to(found)), evaluations


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
