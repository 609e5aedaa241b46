"""Gradients as rows of one matrix, and how close two of them are."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedsim.defenses.upload import Values

NOTHING = 1e-30
"""Squared length below which a gradient has no direction."""


def flatten(values: Values) -> Tensor:
    """Return gradients (P, *shape) by parameter as rows (P, d), parameters in their order."""
    return torch.cat([value.flatten(1) for value in values.values()], dim=1)


def unflatten(rows: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return rows (P, d) as gradients (P, *shape) with the names and shapes of `like`, one row a capture."""
    values, start = {}, 0
    for name, value in like.items():
        size = value[0].numel()
        values[name] = rows[:, start : start + size].reshape(len(rows), *value.shape[1:])
        start += size
    return values


def presence(present: Values, like: Mapping[str, Tensor]) -> Tensor:
    """Return which entries of gradients with the names and shapes of `like` are there, (P, d) booleans."""
    everything = {name: torch.ones_like(value, dtype=torch.bool) for name, value in like.items()}
    return flatten({**everything, **present})


def cosine(rows: Tensor, others: Tensor) -> Tensor:
    """Return the cosine of rows (P, d) with others (P, d), (P,); 0 where either is zero."""
    squares = rows.square().sum(dim=1) * others.square().sum(dim=1)
    product = (rows * others).sum(dim=1)
    return torch.where(squares > NOTHING, product / squares.clamp(min=NOTHING).sqrt(), 0.0)


def gradient_psnr(rows: Tensor, truth: Tensor) -> Tensor:
    """Return `10 log10((max g - min g)^2 / mean (found - g)^2)` in dB, (P,): the peak is the truth's range.

    Nobody has said which peak the figures of Mjolnir stand for; this one makes the measure free of scale.
    """
    peak = (truth.amax(dim=1) - truth.amin(dim=1)).square()
    gap = (rows - truth).square().mean(dim=1)
    return 10 * torch.log10(peak.clamp(min=NOTHING) / gap.clamp(min=NOTHING))


def signal_to_noise(rows: Tensor, std: Tensor | float, there: Tensor | None = None) -> Tensor:
    """Return `||g|| / (sigma sqrt(d))` of clean gradients (P, d), (P,): over d entries, those `there`."""
    entries = rows.shape[1] if there is None else there.sum(dim=1)
    shown = rows if there is None else rows * there
    ratio: Tensor = shown.norm(dim=1) / (std * entries**0.5)
    return ratio
