"""What went into a convolution, solved for exactly: its gradient's row space and the overlap of its patches.

Where a convolution has at least as many outputs O as it has positions L, and fewer positions than weights
per output, its gradient `[dW | db] = D [U | 1]` has rank L: its row space is that of `[U | 1]`, whatever the
loss, its target and its noise were. The patches U are linear in the layer's input a, and overlap, so that

    (I - P) [U(a) | 1]^T = 0,   P the projection on the row space of [dW | db]

is a linear system with many more equations, L (K - L), than unknowns; the column of ones fixes a's scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adversary.diffusion.layers import layer_gradient
from adversary.optimizers.cgls import cgls

ITERATIONS = 2000
TOLERANCE = 1e-9


@dataclass(frozen=True)
class LayerInput:
    """The input of a layer, as solved for."""

    value: Tensor
    """(1, C, H, W)"""
    misfit: float
    """What is left of the equations, over their right-hand side: 1e-4 and less for float32 gradients."""

    @property
    def weight(self) -> float:
        """Return how much it counts beside others, 1 / misfit^2."""
        return max(self.misfit, 1e-6) ** -2


def is_solvable(layer: nn.Module, positions: int) -> bool:
    """Return whether the layer's input follows from its gradient: rank, overlap and a bias."""
    if not isinstance(layer, nn.Conv2d) or layer.bias is None:
        return False
    strides = zip(layer.kernel_size, layer.stride, strict=True)
    overlap = all(kernel > stride for kernel, stride in strides)
    return overlap and positions <= layer.out_channels and positions <= layer.weight[0].numel()


def solve_input(
    layer: nn.Conv2d, name: str, target: Mapping[str, Tensor], shape: torch.Size, positions: int
) -> LayerInput:
    """Return the input (1, C, H, W) of `shape` of a layer with so many positions, of one image.

    `target` is the observed gradient by parameter, with a leading row, the only one.
    """
    assert not isinstance(layer.padding, str)
    kernel, dilation, padding, stride = layer.kernel_size, layer.dilation, layer.padding, layer.stride
    basis = torch.linalg.svd(layer_gradient(layer, name, target)[0], full_matrices=False).Vh[:positions]

    def beyond(rows: Tensor) -> Tensor:
        left: Tensor = rows - (rows @ basis.T) @ basis
        return left

    def apply(value: Tensor) -> Tensor:
        rows = F.unfold(value.reshape(shape), kernel, dilation, padding, stride)[0].T
        return beyond(F.pad(rows, (0, 1))).flatten()

    def adjoint(misfits: Tensor) -> Tensor:
        rows = beyond(misfits.reshape(positions, -1))[:, :-1]
        back: Tensor = F.fold(rows.T[None], shape[2:], kernel, dilation, padding, stride)
        return back.flatten()

    ones = basis.new_zeros(positions, basis.shape[1])
    ones[:, -1] = 1
    wanted = -beyond(ones).flatten()
    found = cgls(apply, adjoint, wanted, iterations=ITERATIONS, tolerance=TOLERANCE)
    misfit = (apply(found) - wanted).norm() / wanted.norm()
    return LayerInput(found.reshape(shape), float(misfit))
