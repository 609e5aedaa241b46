"""The reverse process: from a perturbed gradient, placed where its noise belongs, down to a clean one."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Mean = Callable[[Tensor, Tensor], Tensor]
"""(gradients (P, d), standard deviation of the noise on each (P,)) -> the clean gradients to be expected."""

Sampling = Literal["mean", "ddim", "ancestral"]
"""One step, to the posterior mean; the deterministic chain; the chain that draws."""

CLEAN = 0.02
"""Share of the first level at which the last step is taken, where the denoiser knows noise that weak."""


def levels(std: Tensor, steps: int, weakest: float = 0.0) -> Tensor:
    """Return the levels of a chain that starts at `std` (P,), evenly spaced in the logarithm, (steps, P).

    Down to CLEAN of it, or to the `weakest` noise that the denoiser was trained on.
    """
    falls = torch.linspace(0, 1, steps, dtype=std.dtype, device=std.device) if steps > 1 else std.new_zeros(1)
    last = (weakest / std).clamp(CLEAN, 1.0)
    return std * last ** falls[:, None]


def drawn(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Return standard normal rows, shaped as `like` (P, d), each from its own capture's generator."""
    rows = [torch.randn(like.shape[1], generator=one, dtype=torch.float64) for one in generators]
    return torch.stack(rows).to(like)


def reverse(
    mean: Mean,
    rows: Tensor,
    std: Tensor,
    *,
    steps: int,
    sampling: Sampling,
    generators: Sequence[torch.Generator],
    weakest: float = 0.0,
    sent: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Tensor:
    r"""Return the gradients (P, d) that perturbed ones become, starting at their own noise `std` (P,).

    With $\hat g = E[g | g_\sigma]$, step by step from $\sigma$ to $\sigma'$:

        ddim:       $g_{\sigma'} = \hat g + (\sigma' / \sigma)(g_\sigma - \hat g)$
        ancestral:  $g_{\sigma'} = \hat g + (\sigma'^2 / \sigma^2)(g_\sigma - \hat g)
                     + \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}\, z$

    Song et al. 2021 (DDIM, equation 12; eta = 0 and 1), written for $g_\sigma = g + \sigma z$, which is the
    forward process $\sqrt{\bar\alpha} g + \sqrt{1 - \bar\alpha} z$ divided by $\sqrt{\bar\alpha}$, with
    $\sigma^2 = (1 - \bar\alpha) / \bar\alpha$: so a gradient perturbed by $\sigma$ is a state of the process
    as it is ("adaptive start": Mjolnir, $\bar\alpha = 1 / (1 + M^2)$). `mean` is the first $\hat g$. The last
    step is taken at `weakest`, below which the denoiser knows nothing. States are gradients as they are
    `sent`: clipped, where the defence clips and $\hat g$ is whole.
    """
    if sampling == "mean":
        return mean(rows, std)
    ladder = levels(std, steps, weakest)
    for now, then in pairwise(ladder):
        expected = sent(mean(rows, now))
        fall = (then / now)[:, None]
        if sampling == "ddim":
            rows = expected + fall * (rows - expected)
        else:
            spread = then[:, None] * (1 - fall.square()).sqrt()
            rows = expected + fall.square() * (rows - expected) + spread * drawn(generators, rows)
    return mean(rows, ladder[-1])
