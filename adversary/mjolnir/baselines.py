"""What a denoiser has to beat: from doing nothing to shrinking, projecting, and not looking at all."""

import torch
from torch import Tensor

from adversary.labels import classifier_names
from adversary.mjolnir.level import low_rank
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.vectors import flatten, unflatten
from adversary.problem import Problem


def shrinkage(rows: Tensor, std: Tensor) -> Tensor:
    r"""Return $g^* \max(0, 1 - \sigma^2 d / ||g^*||^2)$, (P, d): the best factor, as far as it is seen."""
    square = rows.square().sum(dim=1)
    kept = (1 - std.square() * rows.shape[1] / square).clamp(min=0)
    return kept[:, None] * rows


def wiener(problem: Problem, rows: Tensor, std: Tensor, truth: Tensor) -> Tensor:
    r"""Return $g^*_l v_l / (v_l + \sigma^2)$ for each parameter l, (P, d).

    With $v_l$ the truth's own mean square: the oracle of all that scales parameter by parameter; no
    attacker knows `truth` (P, d).
    """
    parts = unflatten(rows, problem.target)
    for name, clean in unflatten(truth, problem.target).items():
        power = clean.flatten(1).square().mean(dim=1)
        kept = power / (power + std.square()).clamp(min=1e-30)
        parts[name] = parts[name] * kept.reshape(-1, *[1] * (clean.dim() - 1))
    return flatten(parts)


def rank_one(problem: Problem, rows: Tensor) -> Tensor:
    """Return the gradients (P, d) with the classifier's as a sum of B products, which it is without noise."""
    parts = unflatten(rows, problem.target)
    names = classifier_names(problem)
    pieces = [parts[name].reshape(len(rows), problem.task.num_classes, -1) for name in names]
    whole = torch.cat(pieces, dim=2)
    fit = low_rank(whole, torch.ones_like(whole, dtype=torch.bool), problem.batch_size)
    widths = [one.shape[2] for one in pieces]
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

    def pca(self, rows: Tensor, std: Tensor, labels: Tensor) -> Tensor:
        r"""Return gradients (P, d) along the principal directions, each shrunk by $v_i / (v_i + \sigma^2)$.

        About the class mean of each label: the linear estimate of least squared error, were the surrogate's
        gradients the victim's.
        """
        means = self.class_means(labels).to(rows)
        along = (rows - means) @ self.directions.to(rows)
        power = self.power.to(rows)
        kept = power / (power + std[:, None].square()).clamp(min=1e-30)
        return means + (along * kept) @ self.directions.T.to(rows)


def _principal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances (k,) and directions (d, k) of centred rows (n, d), by way of the Gram matrix."""
    gram = rows.double() @ rows.double().T
    squares, vectors = torch.linalg.eigh(gram)
    held = squares > 1e-10 * squares[-1]
    directions = rows.double().T @ vectors[:, held] / squares[held].sqrt()
    return (squares[held] / len(rows)).to(rows), directions.to(rows)
