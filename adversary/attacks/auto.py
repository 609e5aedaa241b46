"""The attack of a user who does not want to choose: the strongest per capture within a budget."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from adversary.attacks.analytic import Analytic
from adversary.attacks.dlg import DLG
from adversary.attacks.idlg import IDLG
from adversary.attacks.inverting import InvertingGradients
from adversary.attacks.local_steps import LocalSteps
from adversary.attacks.sme import SME
from adversary.attacks.spear import Spear
from adversary.precision import is_smooth
from adversary.problem import Attempt, Problem
from fedsim.errors import InputError
from fedsim.options import require
from fedsim.seeds import derive
from fedsim.training.batches import number_of_batches

HANDICAP = 10.0
"""How many times smaller the loss of a search that suits less has to be: it may fit better and show less. On
a ConvNet L-BFGS without a prior ends at a third of Inverting Gradients' loss, with a quarter of its SSIM."""


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Try what suits the upload, the cheapest first, and keep the best of each capture by matching loss.

    Exact readings where the first layer is fully connected; where clients make several steps of SGD on up to
    16 images, those unrolled; else iDLG, DLG (labels searched as well) and Inverting Gradients, the last
    first where the model has kinks. What does not suit costs nothing. A capture whose gradient is explained
    is left alone, the others are tried from new starts until the budget is spent; what explains nothing is
    kept from a search that suits less only where its loss is smaller by a HANDICAP. After AutoAttack (Croce
    & Hein 2020): nothing to tune, and what is kept never depends on the truth.
    """

    max_evaluations: int = 20_000
    """The budget: evaluations of a matching loss and its gradient, a capture; an exact reading is one."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 100
    unrolls: ClassVar[bool] = True
    falls_back: ClassVar[bool] = True
    """Where clients do not train by SGD it takes their upload for one gradient."""

    def __post_init__(self) -> None:
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")

    def attack(self, problem: Problem) -> Attempt:
        """Return the best attempt at each capture; raises InputError where no attack takes the batch."""
        tried = _Tried(problem, self.max_evaluations)
        for reading in _readings(problem):
            tried.add(reading)
        searches = _searches(problem)
        while searches and tried.goes_on:  # what is not made for the model or the batch drops out
            searches = [(search, factor) for search, factor in searches if tried.add(search, factor)]
        if tried.best is None:
            raise InputError(f"auto: no attack takes a batch of {problem.batch_size} of this model")
        return tried.best


class _Tried:
    """What has been found so far, and what is left to spend."""

    def __init__(self, problem: Problem, budget: int) -> None:
        self.best: Attempt | None = None
        self._problem, self._left, self._number = problem, budget, 0
        self._searched = False
        self._scores = torch.full((len(problem),), torch.inf, dtype=torch.float64)

    @property
    def goes_on(self) -> bool:
        """Return whether there is budget, and a capture to spend it on."""
        return self._left >= 1 and bool(_open_rows(self._problem, self.best))

    def add(self, attack: Any, factor: float = 1.0) -> bool:
        """Try an attack on the captures that are open; return False where it is not made for them.

        `factor` is what its losses are multiplied by before they are held against others'.
        """
        self._number += 1
        if not self.goes_on:
            return True
        rows = _open_rows(self._problem, self.best)
        held = _within(attack, self._left)
        attempt = _attempt(held, self._anew().select(rows))
        if attempt is None:
            return False
        # By what was allowed, not by what neighbours used: a capture gets what it gets alone.
        self._left -= getattr(held, "max_evaluations", 1)
        if not hasattr(held, "max_evaluations"):  # a reading counts as the one evaluation that confirms it
            attempt = replace(attempt, evaluations=torch.ones_like(attempt.evaluations))
        self._searched |= hasattr(held, "max_evaluations")
        best = _blank(self._problem, attempt) if self.best is None else self.best
        scores = torch.where(attempt.converged, 0.0, factor * attempt.losses.double().cpu())
        lower = scores < self._scores[rows]
        self._scores[torch.tensor(rows)[lower]] = scores[lower]
        self.best = _better(best, attempt, rows, lower)
        return True

    def _anew(self) -> Problem:
        """Return the problem with further starts: the first search has those that it would have alone."""
        if not self._searched:
            return self._problem
        seeds = tuple(derive(seed, "auto", self._number) for seed in self._problem.seeds)
        return replace(self._problem, seeds=seeds)


def _readings(problem: Problem) -> list[Any]:
    """Return the attacks that read a single gradient exactly."""
    return [] if _steps(problem) > 1 else [Analytic(), Spear()]


def _searches(problem: Problem) -> list[tuple[Any, float]]:
    """Return the attacks that search, what suits best first: steps of SGD unrolled, else one gradient.

    Beside each stands what its losses are multiplied by when they are compared.
    """
    recipe = problem.recipe
    unrolled: list[tuple[Any, float]] = [(LocalSteps(), 1.0), (SME(), HANDICAP)]
    sgd = recipe is not None and recipe.optimizer == "sgd" and _steps(problem) > 1
    if sgd and problem.batch_size <= min(search.max_images for search, _ in unrolled):
        return unrolled
    if is_smooth(problem):
        return [(IDLG(), 1.0), (DLG(), 1.0), (InvertingGradients(), HANDICAP)]
    return [(InvertingGradients(), 1.0), (IDLG(), HANDICAP), (DLG(), HANDICAP)]


def _steps(problem: Problem) -> int:
    return 1 if problem.recipe is None else number_of_batches(problem.recipe, problem.batch_size)


def _within(candidate: Any, left: int) -> Any:
    """Return the attack held to what is left of the budget."""
    if not hasattr(candidate, "max_evaluations"):
        return candidate
    return replace(candidate, max_evaluations=min(candidate.max_evaluations, left))


def _attempt(candidate: Any, problem: Problem) -> Attempt | None:
    """Return what the attack finds; None where it is not made for this model or batch."""
    if problem.batch_size > candidate.max_images:
        return None
    try:
        found: Attempt = candidate.attack(problem)
    except (InputError, ValueError):
        return None
    return found


def _open_rows(problem: Problem, best: Attempt | None) -> list[int]:
    converged = [False] * len(problem) if best is None else best.converged.tolist()
    return [row for row in range(len(problem)) if not converged[row]]


def _blank(problem: Problem, like: Attempt) -> Attempt:
    """Return an attempt that any other beats."""
    number = len(problem)
    return Attempt(
        images=like.images.new_zeros(number, *like.images.shape[1:], dtype=torch.float64),
        labels=like.labels.new_zeros(number, *like.labels.shape[1:]),
        losses=like.losses.new_full((number,), torch.inf, dtype=torch.float64),
        evaluations=torch.zeros(number, dtype=torch.int64),
        converged=torch.zeros(number, dtype=torch.bool),
    )


def _better(best: Attempt, attempt: Attempt, rows: list[int], lower: Tensor) -> Attempt:
    """Return the best attempts with those of `rows` replaced where the new score is `lower`."""
    index = torch.tensor(rows)
    spent = best.evaluations.clone()
    spent[index] += attempt.evaluations.clamp(min=1)

    def merged(old: Tensor, new: Tensor) -> Tensor:
        chosen, place = lower.to(old.device), index.to(old.device)
        result = old.clone()
        result[place[chosen]] = new.to(old)[chosen]
        return result

    return Attempt(
        images=merged(best.images, attempt.images),
        labels=merged(best.labels, attempt.labels),
        losses=merged(best.losses, attempt.losses),
        evaluations=spent,
        converged=merged(best.converged, attempt.converged),
    )
