"""What a denoiser made of a gradient, beside the clean one and the one sent: figures and pictures."""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from adversary.mjolnir.vectors import cosine

SIDE = 128
"""Pixels a side of a picture at most."""
BRIGHT = 0.995
"""Share of the clean gradient's entries that a picture shows without clipping."""


def cosines(clean: Tensor, sent: Tensor, found: Tensor) -> dict[str, float]:
    """Return the cosine with the clean gradient (d,) of the one sent, and of the one found in it."""
    names = {"sent_cosine": sent, "gradient_cosine": found}
    return {name: float(cosine(clean[None], values[None])) for name, values in names.items()}


def gradient_pictures(clean: Tensor, sent: Tensor, found: Tensor) -> dict[str, Tensor]:
    """Return gradients (d,) as square pictures (1, S, S) in [0, 1], row by row; zero is grey.

    One scale for all, the clean gradient's; of more than SIDE^2 entries neighbours are averaged.
    """
    scale = torch.quantile(clean.abs()[: 2**24], BRIGHT).clamp(min=1e-30)
    named = {"clean": clean, "sent": sent, "found": found}
    return {name: _square(0.5 + 0.5 * (values / scale)).clamp(0, 1) for name, values in named.items()}


def _square(values: Tensor) -> Tensor:
    side = math.ceil(math.sqrt(len(values)))
    whole = values.new_full((side * side,), 0.5)
    whole[: len(values)] = values
    picture = whole.reshape(1, 1, side, side).float()
    return interpolate(picture, size=SIDE, mode="area")[0] if side > SIDE else picture[0]
