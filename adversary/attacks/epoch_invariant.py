"""Local training inverted with separate images in each epoch, tied by what no order changes."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from adversary.attacks.local_steps import Batches, Objective, Optimizer, Search, match_steps
from adversary.coordinates import Coordinates
from adversary.matching import match
from adversary.problem import Attempt, Problem
from adversary.starts import Start
from adversary.unroll import number_of_epochs, recipe_of
from fedsim.options import require

Statistic = Literal["mean", "max"]


@dataclass(frozen=True, kw_only=True)
class EpochInvariant:
    r"""Find a set of images for each epoch whose training leads to the observed weights, alike as sets.

        min over x_1..x_E of ||u(x_1..x_E) - u*||^2 / ||u*||^2 + a / E^2 sum_{e,f} mean (s(x_e) - s(x_f))^2

    with s the mean or the maximum over the images of an epoch: the shuffle of an epoch does not change it.
    Dimitrov et al., Data Leakage in Federated Averaging (TMLR 2022), section 4.2. The sets are matched to the
    first (Hungarian method, within a label) and averaged. With one epoch it is `local_steps`.
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
    """Where images start, the same in each set: `adversary.starts.draw_start`."""
    coordinates: Coordinates = "natural"
    """What L-BFGS moves: `adversary.coordinates.Chart`; signed Adam moves the pixels."""
    statistic: Statistic = "mean"
    """What is compared between epochs."""
    channels: int = 0
    """Channels of a random 3x3 convolution of the images that is compared; 0 for the pixels themselves."""
    weight: float = 1.0
    """Weight a of the comparison, >= 0."""

    needs: ClassVar[frozenset[str]] = frozenset({"updates", "model", "batch_size", "recipe"})
    max_images: ClassVar[int] = 16
    unrolls: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.search.check()
        require(0 <= self.weight < float("inf"), "weight", self.weight, "weight >= 0")
        require(self.channels >= 0, "channels", self.channels, "0 or more")

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
        """Return the averaged images found from one start per capture; the loss is that of the sets."""
        channels = random_convolution(problem, self.channels) if self.channels else nn.Identity()

        def penalty(sets: Tensor) -> Tensor:
            epochs, images = sets.shape[:2]
            features = channels(sets.flatten(0, 1)).unflatten(0, (epochs, images))
            return self.weight * spread(features, self.statistic)

        sets = number_of_epochs(recipe_of(problem), problem.batch_size)
        found = match_steps(problem, self.search, sets=sets, penalty=penalty)
        return Attempt(
            images=torch.stack([average(s, y) for s, y in zip(found.images, found.labels, strict=True)]),
            labels=found.labels,
            losses=found.losses,
            evaluations=found.evaluations,
            converged=found.converged,
        )


def spread(sets: Tensor, statistic: Statistic) -> Tensor:
    """Return the mean squared difference of the sets' statistics, over pairs of sets; sets (E, B, ...).

    It is twice the variance over the sets: zero where they are permutations of each other.
    """
    values = sets.mean(dim=1) if statistic == "mean" else sets.amax(dim=1)
    return 2 * (values - values.mean(dim=0)).square().mean()


def average(sets: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over sets (E, B, C, H, W), each paired with the first, image by image of a label."""
    total = sets[0].clone()
    for other in sets[1:]:
        for label in set(labels.tolist()):
            rows = (labels == label).nonzero()[:, 0]
            pairs = match(other[rows].nan_to_num().cpu(), sets[0][rows].nan_to_num().cpu())
            total[rows] += other[rows[torch.tensor(pairs, device=rows.device)]]
    return total / len(sets)


def random_convolution(problem: Problem, channels: int) -> nn.Module:
    """Return a fixed random 3x3 convolution of the problem's images."""
    layer = nn.Conv2d(problem.task.input_shape[0], channels, kernel_size=3, bias=False, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    fan_in = layer.weight[0].numel()
    layer.weight.data = (
        torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64) / fan_in**0.5
    )
    return layer.requires_grad_(False).to(problem.like)
