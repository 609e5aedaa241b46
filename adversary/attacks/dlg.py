"""Deep Leakage from Gradients."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from adversary.attacks.match import match
from adversary.attacks.match_layers import match_layers
from adversary.attacks.spared import spared
from adversary.balance import Weighting, weighs_layers
from adversary.coordinates import Chart, Coordinates
from adversary.labels import labels_of_images
from adversary.precision import Precision
from adversary.problem import Attempt, Problem
from adversary.starts import Start, draw_start
from fedsim.options import require


@dataclass(frozen=True, kw_only=True)
class DLG:
    """Find images and soft labels whose gradient is the observed one.

        min over x, y of ||dL(F(x; W), softmax(y))/dW - g*||^2, from y ~ N(0, 1) and x by `start`

    Zhu, Liu & Han, Deep Leakage from Gradients (NeurIPS 2019), Algorithm 1, with the released setting's two
    failures mended: a strong Wolfe line search (it diverges without) and float64 in the end (float32 stalls).
    """

    max_evaluations: int = 6000
    """Evaluations of the matching loss and its gradient, a start; the paper's 300 steps are up to 6,000."""
    start: Start = "natural"
    """Where images start: `adversary.starts.draw_start` (paper: normal)."""
    coordinates: Coordinates = "natural"
    """What the search moves: `adversary.coordinates.Chart` (paper: pixels)."""
    precision: Precision = "mixed"
    """`mixed`: float32 down to a loss of 1e-8, then float64; `double`: float64 throughout."""
    weighting: Weighting = "auto"
    """`length`: one squared distance, as in the paper; `layers`: each layer's in units of how far images lie
    apart in it, and the box; `auto`: layers where their lengths differ more than 1e5-fold (deep sigmoids)."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 8

    def __post_init__(self) -> None:
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")

    def attack(self, problem: Problem) -> Attempt:
        """Return the images and labels found from one start per capture."""
        images = draw_start(problem, self.start)
        if self.start != "entrance":
            return self._search(problem, images)
        labels = labels_of_images(problem, images)
        return spared(problem, images, labels, lambda rows: self._search(problem.select(rows), images[rows]))

    def _search(self, problem: Problem, images: Tensor) -> Attempt:
        """Return the images found from given ones (P, B, *input_shape), and the labels found with them."""
        batch, classes = problem.batch_size, problem.task.num_classes
        pixels = batch * prod(problem.task.input_shape)
        chart = Chart(tuple(problem.task.input_shape), self.coordinates)

        def split(variables: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            images = chart.images(variables[:pixels].reshape(batch, -1))
            return images, torch.softmax(variables[pixels:].reshape(batch, classes), dim=1)

        start = problem.draw(pixels + batch * classes)
        start[:, :pixels] = chart.of(images).flatten(1)
        unused = torch.zeros(len(problem), 1, device=start.device)
        if weighs_layers(problem, self.weighting):
            found = match_layers(problem, start, unused, split, max_evaluations=self.max_evaluations)
        else:
            found = match(
                problem,
                start,
                unused,
                split,
                max_evaluations=self.max_evaluations,
                precision=self.precision,
            )
        logits = found.variables[:, pixels:].reshape(len(problem), batch, classes)
        return Attempt(
            images=chart.images(found.variables[:, :pixels].reshape(len(problem), batch, -1)),
            labels=logits.argmax(dim=2),
            losses=found.losses,
            evaluations=found.evaluations,
            converged=found.converged,
        )
