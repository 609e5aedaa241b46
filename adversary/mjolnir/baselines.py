"""What a denoiser has to beat: from doing nothing to shrinking, projecting, and not looking at all."""

import torch
from torch import Tensor

from adversary.labels import classifier_names
from adversary.mjolnir.level import low_rank
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.vectors import flatten, presence, unflatten
from adversary.problem import Problem

DROWNED = 1e-2
"""Power of a principal direction, in units of the noise's, below which it is left out."""


def shrinkage(problem: Problem, std: Tensor) -> Tensor:
    r"""Return $g^* \max(0, 1 - \sigma^2 d / ||g^*||^2)$, (P, d): the best factor, as far as it is seen.

    Over the d entries that are there; absent ones stay zero.
    """
    rows = flatten(problem.target)
    entries = presence(problem.present, problem.target).sum(dim=1)
    kept = (1 - std.square() * entries / rows.square().sum(dim=1)).clamp(min=0)
    return kept[:, None] * rows


def wiener(problem: Problem, std: Tensor, truth: Tensor) -> Tensor:
    r"""Return $g^*_l v_l / (v_l + \sigma^2)$ for each parameter l, (P, d); absent entries stay zero.

    With $v_l$ the truth's own mean square: the oracle of all that scales parameter by parameter; no
    attacker knows `truth` (P, d), before entries were withheld.
    """
    parts = dict(problem.target)
    for name, clean in unflatten(truth, problem.target).items():
        power = clean.flatten(1).square().mean(dim=1)
        kept = power / (power + std.square()).clamp(min=1e-30)
        parts[name] = parts[name] * kept.reshape(-1, *[1] * (clean.dim() - 1))
    return flatten(parts)


def rank_one(problem: Problem) -> Tensor:
    """Return the gradients (P, d) with the classifier's as a sum of B products, which it is without noise.

    Absent entries stay zero: what the products make of them is noise, many times over.
    """
    parts, names = dict(problem.target), classifier_names(problem)
    there = unflatten(presence(problem.present, parts), parts)
    whole, mask = (
        torch.cat([one[name].reshape(len(problem), problem.task.num_classes, -1) for name in names], dim=2)
        for one in (parts, there)
    )
    widths = [parts[name][0].numel() // problem.task.num_classes for name in names]
    fit = low_rank(whole, mask, problem.batch_size) * mask
    for name, piece in zip(names, torch.split(fit, widths, dim=2), strict=True):
        parts[name] = piece.reshape(parts[name].shape)
    return flatten(parts)


class Statistics:
    """Means and principal directions of surrogate gradients, class by class."""

    def __init__(self, surrogate: Surrogate, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        drawn = [surrogate.batch(min(64, count), generator) for _ in range(-(-count // 64))]
        labels = torch.cat([one[1][:, 0] for one in drawn])
        rows = surrogate.defended(torch.cat([one[2] for one in drawn]))
        classes = surrogate.victim.task.num_classes
        self.mean = rows.mean(dim=0)
        members = [rows[labels == label] for label in range(classes)]
        self.means = torch.stack([part.mean(dim=0) if len(part) else self.mean for part in members])
        centred = rows - self.means[labels]
        self.power, self.directions = _principal(centred)

    def class_means(self, labels: Tensor) -> Tensor:
        """Return the mean surrogate gradient of each label (P,): (P, d)."""
        return self.means[labels.to(self.means.device)]

    def pca(self, rows: Tensor, std: Tensor, labels: Tensor, there: Tensor | None = None) -> Tensor:
        r"""Return gradients (P, d) along the principal directions, each shrunk by $v_i / (v_i + \sigma^2)$.

        About the class mean of each label: the linear estimate of least squared error, were the surrogate's
        gradients the victim's. From the entries `there` (P, d) alone, where some are absent:
        $z = (U^T U + \sigma^2 V^{-1})^{-1} U^T (g^* - m)$ with the rows of the directions U that are there.
        """
        means, directions = self.class_means(labels).to(rows), self.directions.to(rows)
        power, noise = self.power.to(rows), std[:, None].square()
        if there is None or bool(there.all()):
            along = ((rows - means) @ directions) * (power / (power + noise).clamp(min=1e-30))
        else:
            pieces = [
                _along(directions, mask, row - mean, power, one)
                for row, mean, mask, one in zip(rows, means, there, noise, strict=True)
            ]
            along = torch.stack(pieces)
        return means + along @ directions.T


def _along(directions: Tensor, mask: Tensor, row: Tensor, power: Tensor, noise: Tensor) -> Tensor:
    """Return the coordinates (k,) along `directions` (d, k) to be expected of a row (d,), seen in `mask`.

    Zero where the noise leaves less than DROWNED of them.
    """
    heard = power > DROWNED * noise
    shown = directions[:, heard][mask]
    found = torch.zeros_like(power)
    squares = shown.T @ shown + torch.diag(noise / power[heard])
    found[heard] = torch.linalg.solve(squares, shown.T @ row[mask])
    return found


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances (k,) and directions (d, k) of centred rows (n, d), by way of the Gram matrix."""
    gram = rows.double() @ rows.double().T
    squares, vectors = torch.linalg.eigh(gram)
    held = squares > 1e-10 * squares[-1]
    directions = rows.double().T @ vectors[:, held] / squares[held].sqrt()
    return (squares[held] / len(rows)).to(rows), directions.to(rows)
