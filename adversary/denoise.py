"""The image of least variation among those that fit noisy or missing pixels."""

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from adversary.optimizers.lbfgs import Stop, lbfgs
from adversary.priors import image_prior
from adversary.problem import Problem


def denoise(problem: Problem, images: Tensor, precision: Tensor, *, max_evaluations: int = 400) -> Tensor:
    """Return the maximum a posteriori of images (P, *input_shape) whose pixels carry Gaussian noise.

        min over x of sum_j a_j (x_j - images_j)^2 / (2 sigma^2) + 3 (TV(x) + 10 box(x))

    with sigma the noise that the attacker knows of and `a_j` (the precision, (P, *input_shape)) how much
    gradient tells of pixel j. Pixels of which nothing is told follow the prior alone. Images as they are
    where there is neither noise nor such a pixel.
    """
    if problem.knowledge is None:
        return images
    std = problem.knowledge.noise_std / abs(problem.unit)
    open_ = precision <= 1e-12 * precision.amax(dim=tuple(range(1, precision.dim())), keepdim=True)
    if std == 0 and not bool(open_.any()):
        return images
    fit = torch.where(open_, 0.0, precision / (2 * std**2) if std > 0 else 1e6)
    start = torch.where(open_, 0.5, images)

    def loss(point: Tensor, seen: Tensor, weight: Tensor) -> Tensor:
        image = point.reshape(seen.shape)
        return (weight * (image - seen).square()).sum() + 3 * image_prior(image)

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        gradients, losses = vmap(grad_and_value(loss))(points, start[rows], fit[rows])
        return losses, gradients

    stop = Stop(max_evaluations=max_evaluations)
    targets = torch.full((len(images),), -torch.inf, dtype=images.dtype, device=images.device)
    found = lbfgs(evaluate, start.flatten(1), stop, targets=targets)
    return found.points.reshape(images.shape)
