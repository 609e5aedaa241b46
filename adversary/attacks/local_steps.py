"""Local training inverted: the client's steps unrolled, and the difference of weights matched."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from adversary.attacks.match import Penalty, by_lbfgs, by_signed_adam, match
from adversary.batching import averages_images, shares
from adversary.coordinates import Chart, Coordinates
from adversary.labels import infer_labels
from adversary.objectives import Comparison, direction, matching
from adversary.precision import is_smooth
from adversary.problem import Attempt, Evidence, Problem
from adversary.starts import Start, draw_start
from adversary.unroll import batch_sizes, number_of_epochs, recipe_of, unrolled, unrolled_shares
from fedsim.options import require
from fedsim.seeds import derive

Objective = Literal["square", "cosine"]
Optimizer = Literal["auto", "adam", "lbfgs"]
Batches = Literal["searched", "drawn"]
Loss = Callable[[Tensor, Tensor, Tensor, tuple[Evidence, ...]], Tensor]
"""(images (sets, B, *input_shape), further variables, row's labels, evidence) of one capture -> scalar."""

SPREAD = 0.5
"""Standard deviation of the logits of images' shares in batches at the start: restarts begin apart."""


class Search(NamedTuple):
    """How unrolled steps are matched."""

    max_evaluations: int
    objective: Objective
    optimizer: Optimizer
    smoothness: float
    batches: Batches
    start: Start
    coordinates: Coordinates

    def check(self) -> None:
        """Raise InputError for an option that is out of range."""
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")
        require(0 <= self.smoothness < float("inf"), "smoothness", self.smoothness, "smoothness >= 0")


@dataclass(frozen=True, kw_only=True)
class LocalSteps:
    r"""Find images on which the client's own training leads to the observed weights.

        min over x of ||u(x) - u*||^2 / ||u*||^2, with u(x) the update after E epochs in batches of B

    Geiping et al., Inverting Gradients (NeurIPS 2020), section 5 (federated averaging); `objective =
    "cosine"` with `optimizer = "adam"` is the paper's. Which images met in a batch is unknown, and decides:
    it is searched along with the images, as the share of each in each batch (`adversary.batching`).
    """

    max_evaluations: int = 4000
    """Evaluations of the matching loss and its gradient, a start; each costs what the client's steps do."""
    objective: Objective = "square"
    """`square`: relative squared distance; `cosine`: the direction only."""
    optimizer: Optimizer = "auto"
    """`lbfgs`, or `adam` on the gradient's sign; `auto`: L-BFGS where the model is smooth."""
    smoothness: float = 0.0
    """Weight of the prior (total variation and box) beside what noise and missing entries ask for, >= 0."""
    batches: Batches = "searched"
    """Which images met: `searched`, or `drawn`, anew for each restart, as where BatchNorm ties a batch."""
    start: Start = "natural"
    """Where images start: `adversary.starts.draw_start`."""
    coordinates: Coordinates = "natural"
    """What L-BFGS moves: `adversary.coordinates.Chart`; signed Adam moves the pixels."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 16
    unrolls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.search.check()

    @property
    def search(self) -> Search:
        """Return the options that the attacks on local steps share."""
        return Search(
            self.max_evaluations,
            self.objective,
            self.optimizer,
            self.smoothness,
            self.batches,
            self.start,
            self.coordinates,
        )

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture, in the order of their labels."""
        found = match_steps(problem, self.search, sets=1)
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
    labels = infer_labels(problem) if problem.labels is None else problem.labels
    by_lines = search.optimizer == "lbfgs" or (search.optimizer == "auto" and is_smooth(problem))
    chart = Chart(tuple(problem.task.input_shape), search.coordinates if by_lines else "pixels")
    # All sets start alike.
    first = chart.of(draw_start(problem, search.start)[:, None].expand(-1, *shape)).flatten(1)
    if _searches_batches(problem, search):
        # Signed Adam moves within [0, 1], which has to hold the logits of a settled batching.
        more, loss = in_shares(problem, search, reach=1.0 if by_lines else 10.0)
        start, fixed = torch.cat([first, more], dim=1), labels
    else:
        loss = _in_order(problem, search)
        start, fixed = first, torch.cat([labels[:, None], drawn_orders(problem)], dim=1).flatten(1)

    def images(variables: Tensor) -> Tensor:
        return chart.images(variables[..., : prod(shape)].reshape(*variables.shape[:-1], *shape[:2], -1))

    found = match(
        problem,
        start,
        fixed,
        lambda variables, rest: (images(variables), rest),
        max_evaluations=search.max_evaluations,
        objective=lambda variables, rest, seen: loss(images(variables), variables[prod(shape) :], rest, seen),
        penalty=None if penalty is None else lambda variables: penalty(images(variables)),
        smoothness=search.smoothness,
        minimize=by_lbfgs if by_lines else by_signed_adam,
    )
    return Steps(images(found.variables), labels, found.losses, found.evaluations, found.converged)


def _searches_batches(problem: Problem, search: Search) -> bool:
    several = len(batch_sizes(recipe_of(problem), problem.batch_size)) > 1
    return several and search.batches == "searched" and averages_images(problem.model)


def _in_order(problem: Problem, search: Search) -> Loss:
    """Return the loss of images, given labels and then the order of each epoch in one row."""
    distance = matching(problem, unrolled, _compared(search))

    def loss(images: Tensor, _: Tensor, fixed: Tensor, evidence: tuple[Evidence, ...]) -> Tensor:
        labels, *orders = torch.split(fixed, problem.batch_size)
        order = torch.stack(orders)
        epochs = torch.arange(len(order), device=order.device)[:, None]
        trained = images[epochs % len(images), order]  # (E, B, *input_shape)
        return distance(trained.flatten(0, 1), labels[order].flatten(), evidence)

    return loss


def in_shares(problem: Problem, search: Search, reach: float) -> tuple[Tensor, Loss]:
    """Return further variables (P, n), the logits of the images' shares, and the loss of images and these.

    A step of `reach` in a logit is one in its variable. Every round drew batches of its own.
    """
    recipe, examples = recipe_of(problem), problem.batch_size
    sizes = torch.tensor(batch_sizes(recipe, examples)).to(problem.like)
    many = (1 + len(problem.rounds), number_of_epochs(recipe, examples), len(sizes), examples)
    start = 0.5 + SPREAD / reach * _reseeded(problem, "batches").draw(prod(many))
    rounds = [replace(one, rounds=()) for one in (problem, *problem.rounds)]

    def loss(images: Tensor, more: Tensor, labels: Tensor, evidence: tuple[Evidence, ...]) -> Tensor:
        logits = reach * (more.reshape(many) - 0.5)
        losses = []
        for one, own, seen in zip(rounds, logits, evidence, strict=True):
            dummy = partial(unrolled_shares, weights=shares(own, sizes) / sizes[:, None])
            losses.append(matching(one, dummy, _compared(search))(images, labels, (seen,)))
        return torch.stack(losses).mean()

    return start, loss


def _compared(search: Search) -> Comparison | None:
    return direction if search.objective == "cosine" else None


def _reseeded(problem: Problem, purpose: str) -> Problem:
    return replace(problem, seeds=tuple(derive(seed, purpose) for seed in problem.seeds))


def drawn_orders(problem: Problem) -> Tensor:
    """Return an order for each epoch, drawn from the capture's seed, (P, E, B), int64."""
    epochs = number_of_epochs(recipe_of(problem), problem.batch_size)
    return _reseeded(problem, "orders").draw(epochs, problem.batch_size).argsort(dim=2)
