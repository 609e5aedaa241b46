"""The row-space objective: how far a gradient's rows are from what the noisy images' patches span.

For a layer whose gradient is `D [U(x_t) | 1]`, with fewer positions than weights per output, the rows of the
gradient lie in the row space of its patches, whatever loss, target and noise were. It asks for x_t alone.
What is compared is an orthonormal basis of those rows and not the rows: these are nearly parallel, so that a
wrong image explains most of their energy and no slope leads on.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adversary.diffusion.layers import Place, diffusion, layer_gradient, patches, presence, recording
from adversary.objectives import NAIVE, ROUNDING
from adversary.optimizers.lbfgs import Evaluate
from adversary.problem import Problem

RIDGE = 1e-9
"""Of the Gram matrices, over their mean diagonal entry."""


def row_spaces(problem: Problem, where: Sequence[Place], timesteps: Tensor) -> Evaluate:
    r"""Return what evaluates noisy images (k, pixels of a batch) of captures at `timesteps` (P, B).

    $\sum_l \|A_l (I - P_{U_l})\|^2 / \sum_l \|A_l\|^2$ over the layers, A by `trusted_basis` and $P_U$ the
    projection on the span of the patches' rows. Free of the gradient's length.
    """
    names = [place.name for place in where]
    observed = {place.name: trusted_basis(problem, place) for place in where}
    whole = torch.stack([basis.flatten(1).square().sum(dim=1) for basis in observed.values()]).sum(dim=0)

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not names:
            return points.new_ones(len(points)), torch.zeros_like(points)
        point = points.detach().requires_grad_()
        beyond = [_beyond(u, observed[n][rows]) for n, u in patches_at(point, rows).items()]
        losses = torch.stack(beyond).sum(dim=0) / whole[rows]
        return losses.detach(), torch.autograd.grad(losses.sum(), point)[0]

    def patches_at(point: Tensor, rows: Tensor) -> dict[str, Tensor]:
        task, size = diffusion(problem), problem.batch_size
        with recording(problem.model, names) as seen:
            task.predict(problem.model, point.reshape(-1, *task.input_shape), timesteps[rows].flatten())
        return {name: patches(problem.model.get_submodule(name), seen[name], size) for name in names}

    return evaluate


def trusted_basis(problem: Problem, place: Place) -> Tensor:
    r"""Return `w_k v_k` (P, R, K): the right singular vectors of `[dW | db]`, each as far as it is trusted.

    $w = (s^2 / (s^2 + n^2))^2$ with s the singular value and $n = \sigma (\sqrt{O} + \sqrt{K})$ the largest
    of noise alone (Davidson & Szarek 2001, theorem II.13). Rows of which an entry is absent are left out.
    """
    layer = problem.model.get_submodule(place.name)
    gradient = layer_gradient(layer, place.name, problem.target)
    gradient = gradient * (layer_gradient(layer, place.name, presence(problem)) > 0).all(dim=2, keepdim=True)
    found = torch.linalg.svd(gradient, full_matrices=False)
    noise = entry_noise(problem, f"{place.name}.weight") * sum(math.sqrt(side) for side in gradient.shape[1:])
    squares = found.S.square()
    trust = squares / (squares + noise[:, None].square()).clamp(min=torch.finfo(squares.dtype).tiny)
    count = problem.batch_size * place.positions
    basis: Tensor = trust.square()[:, :count, None] * found.Vh[:, :count]
    return basis


def has_whole_rows(problem: Problem, place: Place) -> bool:
    """Return whether each capture shows a row of the layer's gradient that is all there, and not zero."""
    return bool((trusted_basis(problem, place).flatten(1).norm(dim=1) > 0).all())


def entry_noise(problem: Problem, name: str) -> Tensor:
    """Return the standard deviation (P,) of what disturbs a parameter's entries, as far as it is known of.

    Rounding to float32 in the client's sums, noise, and what intervals leave open.
    """
    rounding = ROUNDING * problem.target[name].flatten(1).square().mean(dim=1)
    noise = ((problem.knowledge or NAIVE).noise_std / problem.unit) ** 2
    slack = problem.slack[name].flatten(1).square().mean(dim=1) / 3 if name in problem.slack else 0.0
    return (rounding + noise + slack).sqrt()


def _beyond(rows: Tensor, observed: Tensor) -> Tensor:
    """Return how much, squared, of `observed` (k, R, K) the `rows` (k, L, K) do not span, (k,)."""
    gram = rows @ rows.mT
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), rows @ observed.mT, upper=False)
    explained: Tensor = half.flatten(1).square().sum(dim=1)
    return observed.flatten(1).square().sum(dim=1) - explained
