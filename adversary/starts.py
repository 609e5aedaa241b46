"""Where an iterative attack starts."""

from typing import Literal

import torch
from torch import Tensor

from adversary.chain import entrance_of
from adversary.coordinates import Chart
from adversary.problem import Problem
from fedsim.errors import InputError

Start = Literal["normal", "uniform", "grey", "natural", "patterned", "entrance"]
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
      arXiv 2004.10397);
    - `entrance`: what a fully connected layer that a single image enters tells of it at once (`_entrance`);
      `natural` with other models and batches.
    """
    if start == "patterned":
        return _patterned(problem)
    if start == "entrance":
        read = _entrance(problem)
        return draw_start(problem, "natural") if read is None else read
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


def _entrance(problem: Problem) -> Tensor | None:
    """Return the least squares solution x (P, 1, *input_shape) of dL/dW = (dL/db) x^T, dL/db as observed.

    The quotients dW_ij / db_i of Geiping et al. 2020, Proposition 3.1, weighed by db_i^2, over the entries
    that are present; grey where there is none. None where no single image enters such a layer.
    """
    if problem.batch_size != 1:
        return None
    try:
        entrance = entrance_of(problem, "start")
    except InputError:
        return None
    weight, bias = f"{entrance.name}.weight", f"{entrance.name}.bias"
    force, products = problem.target[bias], problem.target[weight]
    if bias in problem.present:
        force = force * problem.present[bias]
    if weight in problem.present:
        known = problem.present[weight].to(force)
        products, squares = products * known, torch.einsum("pm,pmn->pn", force.square(), known)
    else:
        squares = force.square().sum(dim=1, keepdim=True)
    inputs = torch.einsum("pm,pmn->pn", force, products) / squares
    return entrance.images(inputs)[:, None].nan_to_num(0.5, 0.5, 0.5)


def _uniform(normal: Tensor) -> Tensor:
    values: Tensor = torch.special.ndtr(normal)
    return values
