"""Coordinates in which natural images are nearly white, for searches that follow curvature."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Coordinates = Literal["natural", "pixels"]
"""What a search moves: amplitudes of cosines, in units of what images have of them, or the pixels."""

CORNER = 2.0
"""Half-waves along a side up to which the amplitude stays level."""
CHROMA = 0.5
"""Amplitude of the colour differences, that of the luminance being 1."""


@dataclass(frozen=True)
class Chart:
    r"""A linear map between images (..., C, H, W) and the coordinates u (..., n) that a search moves.

        x = 1/2 + O^T C_H^T (a * u) C_W,   a(i, j) = (1 + (i^2 + j^2) / 4)^(-1/4), half that for chroma

    with C the orthonormal cosine transform (DCT-II) and O the luminance and two colour differences (chroma).
    The amplitude spectrum of natural scenes falls as 1/f (Field 1987), that of their colour differences lies
    below (Ruderman, Cronin & Chiao 1998). L-BFGS starts as if a unit of every coordinate mattered alike: that
    is nearer the truth here than for pixels. The exponent is half that of 1/f: all of it starves fine detail.
    """

    shape: tuple[int, ...]
    coordinates: Coordinates = "natural"

    @property
    def natural(self) -> bool:
        """Return whether coordinates differ from the pixels: they do not for what is no image."""
        return self.coordinates == "natural" and len(self.shape) == 3

    def images(self, coordinates: Tensor) -> Tensor:
        """Return the images that coordinates (..., n) stand for."""
        values = coordinates.reshape(*coordinates.shape[:-1], *self.shape)
        if not self.natural:
            return values
        table = _tables(self.shape, values.dtype, values.device)
        values = table.rows.T @ (values * table.amplitudes) @ table.columns
        return torch.einsum("kc,...khw->...chw", table.colours, values) + 0.5

    def of(self, images: Tensor) -> Tensor:
        """Return the coordinates (..., n) of images: the inverse of `images`."""
        values = images
        if self.natural:
            table = _tables(self.shape, values.dtype, values.device)
            values = torch.einsum("kc,...chw->...khw", table.colours, values - 0.5)
            values = table.rows @ values @ table.columns.T / table.amplitudes
        return values.flatten(-len(self.shape))


class _Tables(NamedTuple):
    amplitudes: Tensor
    """(C, H, W)"""
    rows: Tensor
    """(H, H): the cosine transform down the image"""
    columns: Tensor
    """(W, W)"""
    colours: Tensor
    """(C, C), orthogonal"""


@lru_cache(maxsize=16)
def _tables(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> _Tables:
    channels, height, width = shape
    down, across = torch.arange(height)[:, None].double(), torch.arange(width)[None].double()
    amplitudes = (1 + (down.square() + across.square()) / CORNER**2).pow(-0.25).repeat(channels, 1, 1)
    colours = torch.eye(channels, dtype=torch.float64)
    if channels == 3:
        colours = _opponent()
        amplitudes[1:] *= CHROMA
    tables = (amplitudes, cosines(height), cosines(width), colours)
    return _Tables(*(table.to(device=device, dtype=dtype) for table in tables))


def cosines(size: int) -> Tensor:
    """Return the orthonormal DCT-II, (size, size), float64: one cosine a row, the slowest first."""
    wave, place = torch.arange(size)[:, None].double(), torch.arange(size)[None].double()
    matrix = (math.pi * (place + 0.5) * wave / size).cos() * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def _opponent() -> Tensor:
    """Return luminance, red - green and yellow - blue as orthonormal rows."""
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]], dtype=torch.float64)
    return nn.functional.normalize(axes, dim=1)
