"""What precision an attack can do with: whether a model is smooth, and a problem in another dtype."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adversary.problem import Problem

Precision = Literal["mixed", "double"]
"""float32 as far as it carries and then float64, or float64 throughout (the same alone and in any batch)."""

KINKED = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "hardtanh", "hardswish", "hardsigmoid", "threshold"),
    *("clamp", "clamp_min", "clamp_max", "abs", "amax", "amin", "max", "maximum"),
    *("max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d"),
}
"""Operators whose gradient jumps or whose second derivative is zero almost everywhere."""


def is_smooth(problem: Problem) -> bool:
    """Return whether the model is twice differentiable: it runs none of the operators `KINKED`.

    Where it is not, the gradient jumps as the image moves: a quasi-Newton method has no curvature to go by.
    """
    image = torch.zeros(2, *problem.task.input_shape, dtype=problem.like.dtype, device=problem.like.device)
    with torch.no_grad(), _Recording() as run:
        problem.model(image)
    return not run.names & KINKED


def cast(problem: Problem, dtype: torch.dtype) -> Problem:
    """Return the problem with weights and evidence in another dtype; the given one is left alone."""
    if problem.like.dtype == dtype:
        return problem
    return replace(
        problem,
        model=copy.deepcopy(problem.model).to(dtype),
        target={name: value.to(dtype) for name, value in problem.target.items()},
        slack={name: value.to(dtype) for name, value in problem.slack.items()},
        statistics={
            name: (mean.to(dtype), var.to(dtype)) for name, (mean, var) in problem.statistics.items()
        },
        rounds=tuple(cast(other, dtype) for other in problem.rounds),
    )


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        self.names.add(str(func.overloadpacket.__name__).removesuffix("_"))  # type: ignore[attr-defined]
        result: Tensor | tuple[Tensor, ...] = func(*args, **(kwargs or {}))
        return result
