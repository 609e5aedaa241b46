"""Surrogate Model Extension: one gradient, at a point between the global weights and the client's."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from adversary.attacks.match import match
from adversary.coordinates import Chart, Coordinates
from adversary.labels import infer_labels
from adversary.objectives import direction, matching
from adversary.problem import Attempt, Evidence, Problem
from adversary.starts import Start, draw_start
from adversary.unroll import recipe_of
from fedsim.options import require
from fedsim.training.batches import number_of_batches


@dataclass(frozen=True, kw_only=True)
class SME:
    r"""Find images whose gradient, at a surrogate of the client's models, points along its update.

        w_s = a w_0 + (1 - a) w_T;   min over x, a of 2 (1 - cos(grad L(w_s; x), w_0 - w_T)) + prior

    Zhu, Yao & Blaschko, Surrogate Model Extension (ICML 2023): all of the client's batches are
    taken for one at w_s, which is good where its path is nearly straight; an evaluation costs one gradient
    however many steps were made. a starts at 1/2 and stays in (0, 1) as a logistic function. After one step
    a = 1 is known: the gradient was taken at w_0.
    """

    max_evaluations: int = 2000
    """Evaluations of the matching loss and its gradient, a start."""
    smoothness: float = 0.0
    """Weight of the prior (total variation and box) beside what noise and missing entries ask for, >= 0."""
    start: Start = "natural"
    """Where images start: `adversary.starts.draw_start`."""
    coordinates: Coordinates = "natural"
    """What the search moves: `adversary.coordinates.Chart`."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 16
    unrolls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")
        require(0 <= self.smoothness < float("inf"), "smoothness", self.smoothness, "smoothness >= 0")

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture."""
        batch, pixels = problem.batch_size, problem.batch_size * prod(problem.task.input_shape)
        chart = Chart(tuple(problem.task.input_shape), self.coordinates)
        labels = infer_labels(problem) if problem.labels is None else problem.labels
        several = number_of_batches(recipe_of(problem), problem.batch_size) > 1

        def split(variables: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
            return chart.images(variables[:pixels].reshape(batch, -1)), fixed

        def objective(variables: Tensor, fixed: Tensor, evidence: tuple[Evidence, ...]) -> Tensor:
            share = torch.sigmoid(variables[pixels]) if several else torch.ones_like(variables[0])

            def dummy(one: Problem, images: Tensor, y: Tensor, seen: Evidence) -> Mapping[str, Tensor]:
                return surrogate_gradient(one, images, y, seen, share)

            return matching(problem, dummy, direction)(*split(variables, fixed), evidence)

        start = torch.cat(
            [chart.of(draw_start(problem, self.start)).flatten(1), problem.like.new_zeros(len(problem), 1)],
            dim=1,
        )
        found = match(
            problem,
            start,
            labels,
            split,
            max_evaluations=self.max_evaluations,
            objective=objective,
            smoothness=self.smoothness,
        )
        return Attempt(
            images=chart.images(found.variables[:, :pixels].reshape(len(problem), batch, -1)),
            labels=labels,
            losses=found.losses,
            evaluations=found.evaluations,
            converged=found.converged,
        )


def surrogate_gradient(
    problem: Problem, images: Tensor, labels: Tensor, seen: Evidence, share: Tensor
) -> dict[str, Tensor]:
    """Return the gradient, with weight decay, at the weights `share * global + (1 - share) * received`.

    The received weights are the global ones and the update observed, absent entries unmoved.
    """
    recipe = recipe_of(problem)
    unit = problem.unit if problem.unit < 0 else -recipe.learning_rate * problem.unit
    start = dict(problem.model.named_parameters())
    here = {name: value + (1 - share) * unit * seen.target[name] for name, value in start.items()}
    gradient = problem.gradient(images, labels, here)
    return {name: value + recipe.weight_decay * here[name] for name, value in gradient.items()}
