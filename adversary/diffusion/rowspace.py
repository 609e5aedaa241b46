"""The row-space objective: how far a gradient's rows are from what the noisy images' patches span.

For a layer whose gradient is `D [U(x_t) | 1]`, with fewer positions than weights per output, the rows of the
gradient lie in the row space of its patches, whatever loss, target and noise were. It asks for x_t alone.
What is compared is an orthonormal basis of those rows and not the rows: these are nearly parallel, so that a
wrong image explains most of their energy and no slope leads on.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adversary.diffusion.layers import Place, diffusion, layer_gradient, patches, presence, recording
from adversary.objectives import NAIVE, ROUNDING
from adversary.optimizers.lbfgs import Evaluate
from adversary.problem import Problem

RIDGE = 1e-9
"""Of the Gram matrices, over their mean diagonal entry."""
MASKED_POSITIONS = 128
"""Patches up to which rows with absent entries are used: each has a Gram matrix of its own."""
SPARE = 1.5
"""How many times as many known entries as patches such a row has to have."""


class Rows(NamedTuple):
    """What the patches of a layer are to span, of each capture."""

    basis: Tensor
    """(P, R, K)"""
    shown: Tensor | None
    """(P, R, K), 1 where an entry is known and else 0; None: all are."""

    def of(self, rows: Tensor) -> "Rows":
        """Return those of some captures (k,)."""
        return Rows(self.basis[rows], None if self.shown is None else self.shown[rows])


def row_spaces(problem: Problem, where: Sequence[Place], timesteps: Tensor) -> Evaluate:
    r"""Return what evaluates noisy images (k, pixels of a batch) of captures at `timesteps` (P, B).

    $\sum_l \|A_l (I - P_{U_l})\|^2 / \sum_l \|A_l\|^2$ over the layers, A by `observed_rows` and $P_U$ the
    projection on the span of the patches' rows, by the entries that are present. Free of lengths.
    """
    names = [place.name for place in where]
    observed = {place.name: observed_rows(problem, place) for place in where}
    squares = [known.basis.flatten(1).square().sum(dim=1) for known in observed.values()]
    whole = torch.stack(squares).sum(dim=0)

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        point = points.detach().requires_grad_()
        beyond = [_beyond(u, observed[n].of(rows)) for n, u in patches_at(point, rows).items()]
        losses = torch.stack(beyond).sum(dim=0) / whole[rows]
        return losses.detach(), torch.autograd.grad(losses.sum(), point)[0]

    def patches_at(point: Tensor, rows: Tensor) -> dict[str, Tensor]:
        task, size = diffusion(problem), problem.batch_size
        with recording(problem.model, names) as seen:
            task.predict(problem.model, point.reshape(-1, *task.input_shape), timesteps[rows].flatten())
        return {name: patches(problem.model.get_submodule(name), seen[name], size) for name in names}

    return evaluate


def is_usable(problem: Problem, place: Place) -> bool:
    """Return whether each capture's gradient of the layer has rows that tell what its patches span."""
    count = problem.batch_size * place.positions
    if count >= place.width or (_is_masked(problem, place) and count > MASKED_POSITIONS):
        return False
    gradient, shown = _shown_rows(problem, place)
    return bool(((gradient * shown).flatten(1).norm(dim=1) > 0).all())


def observed_rows(problem: Problem, place: Place) -> Rows:
    """Return what is to be spanned of a layer's gradient `[dW | db]`, and which entries of it are known."""
    gradient, shown = _shown_rows(problem, place)
    if not _is_masked(problem, place):
        return Rows(_trusted(problem, place, gradient), None)
    basis = gradient * shown
    length = basis.flatten(1).norm(dim=1).clamp(min=torch.finfo(basis.dtype).tiny)
    return Rows(basis * (math.sqrt(basis.shape[1]) / length[:, None, None]), shown)


def _shown_rows(problem: Problem, place: Place) -> tuple[Tensor, Tensor]:
    """Return `[dW | db]` (P, O, K), and which of its entries are known, in rows that have enough of them."""
    layer = problem.model.get_submodule(place.name)
    gradient = layer_gradient(layer, place.name, problem.target)
    if not _is_masked(problem, place):
        return gradient, torch.ones_like(gradient)
    shown = layer_gradient(layer, place.name, presence(problem))
    # A row with hardly more entries than there are patches is spanned by any.
    enough = shown.sum(dim=2, keepdim=True) > SPARE * problem.batch_size * place.positions
    return gradient, shown * enough


def _is_masked(problem: Problem, place: Place) -> bool:
    return any(f"{place.name}.{part}" in problem.present for part in ("weight", "bias"))


def _trusted(problem: Problem, place: Place, gradient: Tensor) -> Tensor:
    r"""Return `w_k v_k` (P, R, K): the right singular vectors of `[dW | db]`, each as far as it is trusted.

    $w = (s^2 / (s^2 + n^2))^2$ with s the singular value and $n = \sigma (\sqrt{O} + \sqrt{K})$ the largest
    of noise alone (Davidson & Szarek 2001, theorem II.13).
    """
    found = torch.linalg.svd(gradient, full_matrices=False)
    noise = entry_noise(problem, f"{place.name}.weight") * sum(math.sqrt(side) for side in gradient.shape[1:])
    squares = found.S.square()
    trust = squares / (squares + noise[:, None].square()).clamp(min=torch.finfo(squares.dtype).tiny)
    count = problem.batch_size * place.positions
    basis: Tensor = trust.square()[:, :count, None] * found.Vh[:, :count]
    return basis


def entry_noise(problem: Problem, name: str) -> Tensor:
    """Return the standard deviation (P,) of what disturbs a parameter's entries, as far as it is known of.

    Rounding to float32 in the client's sums, noise, and what intervals leave open.
    """
    rounding = ROUNDING * problem.target[name].flatten(1).square().mean(dim=1)
    noise = ((problem.knowledge or NAIVE).noise_std / problem.unit) ** 2
    slack = problem.slack[name].flatten(1).square().mean(dim=1) / 3 if name in problem.slack else 0.0
    return (rounding + noise + slack).sqrt()


def _beyond(rows: Tensor, known: Rows) -> Tensor:
    """Return how much, squared, of the known entries (k, R, K) the `rows` (k, L, K) do not span, (k,).

    The coefficients are the best ones, so that the slope in the rows is that at fixed coefficients (envelope
    theorem).
    """
    observed, shown = known
    with torch.no_grad():
        if shown is None:
            gram, product = rows @ rows.mT, rows @ observed.mT  # (k, L, L), (k, L, R)
        else:
            gram = torch.einsum("kip,krp,kjp->krij", rows, shown, rows)  # (k, R, L, L)
            product = (rows @ (observed * shown).mT).mT[..., None]  # (k, R, L, 1)
        ridge = RIDGE * gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
        ridge = ridge.clamp(min=1e-30)  # a row of which nothing is known
        gram = gram + ridge * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        found = torch.cholesky_solve(product, torch.linalg.cholesky(gram))
        coefficients = found.mT if shown is None else found[..., 0]
    gaps = observed - coefficients @ rows
    gaps = gaps if shown is None else gaps * shown
    left: Tensor = gaps.flatten(1).square().sum(dim=1)
    return left
