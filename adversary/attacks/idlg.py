"""Improved Deep Leakage from Gradients."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from adversary.attacks.match import match
from adversary.attacks.match_layers import match_layers
from adversary.attacks.spared import spared
from adversary.balance import Weighting, weighs_layers
from adversary.coordinates import Chart, Coordinates
from adversary.labels import Rule, infer_labels
from adversary.precision import Precision
from adversary.problem import Attempt, Problem
from adversary.starts import Start, draw_start
from fedsim.options import require


@dataclass(frozen=True, kw_only=True)
class IDLG:
    """Read the label off the classifier's gradient, then find the image whose gradient is the observed one.

        y = argmin over c of the gradient of the last layer's row c
        min over x of ||dL(F(x; W), y)/dW - g*||^2, from x by `start`

    Zhao, Mopuri & Bilen, iDLG (2020), Algorithm 1; batches above 1 by the rule of `infer_labels`. Strong
    Wolfe line search and precision as in DLG.
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

    labels: Rule = "auto"
    """How the labels are read off the classifier's gradient: a rule of adversary.labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 8

    def __post_init__(self) -> None:
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture, and the labels that were read off."""
        images = draw_start(problem, self.start)
        if self.start != "entrance":
            return self.search(problem, images)
        labels = self._labels(problem)
        return spared(problem, images, labels, lambda rows: self.search(problem.select(rows), images[rows]))

    def _labels(self, problem: Problem) -> Tensor:
        return infer_labels(problem, self.labels) if problem.labels is None else problem.labels

    def search(self, problem: Problem, images: Tensor) -> Attempt:
        """Return the images found from given ones (P, B, *input_shape), and the labels that were read off."""
        labels = self._labels(problem)
        chart = Chart(tuple(problem.task.input_shape), self.coordinates)

        def split(variables: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
            return chart.images(variables.reshape(problem.batch_size, -1)), fixed

        start = chart.of(images.to(problem.like)).flatten(1)
        if weighs_layers(problem, self.weighting):
            found = match_layers(problem, start, labels, split, max_evaluations=self.max_evaluations)
        else:
            found = match(
                problem,
                start,
                labels,
                split,
                max_evaluations=self.max_evaluations,
                precision=self.precision,
            )
        return Attempt(
            images=chart.images(found.variables.reshape(len(problem), problem.batch_size, -1)),
            labels=labels,
            losses=found.losses,
            evaluations=found.evaluations,
            converged=found.converged,
        )
