"""Inverting Gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from adversary.attacks.match import match
from adversary.attacks.outcome import judged
from adversary.attacks.prior_weights import prior_weights
from adversary.balance import Weighting
from adversary.batchnorm import Statistics, statistics_gap
from adversary.coordinates import Chart
from adversary.depth import SHALLOW, deep_parameters, observed_gradient, restricted, shallow_share
from adversary.labels import Rule, infer_labels
from adversary.lockstep import lockstep
from adversary.objectives import direction, layer_directions, matching
from adversary.optimizers.adam import adam, cosine_decay, shifted, step_decay
from adversary.optimizers.lbfgs import Evaluate, Minimum
from adversary.precision import cast, is_smooth
from adversary.priors import mean_variation, total_variation
from adversary.problem import Attempt, Evidence, Problem
from adversary.starts import Start, draw_start
from fedsim.options import require

VARIATION, VARIATION_ALIKE = 0.1, 5.0
"""Default weights of the total variation: with one cosine over all layers, and with one a layer."""


@dataclass(frozen=True, kw_only=True)
class InvertingGradients:
    """Match the direction of the gradient, under total variation and a box.

        min over x in [0, 1] of D(x) + tv TV(x),   D(x) = 1 - <g(x), g*> / (||g(x)|| ||g*||)

    with one cosine over all layers. Geiping et al., Inverting Gradients (NeurIPS 2020), equation 4. Labels by
    `infer_labels` unless they are granted. Where the model has kinks (ReLU, max pooling) by Adam on the
    gradient's sign, in float32, the deep layers first; where it is smooth by L-BFGS in natural coordinates
    (`adversary.coordinates`), which there finds the image exactly.
    """

    max_evaluations: int = 1200
    """Evaluations of the matching loss and its gradient, a start (paper: 4,800 and more)."""
    optimizer: Literal["auto", "adam", "lbfgs"] = "auto"
    learning_rate: float = 0.1
    """Of Adam, in units of [0, 1] (paper: 0.1 on normalised images, about 0.025 here)."""
    decay: Literal["step", "cosine"] = "cosine"
    """Of the learning rate; `step` is the paper's: tenfold at 3/8, 5/8 and 7/8."""
    signed: bool = True
    """Whether Adam sees the gradient's sign only."""
    weighting: Weighting = "auto"
    """By Adam: one cosine over all layers (`length`, the paper's), or one a layer, and their mean (`layers`).

    `auto` takes the latter for captures whose shallow layers would drown the deep ones, as they do with
    trained weights in eval mode and untrained ones in train mode, unless there is noise to weigh, an
    interval, a simulated defence, or the client's own BatchNorm statistics to go by.
    """
    tv: float | None = None
    """Weight of the total variation, by Adam: by default 0.1, and 5 with one cosine a layer.

    Paper: 1e-6 to 1e-1, not relative.
    """
    relative: bool = True
    """Whether `tv` is in units of D where the search stands: it minimises log D + tv TV."""
    deep: float = 0.8
    """Share of Adam's evaluations, the first ones, that match the deep layers only (paper: 0).

    None with one cosine a layer.
    """
    batchnorm: float = 1.0
    """Weight of the gap to the BatchNorm statistics of the client's own batch, by Adam, where granted."""
    start: Start = "grey"
    """Where images start (paper: normal)."""

    labels: Rule = "auto"
    """How the labels are read off the classifier's gradient: a rule of adversary.labels."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 100

    def __post_init__(self) -> None:
        require(self.max_evaluations >= 1, "max_evaluations", self.max_evaluations, "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.tv is None or self.tv >= 0, "tv", self.tv, "at least 0")
        require(0 <= self.deep <= 1, "deep", self.deep, "0 to 1")
        require(self.batchnorm >= 0, "batchnorm", self.batchnorm, "at least 0")

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture, and the labels that were read off."""
        labels = infer_labels(problem, self.labels) if problem.labels is None else problem.labels
        start = draw_start(problem, self.start)
        if self.optimizer == "lbfgs" or (self.optimizer == "auto" and is_smooth(problem)):
            return self._by_lbfgs(problem, start, labels)
        return self._by_adam(cast(problem, torch.float32), start.float(), labels)

    def _by_lbfgs(self, problem: Problem, start: Tensor, labels: Tensor) -> Attempt:
        chart = Chart(tuple(problem.task.input_shape))

        def split(variables: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
            return chart.images(variables.reshape(problem.batch_size, -1)), fixed

        found = match(
            problem,
            chart.of(start).flatten(1),
            labels,
            split,
            max_evaluations=self.max_evaluations,
            compare=direction,
        )
        images = chart.images(found.variables.reshape(len(problem), problem.batch_size, -1))
        return judged(problem, images, labels, found.evaluations)

    def _by_adam(self, problem: Problem, start: Tensor, labels: Tensor) -> Attempt:
        deep = deep_parameters(problem)
        points, spent = start.flatten(1), torch.zeros(len(start), dtype=torch.int64)
        alike = self._alike(problem, deep).cpu()
        for each in (False, True):
            rows = (alike == each).nonzero()[:, 0].tolist()
            if rows:
                found = self._search(problem.select(rows), points[rows], labels[rows], deep, each)
                points[rows], spent[rows] = found.points, found.evaluations
        return judged(problem, points.reshape(start.shape), labels, spent)

    def _search(
        self, problem: Problem, points: Tensor, labels: Tensor, deep: Sequence[str], alike: bool
    ) -> Minimum:
        """Return the images found, of captures whose layers all have a cosine of their own, or none has."""
        decay = cosine_decay if self.decay == "cosine" else step_decay
        rate = decay(self.learning_rate, self.max_evaluations)
        spent = torch.zeros(len(points), dtype=torch.int64)
        for first, last, part in self._stages(problem, [] if alike else deep):
            found = adam(
                self._evaluator(problem, part, labels, alike),
                points,
                shifted(rate, first),
                max_evaluations=last - first,
                signed=self.signed,
                after=lambda points, _rows, _rate: points.clamp(0, 1),
                keep="last",
            )
            points, spent = found.points, spent + found.evaluations
        return replace(found, evaluations=spent)

    def _alike(self, problem: Problem, deep: Sequence[str]) -> Tensor:
        """Return whether each layer has a cosine of its own, by capture (P,)."""
        layers = torch.full((len(problem),), self.weighting == "layers")
        noisy = problem.knowledge is not None and problem.knowledge.noise_std > 0
        led = noisy or problem.slack or self._statistics(problem)
        if self.weighting == "auto" and 0 < len(deep) < len(problem.target) and not led:
            return shallow_share(problem, deep) > SHALLOW
        return layers

    def _statistics(self, problem: Problem) -> Statistics:
        """Return the client's own BatchNorm statistics, where they are granted and have weight.

        Where the client trains in train mode the search seldom finds the basin of the image without them.
        """
        return dict(problem.statistics) if problem.own_statistics and self.batchnorm > 0 else {}

    def _stages(self, problem: Problem, deep: Sequence[str]) -> list[tuple[int, int, Problem]]:
        """Return the first evaluation of each stage, the first after it, and the evidence it matches."""
        if not 0 < len(deep) < len(problem.target):
            return [(0, self.max_evaluations, problem)]
        mark = round(self.deep * self.max_evaluations)
        stages = [(0, mark, restricted(problem, deep)), (mark, self.max_evaluations, problem)]
        return [stage for stage in stages if stage[0] < stage[1]]

    def _evaluator(self, problem: Problem, part: Problem, labels: Tensor, alike: bool) -> Evaluate:
        """Return what matches the evidence of a part of the problem."""
        distance = matching(part, observed_gradient, compare=layer_directions if alike else direction)
        tv = (VARIATION_ALIKE if alike else VARIATION) if self.tv is None else self.tv
        weights = prior_weights(problem)[-1]
        noisy = bool((weights > 0).any())
        statistics = self._statistics(problem)

        def loss(
            point: Tensor, fixed: Tensor, seen: tuple[Evidence, ...], wanted: Statistics, weight: Tensor
        ) -> Tensor:
            images = point.reshape(problem.batch_size, *problem.task.input_shape)
            value = distance(images, fixed, seen) / 2
            variation = tv * mean_variation(images)
            value = value + (variation * value.detach() if self.relative else variation)
            if wanted:
                value = value + self.batchnorm * statistics_gap(problem.model, images, wanted, relative=True)
            return value + weight * total_variation(images) / 2 if noisy else value

        batched = lockstep(problem, loss)

        def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            seen = part.evidence(None if len(rows) == len(problem) else rows)
            wanted = {name: (mean[rows], var[rows]) for name, (mean, var) in statistics.items()}
            return batched(points, labels[rows], seen, wanted, weights[rows])

        return evaluate
