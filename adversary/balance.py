"""Whether the layers' gradients are of such different lengths that the longest would drown the rest."""

from typing import Literal

import torch
from torch import Tensor

from adversary.coordinates import Chart
from adversary.objectives import layer_of
from adversary.problem import Problem

Weighting = Literal["auto", "length", "layers"]
"""One squared distance over all layers, or one a layer, each in units of its own."""
LOPSIDED = 1e-5
"""Shortest over longest layer below which `auto` weighs layers alike."""
DRAWS = 8
"""Batches of random images whose gradients tell how far those of a layer lie apart."""


def weighs_layers(problem: Problem, weighting: Weighting) -> bool:
    """Return whether each layer's distance is to be had in units of its own.

    Under noise the plain distance is that of most likelihood, and after clipping only directions tell: `auto`
    leaves these alone. It looks at the model and not at the captures: none may depend on its neighbours.
    """
    if weighting == "auto":
        known = problem.knowledge
        plain = known is None or not (known.noise_std > 0 or known.scale_free)
        return plain and balance(problem) < LOPSIDED
    return weighting == "layers"


def balance(problem: Problem) -> float:
    """Return the length of the shortest over that of the longest layer's gradient, for two random images.

    Sigmoids make it small: each of them passes on at most a quarter (1e-6 for ResNet-20 with U(-0.5, 0.5)).
    """
    draw = torch.rand(2, *problem.task.input_shape, generator=torch.Generator().manual_seed(0))
    squares = {layer: float(value.square().sum()) for layer, value in _by_layer(problem, draw).items()}
    longest = max(squares.values())
    return float((min(squares.values()) / longest) ** 0.5) if longest > 0 else 1.0


def layer_spreads(problem: Problem) -> dict[str, float]:
    """Return the variance of each layer's gradient, summed over its entries, over batches of random images.

    Of the spectrum of natural images (`adversary.coordinates`), one label: behind many sigmoids a gradient is
    nearly the same whatever the image, and what differs is all that tells of it.
    """
    shape, generator = tuple(problem.task.input_shape), torch.Generator().manual_seed(0)
    noise = torch.randn(DRAWS, problem.batch_size, *shape, generator=generator, dtype=torch.float64)
    images = Chart(shape).images(noise.flatten(2)).clamp(0, 1)
    gradients = [_by_layer(problem, batch) for batch in images]
    stacks = {layer: torch.stack([one[layer] for one in gradients]) for layer in gradients[0]}
    return {layer: float(stack.var(dim=0).sum()) for layer, stack in stacks.items()}


def _by_layer(problem: Problem, images: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a batch, all of label 0, each layer's as one vector."""
    labels = torch.zeros(len(images), dtype=torch.int64, device=problem.like.device)
    parts: dict[str, list[Tensor]] = {}
    for name, value in problem.gradient(images.to(problem.like), labels).items():
        parts.setdefault(layer_of(name), []).append(value.flatten())
    return {layer: torch.cat(values) for layer, values in parts.items()}
