"""Whether the layers' gradients are of such different lengths that the longest would drown the rest."""

from typing import Literal

import torch

from adversary.objectives import Comparison, layer_squares
from adversary.problem import Problem

Weighting = Literal["auto", "length", "layers"]
"""One squared distance over all layers, or one a layer, each in units of its own length."""
LOPSIDED = 1e-5
"""Shortest over longest layer below which `auto` weighs layers alike."""


def layers_alike(problem: Problem, weighting: Weighting) -> Comparison | None:
    """Return `layer_squares` where layers are to be weighed alike, None for the usual comparison.

    Under noise the usual one is that of most likelihood, and after clipping only directions tell: `auto`
    leaves these alone. It looks at the model and not at the captures: none may depend on its neighbours.
    """
    if weighting == "auto":
        known = problem.knowledge
        plain = known is None or not (known.noise_std > 0 or known.scale_free)
        return layer_squares if plain and balance(problem) < LOPSIDED else None
    return layer_squares if weighting == "layers" else None


def balance(problem: Problem) -> float:
    """Return the length of the shortest over that of the longest layer's gradient, for a random image.

    Sigmoids make it small: each of them passes on at most a quarter (1e-6 for ResNet-20 with U(-0.5, 0.5)).
    """
    draw = torch.rand(2, *problem.task.input_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, dtype=torch.int64, device=problem.like.device)
    gradient = problem.gradient(draw.to(problem.like), labels)
    squares: dict[str, float] = {}
    for name, value in gradient.items():
        layer = name.rpartition(".")[0]
        squares[layer] = squares.get(layer, 0.0) + float(value.square().sum())
    longest = max(squares.values())
    return float((min(squares.values()) / longest) ** 0.5) if longest > 0 else 1.0
