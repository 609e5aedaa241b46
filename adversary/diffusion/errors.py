"""Errors of what was read from a diffusion gradient, each by itself: noisy image, noise, timestep."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adversary.matching import match
from fedsim.tasks.diffusion import DiffusionTask
from fedsim.tasks.task import Draws


def errors(
    task: DiffusionTask, images: Tensor, parts: Mapping[str, Tensor], truth: Tensor, draws: Draws
) -> list[dict[str, Any]]:
    r"""Return for each image of the truth (n, C, H, W), with its draws, how far the rest is from it.

    Paired as the images are: found (m, C, H, W) with parts `noisy`, `noise` (m, C, H, W), `timesteps` (m,).

    - `noisy_psnr`: PSNR of $x_t$ in dB, in images' units: that of $(x_t + 1) / 2$, peak 1;
    - `noise_error`: $\|\hat\epsilon - \epsilon\| / \|\epsilon\|$;
    - `timestep`, `timestep_found`;
    - `amplification`: $1 / \sqrt{\bar\alpha_t}$, by which an error of $x_t$ grows on the way to the image.
    """
    timesteps, noise = draws
    noisy = task.noisy(truth, noise, timesteps)
    signal = task.scales(timesteps, truth)[0].flatten().tolist()
    rows = []
    for index, pair in enumerate(match(images.nan_to_num(0.5), truth)):
        row: dict[str, Any] = {"timestep": int(timesteps[index]), "amplification": 1 / signal[index]}
        if pair is not None:
            gap = float((parts["noisy"][pair] - noisy[index]).square().mean()) / 4
            missed = (parts["noise"][pair] - noise[index]).norm() / noise[index].norm()
            row["timestep_found"] = int(parts["timesteps"][pair])
            row["noisy_psnr"] = -10 * math.log10(gap) if 0 < gap < math.inf else None
            row["noise_error"] = float(missed) if missed.isfinite() else None
        rows.append(row)
    return rows
