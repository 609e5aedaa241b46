"""The gradient of a denoiser that images, noise and timesteps would give, compared with the observed one."""

from collections.abc import Callable

import torch
from torch import Tensor

from adversary.attacks.match import EXPLAINED
from adversary.diffusion.layers import diffusion
from adversary.lockstep import lockstep
from adversary.objectives import Comparison, matching, noise_floor
from adversary.problem import Attempt, Evidence, Problem
from fedsim.defenses.upload import Values
from fedsim.models.attention import twice_differentiable

Distance = Callable[[Tensor, Tensor, Tensor, tuple[Evidence, ...]], Tensor]
"""(images, noise (B, C, H, W), timesteps (B,), evidence) of one capture -> scalar."""


def denoising(problem: Problem, compare: Comparison | None = None) -> Distance:
    """Return `adversary.objectives.matching` with the gradient of the denoising loss: defences as there."""
    task = diffusion(problem)

    def gradient(problem: Problem, pair: Tensor, timesteps: Tensor, seen: Evidence) -> Values:
        del seen
        return problem.gradient_of(lambda model: task.loss_at(model, pair[0], timesteps, pair[1]))

    distance = matching(problem, gradient, compare)
    return lambda images, noise, timesteps, seen: distance(torch.stack([images, noise]), timesteps, seen)


def judged(
    problem: Problem, images: Tensor, noise: Tensor, timesteps: Tensor, evaluations: Tensor, **parts: Tensor
) -> Attempt:
    """Return the attempt that these images and noise (P, B, C, H, W) at timesteps (P, B) are.

    Its parts are noisy images, noise, timesteps and what is handed over besides.
    """
    task, distance = diffusion(problem), denoising(problem)
    with twice_differentiable():
        batched = lockstep(problem, distance)
        losses, _ = batched(images, noise, timesteps, problem.evidence())
    noisy = [task.noisy(*row) for row in zip(images, noise, timesteps, strict=True)]
    floor = noise_floor(problem)
    explained = losses <= torch.maximum(torch.full_like(floor, EXPLAINED), 1.5 * floor)
    return Attempt(
        images=images,
        labels=torch.full_like(timesteps, -1),
        losses=losses,
        evaluations=evaluations,
        converged=explained.cpu(),
        parts={"noisy": torch.stack(noisy), "noise": noise, "timesteps": timesteps, **parts},
    )
