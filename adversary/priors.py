"""What images look like before any gradient was seen."""

import torch
from torch import Tensor


def total_variation(images: Tensor, smoothing: float = 1e-3) -> Tensor:
    """Return the summed isotropic total variation `sum sqrt(dx^2 + dy^2 + s^2) - s`, a scalar.

    Rudin, Osher & Fatemi (1992), smoothed so that L-BFGS meets no kink. Images (..., H, W) in units of [0,
    1].
    """
    dx = images[..., :-1, 1:] - images[..., :-1, :-1]
    dy = images[..., 1:, :-1] - images[..., :-1, :-1]
    return ((dx.square() + dy.square() + smoothing**2).sqrt() - smoothing).sum()


def box(images: Tensor) -> Tensor:
    """Return the squared distance from the box [0, 1], a scalar: zero for an image."""
    return torch.relu(-images).square().sum() + torch.relu(images - 1).square().sum()


def image_prior(images: Tensor) -> Tensor:
    """Return `TV + 10 box`, a scalar: what searches weigh against gradients that do not tell all."""
    return total_variation(images) + 10 * box(images)


def mean_variation(images: Tensor) -> Tensor:
    """Return the anisotropic total variation `mean |dx| + mean |dy|`, a scalar.

    As in the released code of Inverting Gradients (Geiping et al. 2020): means, so that its weight does not
    depend on the size of images and batch. Images (..., H, W).
    """
    dx = images[..., :, 1:] - images[..., :, :-1]
    dy = images[..., 1:, :] - images[..., :-1, :]
    return dx.abs().mean() + dy.abs().mean()


def norm(values: Tensor) -> Tensor:
    """Return the Euclidean norm over all entries, a scalar whose gradient at zero is zero, not NaN."""
    square = values.square().sum()
    return torch.where(square > 0, square.clamp_min(torch.finfo(values.dtype).tiny).sqrt(), 0.0)
