"""Sampling from a diffusion model by DDIM: deterministic, and differentiable in the latents."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fedsim.errors import InputError
from fedsim.tasks.diffusion import DiffusionTask


def ddim_sample(
    task: DiffusionTask,
    model: nn.Module,
    latents: Tensor,
    steps: int,
    *,
    clip: bool = False,
    checkpointing: bool = False,
) -> Tensor:
    r"""Return the images (n, C, H, W) that `latents`, standard normal (n, C, H, W), become in `steps` steps.

    $x_{t'} = \sqrt{\bar\alpha_{t'}} \hat x + \sqrt{1 - \bar\alpha_{t'}} \hat\epsilon$, at the end $\hat x$

    (Song et al. 2021, DDIM, equation 12 with $\sigma = 0$) over the timesteps of `ddim_timesteps`, with
    $\hat x$ and $\hat\epsilon$ as the model's prediction says. `clip` keeps $\hat x$ in [-1, 1], and takes
    $\hat\epsilon$ from it: better samples of a young model, but no gradient beyond the bounds. Images are in
    [0, 1] up to what the model leaves outside.

    `checkpointing` keeps one image a step for the backward pass, and computes the steps anew there: backward
    then has to run under the same attention kernels as forward. The caller sets train or eval mode.
    Raises InputError for `steps` out of range.
    """
    x, times = latents, ddim_timesteps(task.timesteps, steps)
    for now, then in zip(times, [*times[1:], None], strict=True):
        step = partial(_step, task, model, now=now, then=then, clip=clip)
        x = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False) if checkpointing else step(x)
    return (x + 1) / 2


def ddim_timesteps(timesteps: int, steps: int) -> list[int]:
    """Return `steps` timesteps from T - 1 down, evenly spaced ("trailing", Lin et al. 2024, table 2).

    Raises InputError unless `steps` is from 1 to T.
    """
    if not 1 <= steps <= timesteps:
        raise InputError(f"steps = {steps}: allowed: 1 to timesteps = {timesteps}")
    return [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]


def _step(
    task: DiffusionTask, model: nn.Module, x: Tensor, *, now: int, then: int | None, clip: bool
) -> Tensor:
    """Return the images at timestep `then`, in [-1, 1] and with its noise; None is the end of the chain."""
    times = torch.full((len(x),), now, device=x.device)
    clean, noise = task.resolve(task.predict(model, x, times), x, times)
    if clip:
        signal, disturbance = task.scales(times, x)
        clean = clean.clamp(-1, 1)
        noise = (x - signal * clean) / disturbance
    if then is None:
        return clean
    signal, disturbance = task.scales(torch.full_like(times, then), x)
    return signal * clean + disturbance * noise
