"""Linear least squares with an operator that is only known by what it does: conjugate gradients (CGLS)."""

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


def cgls(
    apply: Operator,
    adjoint: Operator,
    wanted: Tensor,
    *,
    iterations: int,
    tolerance: float = 1e-14,
    fit: float = 0.0,
) -> Tensor:
    r"""Return the x (n,) of least $\|A x - b\|$ nearest to zero, b = `wanted` (m,), from x = 0.

    Björck 1996, Algorithm 7.4.1. `apply` is $x \mapsto A x$, `adjoint` $r \mapsto A^T r$. Stops after so many
    `iterations`, or where $\|A^T r\|$ has fallen below `tolerance` times, or $\|r\|$ below `fit` times what
    it was at first.
    """
    residual, gradient = wanted.clone(), adjoint(wanted)
    x, direction = torch.zeros_like(gradient), gradient.clone()
    size = first = gradient.square().sum()
    for _ in range(iterations):
        if not size > tolerance**2 * first or residual.norm() <= fit * wanted.norm():
            break
        image = apply(direction)
        step = size / image.square().sum()
        x = x + step * direction
        residual = residual - step * image
        gradient = adjoint(residual)
        size, before = gradient.square().sum(), size
        direction = gradient + (size / before) * direction
    return x
