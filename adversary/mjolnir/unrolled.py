"""Our denoiser: the image behind a gradient is refined step by step; its gradient is the clean one."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle, silu

from adversary.attacks.prior_weights import sensitivity
from adversary.lockstep import lockstep
from adversary.mjolnir.chain import Mean
from adversary.mjolnir.surrogate import RANGE, Surrogate
from adversary.mjolnir.training import Loss
from adversary.mjolnir.vectors import flatten, unflatten
from adversary.objectives import matching
from adversary.problem import Problem
from fedsim.seeds import isolated_globals

GREY = 0.3
"""Where images start."""
BOUND = 5.0
"""Largest slope that the network is shown, in units of a pixel's range."""


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.second(silu(self.first(silu(x)))))


class Refiner(nn.Module):
    """One step: image, slope of the misfit, memory, noise level and number of the step -> image, memory.

    A U-Net of two resolutions, the first at half the image's; the same weights at every step.
    """

    def __init__(self, channels: int, *, width: int = 32, memory: int = 8) -> None:
        super().__init__()
        self.memory = memory
        self.entry = nn.Conv2d(2 * 4 * channels + memory + 2, width, 3, padding=1)
        self.fine = _Residual(width)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.Sequential(_Residual(2 * width), _Residual(2 * width))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.fused = _Residual(width)
        self.exit = nn.Conv2d(width, 4 * channels + memory, 3, padding=1)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(torch.as_tensor(self.exit.bias))

    def forward(
        self, images: Tensor, slopes: Tensor, memory: Tensor, level: Tensor, share: float
    ) -> tuple[Tensor, Tensor]:
        """Return images (n, C, H, W) and memory (n, memory, H/2, W/2); sides are multiples of 4."""
        told = torch.stack([level.log(), torch.full_like(level, share)], dim=1)
        maps = told[:, :, None, None].expand(-1, -1, *memory.shape[2:])
        parts = [pixel_unshuffle(images - 0.5, 2), pixel_unshuffle(slopes, 2), memory, maps]
        fine = self.fine(self.entry(torch.cat(parts, dim=1)))
        change = self.exit(self.fused(fine + self.up(self.coarse(self.down(fine)))))
        channels = change.shape[1] - self.memory
        return images + pixel_shuffle(change[:, :channels], 2), memory + change[:, channels:]


def build_refiner(problem: Problem, seed: int) -> Refiner:
    """Return an untrained network for the problem's images; without a change they stay as they are."""
    with isolated_globals(seed, "refiner"):
        return Refiner(problem.task.input_shape[0]).to(problem.like.device)


def refine(network: Refiner, problem: Problem, std: Tensor, unit: float, steps: int) -> list[Tensor]:
    r"""Return the image estimates (P, 1, C, H, W) after each step, for gradients with noise `std` (P,).

        x <- x + network(x, u, ...),   $u = J(x)^T (g(x) - g^*) / s^2 / (1 + \sigma / s)$

    J is the Jacobian of the gradient in the image, $s$ (`unit`) the length of a column of it: u is what a
    pixel would have to move if the others did not, and $\sigma / s$ the noise of it. A learnt descent after
    Andrychowicz et al. 2016 and Putzky & Welling 2017 (recurrent inference machines); what is compared is
    what `adversary.objectives.matching` compares: present entries, after the defence.
    """
    size, distance = tuple(problem.task.input_shape), matching(problem)
    batched, labels, seen = lockstep(problem, distance), problem.labels, problem.evidence()
    shown = {n: v * problem.present[n] if n in problem.present else v for n, v in problem.target.items()}
    squares = flatten(shown).square().sum(dim=1)
    level = (std / unit).to(problem.like)
    scale = (squares / (2 * unit**2 * (1 + level)))[:, None, None, None]
    images = problem.like.new_full((len(problem), *size), GREY)
    edges = [(-side) % 4 for side in size[1:]]
    halves = [-(-side // 4) * 2 for side in size[1:]]
    memory = images.new_zeros(len(problem), network.memory, *halves)
    found = []
    for number in range(steps):
        slopes = batched(images.detach()[:, None], labels, seen)[1][:, 0] * scale
        pair = (images, slopes.nan_to_num(0.0).clamp(-BOUND, BOUND))
        padded = [pad(one, (0, edges[1], 0, edges[0])) for one in pair]
        whole, memory = network(*padded, memory, level.clamp(min=1e-4), number / steps)
        images = whole[..., : size[1], : size[2]]
        found.append(images[:, None])
    return found


def pixel_unit(surrogate: Surrogate) -> float:
    """Return s: how far the gradient moves for each unit by which a pixel does, mean over eight pictures."""
    generator = torch.Generator().manual_seed(0)
    _, labels, rows = surrogate.batch(8, generator)
    problem = surrogate.uploads(rows, labels, rows.new_zeros(8), generator)
    return float(sensitivity(problem, flatten(problem.target).norm(dim=1)).mean())


def noise_range(surrogate: Surrogate) -> tuple[float, float]:
    """Return the levels between which training draws: RANGE of the median surrogate gradient as sent."""
    entries = sum(value[0].numel() for value in surrogate.victim.target.values())
    size = surrogate.length / math.sqrt(entries)
    return size / RANGE[1], size / RANGE[0]


def refiner_loss(
    network: Refiner, surrogate: Surrogate, unit: float, steps: int, batch: int, short: float = 0.0
) -> Loss:
    """Return what training minimises: the image's squared error after each step, the last counts most.

    For the share `short` of the training the search has half as many steps.
    """
    low, high = noise_range(surrogate)

    def loss(generator: torch.Generator, done: float) -> Tensor:
        pictures, labels, rows = surrogate.batch(batch, generator)
        std = low * (high / low) ** torch.rand(batch, generator=generator)
        problem = surrogate.uploads(rows, labels, std, generator)
        taken = steps if done >= short else -(-steps // 2)
        with torch.enable_grad():
            found = refine(network, problem, std.to(rows), unit, taken)
        errors = torch.stack([(images - pictures).square().mean() for images in found])
        return 0.5 * errors[:-1].sum() / taken + 2 * errors[-1] / taken

    return loss


def refiner_mean(network: Refiner, surrogate: Surrogate, problem: Problem, unit: float, steps: int) -> Mean:
    """Return the posterior mean by way of the image: `g(x)` of the image expected, labels as in `problem`."""
    assert problem.labels is not None
    labels = problem.labels

    def mean(rows: Tensor, std: Tensor) -> Tensor:
        here = replace(problem, target=unflatten(rows, problem.target))
        with torch.no_grad():
            images = refine(network, here, std, unit, steps)[-1].clamp(0, 1)
            return surrogate.gradients(images, labels)

    return mean
