"""Errors of what was read from a diffusion gradient, each by itself: noisy image, noise, timestep."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adversary.matching import match
from fedsim.tasks.diffusion import DiffusionTask
from fedsim.tasks.task import Draws

EXACT = 1e-20
"""Mean square of an error that is none: a PSNR of 200 dB."""


def errors(
    task: DiffusionTask, images: Tensor, parts: Mapping[str, Tensor], truth: Tensor, draws: Draws
) -> list[dict[str, Any]]:
    r"""Return for each image of the truth (n, C, H, W), with its draws, how far the rest is from it.

    Paired as the images are: found (m, C, H, W) with parts `noisy`, `noise` (m, C, H, W), `timesteps` (m,).

    - `noisy_psnr`: PSNR of $x_t$ in dB, in images' units: that of $(x_t + 1) / 2$, peak 1;
    - `noise_error`: $\|\hat\epsilon - \epsilon\| / \|\epsilon\|$;
    - `timestep`, `timestep_found`;
    - `amplification`: $1 / \sqrt{\bar\alpha_t}$, by which an error of $x_t$ grows on the way to the image.

    What is no number counts as zero, so that a failed search is not left out of a median.
    """
    timesteps, noise = draws
    noisy = task.noisy(truth, noise, timesteps)
    signal = task.scales(timesteps, truth)[0].flatten().tolist()
    rows = []
    for index, pair in enumerate(match(images.nan_to_num(0.5), truth)):
        row: dict[str, Any] = {"timestep": int(timesteps[index]), "amplification": 1 / signal[index]}
        if pair is not None:
            found = {key: parts[key][pair].nan_to_num(0.0, 0.0, 0.0) for key in ("noisy", "noise")}
            gap = float((found["noisy"] - noisy[index]).square().mean()) / 4
            missed = (found["noise"] - noise[index]).norm() / noise[index].norm()
            row["timestep_found"] = int(parts["timesteps"][pair])
            row["noisy_psnr"] = -10 * math.log10(max(gap, EXACT))
            row["noise_error"] = float(missed)
        rows.append(row)
    return rows
