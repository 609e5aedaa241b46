"""What the model was to predict, given the noisy images: the gradient is linear in the prediction's error."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from adversary.diffusion.layers import diffusion
from adversary.objectives import NAIVE, noise_floor
from adversary.optimizers.cgls import Operator, cgls
from adversary.problem import Problem
from fedsim.models.attention import twice_differentiable

FIT = 1e-4
"""Share of the gradient's length that may be left over: its square is the matching loss."""

MEMORY = 1 << 28
"""Bytes that the directions of conjugate gradients may take."""


class Linear(NamedTuple):
    """A gradient as a linear function of the prediction's error, both flat, over the entries present."""

    prediction: Tensor
    """(B, C, H, W)"""
    apply: Operator
    adjoint: Operator
    wanted: Tensor
    """What `apply` is to give: the observed gradient, without the loss's factor 2 / N."""


def solve_target(
    problem: Problem, noisy: Tensor, timesteps: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    r"""Return clean images, in [0, 1], and noise (B, C, H, W) behind the only capture of a problem.

    With $p$ the prediction for the noisy images (B, C, H, W) at `timesteps` (B,) and y what it was to be, the
    gradient of the loss is $g = \frac{2}{N} J^T (p - y)$, J the Jacobian of p in the weights: p - y by least
    squares over the entries that are present, then image and noise from y and the noisy images. Where the
    gradient's length says nothing, noise of variance 1 gives it.
    """
    with twice_differentiable():
        known = _linear(problem, noisy, timesteps)
        prediction, wanted = known.prediction.detach(), known.wanted
        # Further down float32 has lost the conjugacy of its directions; below the noise nothing is told.
        tolerance, fit = 10 * torch.finfo(wanted.dtype).eps, max(FIT, float(noise_floor(problem)[0].sqrt()))
        memory = min(iterations, MEMORY // (prediction.numel() * prediction.element_size()))
        found = cgls(
            known.apply,
            known.adjoint,
            wanted,
            iterations=iterations,
            tolerance=tolerance,
            fit=fit,
            memory=memory,
        ).reshape(prediction.shape)
    if (problem.knowledge or NAIVE).scale_free:
        found = found * _scale(problem, prediction, found, noisy, timesteps)
    clean, noise = diffusion(problem).resolve(prediction - found, noisy, timesteps)
    return (clean + 1) / 2, noise


def _linear(problem: Problem, noisy: Tensor, timesteps: Tensor) -> Linear:
    r"""Return $e \mapsto J^T e$ at the noisy images, and its adjoint, by the gradient's own gradient."""
    parameters = {name: value.detach().requires_grad_() for name, value in problem.model.named_parameters()}
    entries = {name: mask[0] for name, mask in problem.present.items()}

    def shown(values: tuple[Tensor, ...]) -> Tensor:
        named = zip(parameters, values, strict=True)
        return torch.cat([(v * entries[n] if n in entries else v).flatten() for n, v in named])

    prediction: Tensor = functional_call(problem.model, parameters, (noisy, timesteps))
    error = torch.zeros_like(prediction, requires_grad=True)
    weights = list(parameters.values())
    gradient = shown(torch.autograd.grad(prediction, weights, error, create_graph=True))

    def apply(value: Tensor) -> Tensor:
        at = value.reshape(prediction.shape)
        return shown(torch.autograd.grad(prediction, weights, at, retain_graph=True))

    def adjoint(value: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, error, value, retain_graph=True)[0].flatten()

    observed = shown(tuple(problem.target[name][0] for name in parameters))
    return Linear(prediction, apply, adjoint, observed * prediction.numel() / 2)


def _scale(problem: Problem, prediction: Tensor, error: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Return c > 0 at which noise(p - c e) has variance 1; noise is linear in c, so c solves a quadratic."""
    task = diffusion(problem)
    start = task.resolve(prediction, noisy, timesteps)[1]
    slope = task.resolve(prediction - error, noisy, timesteps)[1] - start
    a, b = slope.square().mean(), (start * slope).mean()
    c = start.square().mean() - 1
    return ((b * b - a * c).clamp(min=0).sqrt() - b) / a
