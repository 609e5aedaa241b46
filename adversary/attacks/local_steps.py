"""Local training inverted: the client's steps unrolled, and the difference of weights matched."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, product
from math import comb, prod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from adversary.attacks.match import Matched, Penalty, by_lbfgs, by_signed_adam, match
from adversary.labels import infer_labels
from adversary.objectives import direction, matching
from adversary.precision import is_smooth
from adversary.problem import Attempt, Evidence, Problem
from adversary.starts import Start, draw_start
from adversary.unroll import batches_of, recipe_of, unrolled
from fedsim.options import require
from fedsim.seeds import derive

Objective = Literal["square", "cosine"]
Optimizer = Literal["auto", "adam", "lbfgs"]


class Search(NamedTuple):
    """How unrolled steps are matched."""

    max_evaluations: int
    objective: Objective
    optimizer: Optimizer
    smoothness: float
    orders: int
    start: Start

    def check(self) -> None:
        """Raise InputError for an option that is out of range."""
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")
        require(0 <= self.smoothness < float("inf"), "smoothness", self.smoothness, "smoothness >= 0")
        require(self.orders >= 1, "orders", self.orders, "at least 1")


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    r"""Find images on which the client's own training leads to the observed weights.

        min over x of ||u(x) - u*||^2 / ||u*||^2, with u(x) the update after E epochs in batches of B

    Geiping et al., Inverting Gradients (NeurIPS 2020), section 5 (federated averaging); `objective =
    "cosine"` with `optimizer = "adam"` is the paper's. Which images met in a batch is unknown, and decides:
    where there are few ways, all are tried and the one of least loss goes on; else the order of every epoch
    is drawn, anew for each restart.
    """

    max_evaluations: int = 4000
    """Evaluations of the matching loss and its gradient, a start; each costs what the client's steps do."""
    objective: Objective = "square"
    """`square`: relative squared distance; `cosine`: the direction only."""
    optimizer: Optimizer = "auto"
    """`lbfgs`, or `adam` on the gradient's sign; `auto`: L-BFGS where the model is smooth."""
    smoothness: float = 0.0
    """Weight of the prior (total variation and box) beside what noise and missing entries ask for, >= 0."""
    orders: int = 36
    """Where images can be batched in no more ways than this, all are tried, on half of the evaluations."""
    start: Start = "grey"
    """Where images start: `adversary.starts.draw_start`."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 16
    unrolls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._search.check()

    @property
    def _search(self) -> Search:
        return Search(
            self.max_evaluations, self.objective, self.optimizer, self.smoothness, self.orders, self.start
        )

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture, in the order of their labels."""
        found = match_steps(problem, self._search, sets=1)
        return Attempt(
            images=found.images[:, 0],
            labels=found.labels,
            losses=found.losses,
            evaluations=found.evaluations,
            converged=found.converged,
        )


class Steps(NamedTuple):
    """What was found of P captures whose clients made several steps."""

    images: Tensor
    """(P, sets, B, *input_shape): each set in the order of the labels"""
    labels: Tensor
    """(P, B)"""
    losses: Tensor
    evaluations: Tensor
    converged: Tensor


