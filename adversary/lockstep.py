"""Losses and gradients of many captures at once: one batched program, or one capture after the other."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.utils._pytree import tree_map

from adversary.objectives import Comparison, matching
from adversary.problem import Problem
from adversary.replay import replayed

Batched = Callable[..., tuple[Tensor, Tensor]]
"""(points (k, n), *what the loss takes besides, with a leading row a capture) -> (losses (k,), gradients)."""

LARGE = 200_000
"""Parameters above which a CPU gains nothing from batching captures (measured: 0.96 times as fast)."""
ENTRIES = {"cpu": 2_000_000, "cuda": 100_000_000}
"""Gradient entries that are computed at a time: the cache of a core, a share of a GPU's memory."""


def lockstep(problem: Problem, loss: Callable[..., Tensor]) -> Batched:
    """Return what evaluates `loss(point (n,), *rest) -> scalar` and its gradient for a batch of captures.

    Captures go through `torch.func.vmap`, `chunk_size(problem)` at a time, so that memory stays bounded, and
    through autograd alone where that is one; on a GPU as a CUDA graph where the problem asks for it.
    """
    size = chunk_size(problem)
    single = grad_and_value(loss) if size > 1 else _slope_and_value(loss)

    def batched(points: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        gradients, losses = _mapped(single, size)(points, *rest)
        return losses, gradients

    return replayed(batched) if problem.graphs and problem.like.is_cuda else batched


def matching_losses(
    problem: Problem, images: Tensor, labels: Tensor, compare: Comparison | None = None
) -> Tensor:
    """Return the matching loss (P,) of images (P, B, *input_shape) and labels, without any prior."""
    distance = matching(problem, compare=compare)
    losses: Tensor = _mapped(distance, chunk_size(problem))(images, labels, problem.evidence())
    return losses


def chunk_size(problem: Problem) -> int:
    """Return how many captures are evaluated at a time."""
    entries = sum(int(parameter.numel()) for parameter in problem.model.parameters())
    device = problem.like.device.type
    if device == "cpu" and entries > LARGE:
        return 1
    return max(1, ENTRIES.get(device, ENTRIES["cpu"]) // max(1, entries))


def _mapped(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    return vmap(function, chunk_size=size) if size > 1 else _one_by_one(function)


def _one_by_one(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `vmap(function)` as a loop: no batching rules, and rows are views, not copies."""

    def looped(*batches: Any) -> Any:
        def call(row: int) -> Any:
            return function(*(tree_map(lambda value: value[row], batch) for batch in batches))

        results = [call(row) for row in range(len(batches[0]))]
        if isinstance(results[0], Tensor):
            return torch.stack(results)
        return tuple(torch.stack(column) for column in zip(*results, strict=True))

    return looped


def _slope_and_value(loss: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return `grad_and_value(loss)` by autograd itself, which does it in less time where no `vmap` is."""

    def evaluate(point: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        variable = point.detach().requires_grad_()
        with torch.enable_grad():
            value = loss(variable, *rest)
        return torch.autograd.grad(value, variable)[0], value.detach()

    return evaluate
