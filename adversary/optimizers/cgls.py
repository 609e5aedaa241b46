"""Linear least squares with an operator that is only known by what it does: conjugate gradients (CGLS)."""

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


LOST = 2.0
"""How many times what rounding has brought back of earlier gradients may outweigh what is new of one."""


def cgls(
    apply: Operator,
    adjoint: Operator,
    wanted: Tensor,
    *,
    iterations: int,
    tolerance: float = 1e-14,
    fit: float = 0.0,
    memory: int = 0,
) -> Tensor:
    r"""Return the x (n,) of least $\|A x - b\|$ nearest to zero, b = `wanted` (m,), from x = 0.

    Björck 1996, Algorithm 7.4.1. `apply` is $x \mapsto A x$, `adjoint` $r \mapsto A^T r$. Stops after so many
    `iterations`, or where $\|A^T r\|$ has fallen below `tolerance` times, or $\|r\|$ below `fit` times what
    it was at first.

    Its gradients $A^T r$ are orthogonal, but for rounding, which costs iterations. With `memory` each is made
    so to that many before it (Simon & Zha 2000: that side is enough); where next to nothing is left of one,
    or the memory is full, it starts anew from the residual that x really leaves.
    """
    residual, gradient = wanted.clone(), adjoint(wanted)
    x, direction = torch.zeros_like(gradient), gradient.clone()
    size = first = gradient.square().sum()
    earlier = _Earlier(memory, gradient)
    for _ in range(iterations):
        if not size > tolerance**2 * first or residual.norm() <= fit * wanted.norm():
            break
        image = apply(direction)
        step = size / image.square().sum()
        x = x + step * direction
        residual = residual - step * image
        new = earlier.beyond(adjoint(residual))
        if new is None:
            residual = wanted - apply(x)
            new, direction = adjoint(residual), torch.zeros_like(x)
            earlier = _Earlier(memory, new)
        size, before = new.square().sum(), size
        direction = new + (size / before) * direction
    return x


class _Earlier:
    """The directions of gradients so far."""

    def __init__(self, memory: int, first: Tensor) -> None:
        self.rows = first.new_empty(memory, len(first))
        self.count = 0
        if memory:
            self._keep(first)

    def beyond(self, gradient: Tensor) -> Tensor | None:
        """Return what is new of a gradient, and keep it; None where next to nothing is, or memory is full."""
        if not len(self.rows):
            return gradient
        if self.count == len(self.rows):
            return None
        rows = self.rows[: self.count]
        shares = rows @ gradient
        new: Tensor = gradient - shares @ rows
        if shares.norm() > LOST * new.norm():
            return None
        new = new - (rows @ new) @ rows
        self._keep(new)
        return new

    def _keep(self, gradient: Tensor) -> None:
        self.rows[self.count] = gradient / gradient.norm()
        self.count += 1
