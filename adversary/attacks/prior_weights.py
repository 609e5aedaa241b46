"""How much the prior of images weighs against the distance of gradients."""

from collections.abc import Callable, Mapping
from math import prod, sqrt

import torch
from torch import Tensor, nn

from adversary.labels import infer_labels
from adversary.objectives import NAIVE
from adversary.problem import Problem
from fedsim.tasks.diffusion import DiffusionTask

ANNEALED = (1e-5, 1e-6, 1e-7, 1e-8)
"""Weights, one stage after the other, where entries are missing or known to an interval, without noise."""
STEP = 0.1
"""How far pixels are moved to see how the gradient moves."""
APART = 1e-3
"""Mean square by which the images of `telling` differ: what counts as read."""
DIFFERENCE = 0.05
"""Mean distance of neighbouring pixels (0.053 in CIFAR-10, and in LFW at 32x32)."""


def prior_weights(problem: Problem) -> list[Tensor]:
    """Return the weights (P,) of the prior, one stage after the other; a single zero where none is needed.

    Entries that are missing without noise leave a set of images that fit: annealing the weight towards zero
    finds the one of least variation.
    """
    zero = torch.zeros(len(problem), dtype=problem.like.dtype, device=problem.like.device)
    if problem.knowledge is None:
        return [zero]
    noise = noise_weight(problem)
    if problem.present or problem.slack:
        return [noise + weight for weight in ANNEALED]
    return [10 * noise, noise] if bool((noise > 0).any()) else [zero]


def noise_weight(problem: Problem) -> Tensor:
    r"""Return the weight (P,) of total variation under known noise: `1.2 sigma s / ||g*||^2`.

    By the universal threshold (Donoho & Johnstone 1994): in `||J x - g*||^2 + w TV(x)` noise of standard
    deviation sigma pulls on a pixel by about `2 sigma s`, with `s` the length of a column of the Jacobian
    J, and what the prior has to outweigh is that pull. So w grows as sigma and not as sigma^2, by which a
    fixed prior and Bayes would have it. Over R rounds of one batch the pull is `1 / sqrt(R)` of that.
    """
    length = _length(problem, problem.target)
    std = (problem.knowledge or NAIVE).noise_std / abs(problem.unit)
    if std == 0:
        return torch.zeros_like(length)
    moved = sensitivity(problem, length)
    return 1.2 * std * moved / length.square() / sqrt(1 + len(problem.rounds))


def likely_weight(problem: Problem) -> Tensor:
    r"""Return `noise_weight`, at most what Bayes gives total variation, (P,): $2 \sigma^2 / (b \|g^*\|^2)$.

    Differences of neighbours as a double exponential of mean b = `DIFFERENCE`. Under weak noise the former is
    more, and smooths what the gradient tells well (`benchmarks.gidm defenses --granted`: at an SNR of 23 the
    naive attacker was nearer to the image, 49 dB against 45, and is not to this one, who has 50).
    """
    return torch.minimum(noise_weight(problem), 2 / DIFFERENCE * noise_unit(problem))


def noise_unit(problem: Problem) -> Tensor:
    r"""Return what known noise on one entry adds to the relative distance: $\sigma^2 / \|g^*\|^2$, (P,).

    Zero without noise that is known of.
    """
    std = (problem.knowledge or NAIVE).noise_std / problem.unit
    return std**2 / _length(problem, problem.target).square()


def sensitivity(problem: Problem, length: Tensor) -> Tensor:
    """Return how far the present entries of a gradient move for each unit by which a pixel does, (P,).

    Measured between two random images. Where the observed gradient tells no length, for one as long as that.
    """
    shape = (2, problem.batch_size, *problem.task.input_shape)
    draws = problem.draw(*shape)
    start, there = 0.5 + 0.2 * draws[:, 0], 0.5 + 0.2 * draws[:, 0] + STEP * draws[:, 1]
    before, after = _gradients(problem, start), _gradients(problem, there)
    first = {name: torch.stack([one[name] for one in before]) for name in problem.target}
    change = {name: torch.stack([one[name] for one in after]) - value for name, value in first.items()}
    moved: Tensor = _length(problem, change) / (draws[:, 1] * STEP).flatten(1).norm(dim=1)
    if problem.knowledge is not None and problem.knowledge.scale_free:
        tiny = torch.finfo(length.dtype).tiny
        return moved * length / _length(problem, first).clamp(min=tiny)
    return moved


def telling(problem: Problem) -> Tensor:
    """Return the matching loss (P,) of an image that is off by a mean square of APART, at random.

    `APART n s^2 / ||g*||^2` for n pixels and the `sensitivity` s: 1e-4 to 1e-2 for untrained classifiers.
    Training saturates sigmoids: then gradients differ that little by what is in the image (1e-9 was seen).
    """
    length = _length(problem, problem.target)
    pixels = problem.batch_size * prod(problem.task.input_shape)
    return APART * pixels * (sensitivity(problem, length) / length).square()


def _gradients(problem: Problem, images: Tensor) -> list[dict[str, Tensor]]:
    """Return each capture's gradient for images (P, B, *input_shape), by parameter."""
    if not isinstance(problem.task, DiffusionTask):
        return [problem.gradient(*pair) for pair in zip(images, _labels(problem), strict=True)]
    task, times, noise = problem.task, problem.timesteps, problem.noise
    assert times is not None
    assert noise is not None

    def loss_of(row: int) -> Callable[[nn.Module], Tensor]:
        return lambda model: task.loss_at(model, images[row], times[row], noise[row].to(images))

    return [problem.gradient_of(loss_of(row)) for row in range(len(problem))]


def _labels(problem: Problem) -> Tensor:
    if problem.labels is not None:
        return problem.labels
    try:
        return infer_labels(problem)
    except ValueError:  # no classifier to read them off: DLG searches them
        shape = (len(problem), problem.batch_size)
        return torch.zeros(shape, dtype=torch.int64, device=problem.like.device)


def _length(problem: Problem, values: Mapping[str, Tensor]) -> Tensor:
    """Return the length (P,) of gradients over the entries that are present."""
    squares = [
        (value * problem.present[name] if name in problem.present else value).flatten(1).square().sum(dim=1)
        for name, value in values.items()
    ]
    return torch.stack(squares).sum(dim=0).sqrt()
