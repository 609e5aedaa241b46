"""Noise schedules of diffusion models: how much of the signal is left after each timestep."""

import math
from typing import Literal

import torch
from torch import Tensor

Schedule = Literal["linear", "cosine", "sigmoid"]
MOST_NOISE = 0.999
"""Upper bound of a step's variance beta, so that no step wipes out all signal (Nichol & Dhariwal 2021)."""


def alpha_bars(schedule: Schedule, timesteps: int) -> Tensor:
    r"""Return $\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)$ for t = 0 ... T - 1: float64, (T,), decreasing.

    With $\gamma$ the schedule's curve over $u \in [0, 1]$, $\gamma(0) = 1$, and T `timesteps`:

    $\beta_t = \min(1 - \gamma((t + 1) / T) / \gamma(t / T),\ 0.999)$

    linear: $\gamma(i / 1000) = \prod_{s < i} (1 - \beta'_s)$, $\beta'$ from 0.0001 to 0.02 in equal steps (Ho
    et al. 2020, section 4). For T other than 1000 the curve is read at the nearest thousandths, as Nichol &
    Dhariwal (2021, section 4) respace it; multiplying $\beta'$ by 1000 / T would exceed 1 below T = 20.

    cosine: $\gamma(u) = f(u) / f(0)$, $f(u) = \cos^2(\frac{u + s}{1 + s} \frac\pi 2)$, s = 0.008 (Nichol &
    Dhariwal 2021, equation 17).

    sigmoid: $\gamma(u) = (\sigma(3) - \sigma(6 u - 3)) / (\sigma(3) - \sigma(-3))$ (Jabri et al. 2022,
    algorithm 4, start -3, end 3, temperature 1).
    """
    u = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    curve = {"linear": _linear, "cosine": _cosine, "sigmoid": _sigmoid}[schedule](u)
    betas = (1 - curve[1:] / curve[:-1]).clamp(max=MOST_NOISE)
    return (1 - betas).cumprod(dim=0)


def _linear(u: Tensor) -> Tensor:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    products = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(dim=0)])
    return products[(1000 * u).round().long()]


def _cosine(u: Tensor) -> Tensor:
    f: Tensor = ((u + 0.008) / 1.008 * math.pi / 2).cos().square()
    return f / f[0]


def _sigmoid(u: Tensor) -> Tensor:
    falling = (3 - 6 * u).sigmoid()
    return (falling - falling[-1]) / (falling[0] - falling[-1])
