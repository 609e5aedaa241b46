"""Mjolnir's own denoiser: the gradient as a square picture, learnt by a diffusion model."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from adversary.mjolnir.chain import Mean
from adversary.mjolnir.surrogate import RANGE, Surrogate
from adversary.mjolnir.training import Loss
from adversary.mjolnir.vectors import flatten
from adversary.problem import Problem
from fedsim.models.unet import unet
from fedsim.seeds import isolated_globals
from fedsim.tasks.schedules import alpha_bars

TIMESTEPS = 1000
CHANNELS = (16, 32, 32)
"""Of the U-Net's resolutions (released: 120, 240, 480)."""


class Squares(nn.Module):
    """Gradients (n, d) as squares of side n, padded with their mean; predicts the noise of a timestep.

    Liu et al. 2025 (Mjolnir), released code: linear schedule, T = 1000, gradients as they are, unscaled.
    """

    alphas: Tensor

    def __init__(self, entries: int, conditional: bool) -> None:
        super().__init__()
        step = 2 ** (len(CHANNELS) - 1)
        self.entries, self.side = entries, step * math.ceil(math.sqrt(entries) / step)
        self.conditional = conditional
        self.network = unet(
            (2 if conditional else 1, self.side, self.side), 0, channels=CHANNELS, attention=False
        )
        self.register_buffer("alphas", alpha_bars("linear", TIMESTEPS).float(), persistent=False)

    def square(self, rows: Tensor) -> Tensor:
        """Return gradients (n, d) as (n, 1, side, side)."""
        whole = rows.mean(dim=1, keepdim=True).expand(-1, self.side**2).clone()
        whole[:, : self.entries] = rows
        return whole.reshape(-1, 1, self.side, self.side)

    def noise(self, states: Tensor, timesteps: Tensor, uploads: Tensor) -> Tensor:
        """Return the noise (n, 1, side, side) expected in states of the forward process at timesteps (n,)."""
        shown = torch.cat([states, uploads], dim=1) if self.conditional else states
        predicted: Tensor = self.network(shown, timesteps)
        return predicted[:, :1]

    def timestep(self, std: Tensor) -> Tensor:
        r"""Return the first timestep (n,) with as much noise: $\bar\alpha_t \le 1 / (1 + \sigma^2)$."""
        share = 1 / (1 + std.square())
        found = torch.searchsorted(-self.alphas, -share.to(self.alphas))
        return found.clamp(max=TIMESTEPS - 1)


def build_squares(entries: int, conditional: bool, seed: int) -> Squares:
    """Return an untrained network. Raises InputError where diffusers is not installed."""
    with isolated_globals(seed, "squares"):
        return Squares(entries, conditional)


def squares_loss(network: Squares, surrogate: Surrogate, batch: int) -> Loss:
    """Return what training minimises: smooth L1 of the noise, t uniform (released code)."""

    def loss(generator: torch.Generator, _: float) -> Tensor:
        with torch.no_grad():
            rows = surrogate.defended(surrogate.batch(batch, generator)[2])
            ratio = RANGE[0] * (RANGE[1] / RANGE[0]) ** torch.rand(batch, generator=generator)
            std = rows.norm(dim=1) / math.sqrt(rows.shape[1]) / ratio.to(rows)
            uploads = network.square(
                rows + std[:, None] * torch.randn(rows.shape, generator=generator).to(rows)
            )
        clean = network.square(rows)
        times = torch.randint(TIMESTEPS, (batch,), generator=generator).to(rows.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        kept = network.alphas[times][:, None, None, None]
        states = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        return smooth_l1_loss(network.noise(states, times, uploads), noise)

    return loss


def squares_mean(network: Squares, problem: Problem) -> Mean:
    r"""Return $\hat g = g_\sigma - \sigma \hat\epsilon(\sqrt{\bar\alpha} g_\sigma, t)$ for gradients (P, d).

    The timestep is the one with as much noise; the conditional variant is shown the problem's gradients.
    """
    shown = network.square(flatten(problem.target).float())

    def mean(rows: Tensor, std: Tensor) -> Tensor:
        level, shrink = std.float(), 1 / (1 + std.float().square()).sqrt()
        states = network.square(rows.float()) * shrink[:, None, None, None]
        with torch.no_grad():
            predicted = network.noise(states, network.timestep(level), shown)
        noise = predicted.flatten(1)[:, : network.entries]
        return (rows.float() - level[:, None] * noise).to(rows)

    return mean
