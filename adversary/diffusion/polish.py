"""The end of a search: noisy images and predictions together, by the matching loss."""

from dataclasses import replace

import torch
from torch import Tensor

from adversary.attacks.match import EXPLAINED
from adversary.attacks.prior_weights import noise_weight
from adversary.diffusion.layers import diffusion
from adversary.diffusion.matching import denoising, judged
from adversary.lockstep import lockstep
from adversary.objectives import NAIVE
from adversary.optimizers.lbfgs import Stop, lbfgs
from adversary.priors import image_prior
from adversary.problem import Attempt, Evidence, Problem
from fedsim.models.attention import twice_differentiable


def polish(problem: Problem, found: Attempt, max_evaluations: int) -> Attempt:
    """Return a better attempt of the captures that are not explained yet, and the others as they are.

    Under noise that is known of all are gone over: with the prior, which has its say among images that
    explain the gradient equally well.
    """
    noisy = (problem.knowledge or NAIVE).noise_std > 0
    rows = (~found.converged | noisy).nonzero().flatten().tolist()
    if not rows:
        return found
    part, parts = problem.select(rows), {name: value[rows] for name, value in found.parts.items()}
    better = joint(part, found.images[rows], parts["noise"], parts["timesteps"], max_evaluations)
    spent = found.evaluations.clone()
    spent[rows] += better.evaluations
    kept = (better.losses < found.losses[rows]).cpu() | (better.converged & noisy)
    return replace(_merged(found, better, torch.tensor(rows)[kept], kept), evaluations=spent)


def joint(
    problem: Problem, images: Tensor, noise: Tensor, timesteps: Tensor, max_evaluations: int
) -> Attempt:
    """Return the attempt that L-BFGS over noisy images and target reaches from images and noise.

    By the matching loss, and under noise that is known of with the prior of images (`noise_weight`).
    """
    task, distance = diffusion(problem), denoising(problem)
    shape = images.shape[1:]
    with twice_differentiable():
        weight = noise_weight(replace(problem, timesteps=timesteps, noise=noise))
    with_prior = bool((weight > 0).any())

    def split(point: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        noisy, target = point.reshape(2, *shape)
        clean, noise = task.resolve(target, noisy, times)
        return (clean + 1) / 2, noise

    def loss(point: Tensor, times: Tensor, seen: tuple[Evidence, ...], w: Tensor) -> Tensor:
        clean, drawn = split(point, times)
        value = distance(clean, drawn, times, seen)
        return value + w * image_prior(clean) if with_prior else value

    batched = lockstep(problem, loss)

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return batched(points, timesteps[rows], problem.evidence(rows), weight[rows])

    start = [
        torch.stack([task.noisy(x, e, t), task.target(x, e, t)]).flatten()
        for x, e, t in zip(images, noise, timesteps, strict=True)
    ]
    stop = Stop(max_evaluations=max_evaluations)
    targets = images.new_full((len(images),), 1e-3 * EXPLAINED)
    with twice_differentiable():
        reached = lbfgs(evaluate, torch.stack(start), stop, targets=targets)
    pairs = [split(point, times) for point, times in zip(reached.points, timesteps, strict=True)]
    clean, drawn = (torch.stack(values) for values in zip(*pairs, strict=True))
    return judged(problem, clean, drawn, timesteps, reached.evaluations)


def _merged(found: Attempt, better: Attempt, rows: Tensor, kept: Tensor) -> Attempt:
    """Return `found` with those of `better` that are `kept` (k,) put in its `rows`."""

    def put(old: Tensor, new: Tensor) -> Tensor:
        merged = old.clone()
        merged[rows.to(old.device)] = new[kept.to(new.device)]
        return merged

    return replace(
        found,
        images=put(found.images, better.images),
        losses=put(found.losses, better.losses),
        converged=put(found.converged, better.converged),
        parts={name: put(value, better.parts[name]) for name, value in found.parts.items()},
    )
