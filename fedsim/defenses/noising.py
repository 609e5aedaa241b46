"""Noising: additive Gaussian or Laplace noise on every entry."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsim.defenses.clipping import clip_to_norm
from fedsim.defenses.upload import Adaptive, Upload, Values, identity
from fedsim.errors import InputError
from fedsim.options import require


@dataclass(frozen=True, kw_only=True)
class Noising:
    """`u + n` with n independent per entry, by `std`, or by `epsilon` (and `delta`) with `clip_norm`.

    By epsilon the update is first clipped to `clip_norm` C, which bounds what one client can add or remove:

    - Gaussian mechanism, L2: `std = C sqrt(2 ln(1.25 / delta)) / epsilon` (Dwork & Roth 2014, Theorem A.1:
      proven for epsilon < 1, nominal above; Balle & Wang 2018 calibrate any epsilon);
    - Laplace mechanism, L1: `scale = C / epsilon`, `std = sqrt(2) scale` (Theorem 3.6, any epsilon).

    What is protected is that a client took part; telling any two updates apart has twice the sensitivity.
    """

    distribution: Literal["gaussian", "laplace"] = "gaussian"
    std: float | None = None
    """Standard deviation of the noise on each entry, in the units of the upload, >= 0."""
    epsilon: float | None = None
    """Privacy loss of one upload, > 0."""
    delta: float | None = None
    """Probability that the loss exceeds epsilon, 0 < delta < 1; Gaussian only."""
    clip_norm: float | None = None
    """Norm to which the update is clipped first, > 0: L2 for Gaussian, L1 for Laplace."""

    def __post_init__(self) -> None:
        """Check that exactly one of the two ways is taken, and the ranges."""
        budget: tuple[str, ...] = ("epsilon", "delta", "clip_norm")
        given = {n: getattr(self, n) for n in ("std", *budget) if getattr(self, n) is not None}
        if self.distribution == "laplace":
            budget = ("epsilon", "clip_norm")
        if tuple(given) not in (("std",), budget):
            found = ", ".join(f"{name} = {value!r}" for name, value in given.items()) or "std is missing"
            raise InputError(
                f"{found}: allowed for {self.distribution}: std alone, or {' with '.join(budget)}"
            )
        for name, value in given.items():
            require(math.isfinite(value) and value >= 0, name, value, f"{name} >= 0")
            require(value > 0 or name == "std", name, value, f"{name} > 0")
            require(value < 1 or name != "delta", name, value, "0 < delta < 1")

    @property
    def sigma(self) -> float:
        """Return the standard deviation of the noise on each entry."""
        if self.std is not None:
            return self.std
        assert self.epsilon is not None
        assert self.clip_norm is not None
        if self.distribution == "laplace":
            return math.sqrt(2) * self.clip_norm / self.epsilon
        assert self.delta is not None
        return self.clip_norm * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon

    def apply(self, upload: Upload, generator: torch.Generator) -> Upload:
        """Return the upload (clipped and) noised; absent entries stay zero."""
        values = {}
        for name, value in self._clip(upload.learnable()).items():
            noisy = value + self._noise(value, generator)
            present = upload.present.get(name)
            values[name] = noisy if present is None else torch.where(present, noisy, torch.zeros_like(noisy))
        return upload.with_values(values)

    def adaptive(self, unit: float) -> Adaptive:  # noqa: ARG002
        """Weigh the prior by the noise; after clipping, match the direction only."""
        clips = self.clip_norm is not None
        return Adaptive(simulate=self._clip if clips else identity, noise_std=self.sigma, scale_free=clips)

    def _clip(self, values: Values) -> dict[str, Tensor]:
        if self.clip_norm is None:
            return dict(values)
        return clip_to_norm(values, self.clip_norm, order=1 if self.distribution == "laplace" else 2)

    def _noise(self, value: Tensor, generator: torch.Generator) -> Tensor:
        # Drawn in double precision on the CPU, so that the draw depends on neither the type nor the device.
        if self.distribution == "gaussian":
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        else:
            # The difference of two independent exponentials of mean 1 is Laplace of scale 1: no log(0).
            pair = torch.empty((2, *value.shape), dtype=torch.float64).exponential_(generator=generator)
            noise = (pair[0] - pair[1]) / math.sqrt(2)
        return (self.sigma * noise).to(value)
