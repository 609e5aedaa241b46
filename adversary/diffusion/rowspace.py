"""The row-space objective: how far a gradient's rows are from what the noisy images' patches span.

For a layer whose gradient is `D [U(x_t) | 1]`, with fewer positions than weights per output, the rows of the
gradient lie in the row space of its patches, whatever loss, target and noise were. It asks for x_t alone.
"""

import torch
from torch import Tensor

from adversary.diffusion.layers import diffusion, layer_gradient, patches, presence, recording
from adversary.optimizers.lbfgs import Evaluate
from adversary.problem import Problem

RIDGE = 1e-9
"""Of the Gram matrices, over their mean diagonal entry."""


def row_spaces(problem: Problem, names: list[str], timesteps: Tensor) -> Evaluate:
    r"""Return what evaluates noisy images (k, pixels of a batch) of captures at `timesteps` (P, B).

    The mean over the layers of $1 - \|A P_U\|^2 / \|A\|^2$, A the rows of the observed gradient whose entries
    are all present, $P_U$ the projection on the span of the patches' rows. Free of the gradient's length.
    """
    observed = {name: _whole_rows(problem, name) for name in names}

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not names:
            return points.new_ones(len(points)), torch.zeros_like(points)
        point = points.detach().requires_grad_()
        losses = torch.stack([_beyond(u, observed[n][rows]) for n, u in patches_at(point, rows).items()])
        losses = losses.mean(dim=0)
        return losses.detach(), torch.autograd.grad(losses.sum(), point)[0]

    def patches_at(point: Tensor, rows: Tensor) -> dict[str, Tensor]:
        task, size = diffusion(problem), problem.batch_size
        with recording(problem.model, names) as seen:
            task.predict(problem.model, point.reshape(-1, *task.input_shape), timesteps[rows].flatten())
        return {name: patches(problem.model.get_submodule(name), seen[name], size) for name in names}

    return evaluate


def with_whole_rows(problem: Problem, names: list[str]) -> list[str]:
    """Return the layers of which every capture has a row that is all there, and not zero."""
    return [name for name in names if bool(_whole_rows(problem, name).flatten(1).any(dim=1).all())]


def _beyond(rows: Tensor, observed: Tensor) -> Tensor:
    """Return the share (k,) of `observed` (k, O, K), of unit length, that `rows` (k, L, K) do not span."""
    gram = rows @ rows.mT
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), rows @ observed.mT, upper=False)
    explained: Tensor = half.flatten(1).square().sum(dim=1)
    return 1 - explained


def _whole_rows(problem: Problem, name: str) -> Tensor:
    """Return `[dW | db]` (P, O, K) of a layer at unit length, rows with an absent entry as zeros."""
    layer = problem.model.get_submodule(name)
    gradient = layer_gradient(layer, name, problem.target)
    gradient = gradient * (layer_gradient(layer, name, presence(problem)) > 0).all(dim=2, keepdim=True)
    length = gradient.flatten(1).norm(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
    unit: Tensor = gradient / length[:, None, None]
    return unit