def match_steps(problem: Problem, search: Search, *, sets: int, penalty: Penalty | None = None) -> Steps:
    """Match unrolled steps over `sets` sets of images a capture: one for all epochs, or one for each.

    `penalty` is a function of a capture's images (sets, B, *input_shape).
    """
    shape = (sets, problem.batch_size, *problem.task.input_shape)
    known = infer_labels(problem) if problem.labels is None else problem.labels
    solve = partial(_solve, search=search, shape=shape, penalty=penalty)
    drawn = draw_start(problem, search.start)[:, None]  # all sets start alike
    start, evaluations = drawn.expand(-1, *shape).flatten(1), search.max_evaluations
    tried = epoch_orders(problem, search.orders)  # (P, K, E, B)
    number = tried.shape[1]
    spent = torch.zeros(len(problem), dtype=torch.int64)
    if number > 1:
        budget = max(2, evaluations // (2 * number))
        evaluations = max(2, evaluations - number * budget)
        wide = [row for row in range(len(problem)) for _ in range(number)]
        first = solve(problem.select(wide), start[wide], known[wide], tried.flatten(0, 1), budget)
        best = first.losses.nan_to_num(torch.inf).reshape(len(problem), number).argmin(dim=1)
        rows = torch.arange(len(problem), device=best.device)
        start, tried = (
            first.variables.reshape(len(problem), number, -1)[rows, best],
            tried[rows, best][:, None],
        )
        spent = first.evaluations.reshape(len(problem), number).sum(dim=1)
    found = solve(problem, start, known, tried[:, 0], evaluations)
    return Steps(
        images=found.variables.reshape(len(problem), *shape),
        labels=known,
        losses=found.losses,
        evaluations=found.evaluations + spent,
        converged=found.converged,
    )


def _solve(
    problem: Problem,
    start: Tensor,
    labels: Tensor,
    orders: Tensor,
    max_evaluations: int,
    *,
    search: Search,
    shape: tuple[int, ...],
    penalty: Penalty | None,
) -> Matched:
    """Match from `start` (P, n), with labels (P, B) and the order of each epoch (P, E, B)."""
    distance = matching(problem, unrolled, direction if search.objective == "cosine" else None)
    epochs = torch.arange(orders.shape[1], device=orders.device)[:, None]
    by_lines = search.optimizer == "lbfgs" or (search.optimizer == "auto" and is_smooth(problem))

    def split(variables: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        return variables.reshape(shape), fixed[0]

    def loss(variables: Tensor, fixed: Tensor, evidence: tuple[Evidence, ...]) -> Tensor:
        images, order = variables.reshape(shape), fixed[1:]
        trained = images[epochs % shape[0], order]  # (E, B, *input_shape)
        return distance(trained.flatten(0, 1), fixed[0][order].flatten(), evidence)

    return match(
        problem,
        start,
        torch.cat([labels[:, None], orders], dim=1),
        split,
        max_evaluations=max_evaluations,
        objective=loss,
        penalty=None if penalty is None else lambda variables: penalty(variables.reshape(shape)),
        smoothness=search.smoothness,
        minimize=by_lbfgs if by_lines else by_signed_adam,
    )


def epoch_orders(problem: Problem, most: int) -> Tensor:
    """Return the orders in which the client may have seen its images, (P, K, E, B), int64.

    All that make different batches, where there are at most `most`; else one, drawn from the capture's seed.
    """
    recipe, images = recipe_of(problem), torch.arange(problem.batch_size)
    epochs: list[list[int]] = [[]]
    for batch, _ in batches_of(recipe, images, images, problem.batch_size):
        if sum(epochs[-1]) == problem.batch_size:
            epochs.append([])
        epochs[-1].append(len(batch))
    if prod(map(partial(_count, problem.batch_size), epochs)) <= most:
        rows = tuple(range(problem.batch_size))
        every = torch.tensor(list(product(*(_batchings(rows, sizes) for sizes in epochs))))
        return every.expand(len(problem), *every.shape).to(problem.like.device)
    drawn = []
    for seed in problem.seeds:
        generator = torch.Generator().manual_seed(derive(seed, "orders"))
        drawn.append(torch.stack([torch.randperm(len(images), generator=generator) for _ in epochs]))
    return torch.stack(drawn)[:, None].to(problem.like.device)


def _count(examples: int, sizes: Sequence[int]) -> int:
    """Return in how many ways batches of these sizes can be drawn from so many examples."""
    left = [examples - sum(sizes[:position]) for position in range(len(sizes))]
    return prod(map(comb, left, sizes))


def _batchings(rows: tuple[int, ...], sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the orders of rows that differ in their batches; what is left over comes last."""
    if not sizes:
        yield rows
        return
    for batch in combinations(rows, sizes[0]):
        rest = tuple(row for row in rows if row not in batch)
        yield from (batch + tail for tail in _batchings(rest, sizes[1:]))
