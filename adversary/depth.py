"""Matching the deep layers first: cheaper evaluations, and a smoother loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from adversary.objectives import one_gradient
from adversary.problem import Evidence, Problem
from fedsim.defenses.upload import Values, identity

SHALLOW = 0.2
"""Share of a gradient's squared length that the shallow layers have, above which they drown the deep ones."""


def deep_parameters(problem: Problem) -> list[str]:
    """Return the names of the parameters behind the first loss of resolution, in the model's order.

    Those of modules whose input is a feature map as large as the image are left out. Their gradients cost
    most (of the derivatives and of these once more), and jump most as the image moves, since every kink
    behind them counts (shattered gradients: Balduzzi et al., ICML 2017); yet of the gradient's length they
    are a small share. Empty where the defence is simulated: that may take the gradient whole.
    """
    if problem.knowledge is not None and problem.knowledge.simulate is not identity:
        return []
    size = torch.Size(problem.task.input_shape[-2:])
    shallow: set[str] = set()

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor) and inputs[0].shape[2:] == size:
                shallow.update(f"{name}.{key}" for key, _ in module.named_parameters(recurse=False))

        return hook

    handles = [module.register_forward_pre_hook(look(name)) for name, module in problem.model.named_modules()]
    try:
        with torch.no_grad():
            problem.model(torch.zeros(2, *problem.task.input_shape).to(problem.like))
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in problem.target if name not in shallow]


def shallow_share(problem: Problem, deep: Sequence[str]) -> Tensor:
    """Return what share of the squared length of each observed gradient (P,) the other parameters have."""
    squares = {name: value.flatten(1).square().sum(dim=1) for name, value in problem.target.items()}
    total = torch.stack(list(squares.values())).sum(dim=0)
    shallow = [value for name, value in squares.items() if name not in deep]
    return torch.stack([torch.zeros_like(total), *shallow]).sum(dim=0) / total


def restricted(problem: Problem, names: Sequence[str]) -> Problem:
    """Return the problem of which only the evidence on some parameters is taken into account."""

    def some(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[name] for name in names if name in values}

    return replace(
        problem,
        target=some(problem.target),
        present=some(problem.present),
        slack=some(problem.slack),
        rounds=tuple(restricted(other, names) for other in problem.rounds),
    )


def observed_gradient(problem: Problem, images: Tensor, labels: Tensor, seen: Evidence) -> Values:
    """Return the gradient by those parameters alone that the evidence is about."""
    parameters = dict(problem.model.named_parameters())
    if len(seen.target) == len(parameters):
        return one_gradient(problem, images, labels, seen)
    return problem.gradient(images, labels, {name: parameters[name] for name in seen.target})
