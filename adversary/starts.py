"""Where an iterative attack starts."""

from typing import Literal

import torch
from torch import Tensor

from adversary.coordinates import Chart
from adversary.problem import Problem

Start = Literal["normal", "uniform", "grey", "natural", "patterned"]
"""How the images to start from are drawn; each capture's follow from its own seed."""

FAINT = 0.05
"""Standard deviation of a natural start in natural coordinates."""
TILES = 4
"""A patterned start repeats its patch so many times along each side."""


def draw_start(problem: Problem, start: Start) -> Tensor:
    """Draw the images to start from, (P, B, *input_shape).

    - `normal`: N(0, 1) a pixel (DLG, Inverting Gradients);
    - `uniform`: U(0, 1) a pixel;
    - `grey`: 0.5 with faint noise (standard deviation 0.01), so that restarts differ;
    - `natural`: 0.5 with faint noise of the spectrum of images (`adversary.coordinates`);
    - `patterned`: a U(0, 1) patch of a quarter of each side, repeated over the image (CPL, Wei et al. 2020,
      arXiv 2004.10397).
    """
    if start == "patterned":
        return _patterned(problem)
    noise = problem.draw_images()
    if start == "uniform":
        return _uniform(noise)
    if start == "natural":
        chart = Chart(tuple(problem.task.input_shape))
        return chart.images(FAINT * noise.flatten(2))
    return 0.5 + 0.01 * noise if start == "grey" else noise


def _patterned(problem: Problem) -> Tensor:
    shape = problem.task.input_shape
    sides = shape[-2:]
    patch = [-(-side // TILES) for side in sides]
    drawn = _uniform(problem.draw(problem.batch_size, *shape[: -len(sides)], *patch))
    tiled = drawn.repeat(*[1] * (drawn.dim() - len(sides)), *[TILES] * len(sides))
    for axis, side in zip(range(-len(sides), 0), sides, strict=True):
        tiled = tiled.narrow(axis, 0, side)
    return tiled.contiguous()


def _uniform(normal: Tensor) -> Tensor:
    values: Tensor = torch.special.ndtr(normal)
    return values
