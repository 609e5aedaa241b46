"""DP-SGD: local training with per-example clipping and noise."""

import math
from dataclasses import dataclass

import torch

from fedsim.defenses.upload import Adaptive, Upload
from fedsim.options import require
from fedsim.training import PrivateSGD


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Each step uses `(sum_b g_b min(1, C / ||g_b||) + N(0, (z C)^2)) / B` (Abadi et al. 2016, Algorithm 1).

    It is a way of training and not a transform of the upload: the client trains by the recipe `private`, and
    `apply` changes nothing.
    """

    clip_norm: float
    """C > 0: the bound on the gradient of each example."""
    noise_multiplier: float
    """z >= 0: standard deviation of the noise on the sum, in units of C."""
    batch_size: int | None = None
    """What the adaptive attacker takes for B: by default the recipe's, as training does; 1 without one."""
    steps: int | None = None
    """What the adaptive attacker takes for the number of local steps: by default the recipe's, or 1."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(0 < self.clip_norm < math.inf, "clip_norm", self.clip_norm, "clip_norm > 0")
        require(0 <= self.noise_multiplier < math.inf, "noise_multiplier", self.noise_multiplier, ">= 0")
        for name in ("batch_size", "steps"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, f"{name} >= 1")

    @property
    def private(self) -> PrivateSGD:
        """Return what the local training recipe needs to know."""
        return PrivateSGD(clip_norm=self.clip_norm, noise_multiplier=self.noise_multiplier)

    def apply(self, upload: Upload, generator: torch.Generator) -> Upload:  # noqa: ARG002
        """Return the upload unchanged: training has clipped and noised already."""
        return upload

    def adaptive(self, unit: float) -> Adaptive:
        """Match the direction, under noise of std `|unit| z C sqrt(steps) / B`.

        Exact for one example and one step. For larger batches the per-example scales cannot be had from a
        dummy gradient of the batch, and the direction is matched as if all were clipped alike.
        """
        batch, steps = self.batch_size or 1, self.steps or 1
        std = abs(unit) * self.noise_multiplier * self.clip_norm * math.sqrt(steps) / batch
        return Adaptive(noise_std=std, scale_free=True)
