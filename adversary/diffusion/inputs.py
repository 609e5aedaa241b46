"""What went into a convolution, solved for exactly: its gradient's row space and the overlap of its patches.

Where a convolution has at least as many outputs O as it has positions L, and fewer positions than weights
per output, its gradient `[dW | db] = D [U | 1]` has rank L: its row space is that of `[U | 1]`, whatever the
loss, its target and its noise were. The patches U are linear in the layer's input a, and overlap, so that

    (I - P) [U(a) | 1]^T = 0,   P the projection on the row space of [dW | db]

is a linear system with many more equations, L (K - L), than unknowns; the column of ones fixes a's scale.

Of a batch of B images, where O is at least B L, the inputs of each solve it, and what lies on the plane
through these B points: which of its points are inputs the layers before have to say. More points of it are
found from random starts, one more than span it: where that one is not on it, the equations leave more open.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary.diffusion.layers import layer_gradient
from adversary.optimizers.cgls import Operator, cgls

ITERATIONS = 5000
"""At 256 positions and outputs 2,000 are too few by far; at 64 the tolerance ends it sooner."""
TOLERANCE = 1e-9
APART = 3.0
"""How far from zero, over the size of an input, the search for further points of the plane starts."""


@dataclass(frozen=True)
class LayerInput:
    """The inputs of a layer, one for each image of a batch, as solved for: the plane through them."""

    value: Tensor
    """(1, C, H, W), a point of it: of an only image its input."""
    directions: Tensor
    """(B - 1, C H W), orthonormal."""
    misfit: float
    """What is left of the equations, over their right-hand side, 1e-4 and less for float32 gradients; of a
    batch how far one more solution is off the plane, over a solution's length, where that is more."""

    @property
    def weight(self) -> float:
        """Return how much it counts beside others, 1 / misfit^2."""
        return max(self.misfit, 1e-6) ** -2

    def gap(self, inputs: Tensor) -> Tensor:
        """Return the squared distance of inputs (k, C, H, W) to the plane, over its point's length (k,)."""
        apart = (inputs - self.value).flatten(1)
        beside = apart - (apart @ self.directions.T) @ self.directions
        return beside.square().sum(dim=1) / self.value.square().sum()


def is_solvable(layer: nn.Module, positions: int) -> bool:
    """Return whether the inputs follow from the layer's gradient: rank, overlap and a bias.

    `positions` are those of all images of the batch.
    """
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        return False
    strides = zip(layer.kernel_size, layer.stride, strict=True)
    overlap = all(kernel > stride for kernel, stride in strides)
    return overlap and positions <= layer.out_channels and positions <= layer.weight[0].numel()


def solve_input(
    layer: nn.Conv2d, name: str, target: Mapping[str, Tensor], shape: torch.Size, batch: int = 1
) -> LayerInput:
    """Return the inputs of a layer, each of `shape` (1, C, H, W), of so many images.

    `target` is the observed gradient by parameter, with a leading row, the only one.
    """
    equations = _equations(layer, layer_gradient(layer, name, target)[0], shape, batch)
    first = equations.nearest(torch.zeros_like(equations.even))
    misfit = equations.left(first).norm() / equations.wanted.norm()
    directions = first.new_zeros(0, shape.numel())
    if batch > 1:
        generator, scale = torch.Generator().manual_seed(0), APART * first.square().mean().sqrt()
        starts = torch.randn(batch, shape.numel(), generator=generator, dtype=torch.float64).to(first)
        apart = torch.stack([equations.nearest(scale * start) - first for start in starts])
        directions = torch.linalg.qr(apart[1:].T).Q.T
        beside = apart[0] - (apart[0] @ directions.T) @ directions
        misfit = torch.maximum(misfit, beside.norm() / first.norm())
    return LayerInput(first.reshape(shape), directions, float(misfit))


class _Equations(NamedTuple):
    """What an input a (n,) has to solve: `apply(a / even) = wanted`."""

    apply: Operator
    adjoint: Operator
    wanted: Tensor
    even: Tensor
    """(n,), 1 over the root of how many patches an entry is in: all count alike, in fewer iterations."""

    def left(self, value: Tensor) -> Tensor:
        """Return what an input leaves of the equations."""
        return self.wanted - self.apply(value / self.even)

    def nearest(self, start: Tensor) -> Tensor:
        """Return the solution nearest to a start (n,)."""
        left = self.left(start)
        step = cgls(self.apply, self.adjoint, left, iterations=ITERATIONS, tolerance=TOLERANCE)
        return start + self.even * step


def _equations(layer: nn.Conv2d, gradient: Tensor, shape: torch.Size, batch: int) -> _Equations:
    """Return the module's equations for inputs of `shape` from `[dW | db]` (O, K) of so many images."""
    assert not isinstance(layer.padding, str)
    kernel, dilation, padding, stride = layer.kernel_size, layer.dilation, layer.padding, layer.stride

    def patches(value: Tensor) -> Tensor:
        return F.unfold(value.reshape(shape), kernel, dilation, padding, stride)[0].T

    def summed(rows: Tensor) -> Tensor:
        whole: Tensor = F.fold(rows.T[None], shape[2:], kernel, dilation, padding, stride)
        return whole.flatten()

    none = patches(gradient.new_zeros(shape))
    even = summed(torch.ones_like(none)).clamp(min=1).rsqrt()
    basis = torch.linalg.svd(gradient, full_matrices=False).Vh[: batch * len(none)]

    def beyond(rows: Tensor) -> Tensor:
        left: Tensor = rows - (rows @ basis.T) @ basis
        return left

    def apply(value: Tensor) -> Tensor:
        return beyond(F.pad(patches(even * value), (0, 1))).flatten()

    def adjoint(misfits: Tensor) -> Tensor:
        return even * summed(beyond(misfits.reshape(len(none), -1))[:, :-1])

    ones = F.pad(none, (0, 1), value=1.0)
    return _Equations(apply, adjoint, -beyond(ones).flatten(), even)
