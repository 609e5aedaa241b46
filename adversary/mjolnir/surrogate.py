"""The surrogate client: the victim's model fed with public images, and its uploads."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.func import vmap

from adversary.lockstep import chunk_size
from adversary.mjolnir.pictures import draw_pictures
from adversary.mjolnir.vectors import NOTHING, flatten, presence, unflatten
from adversary.objectives import NAIVE
from adversary.precision import cast
from adversary.problem import Problem
from fedsim.defenses.upload import identity

RANGE = (0.2, 10.0)
"""Signal-to-noise ratios of the surrogate's uploads in training, drawn evenly in their logarithm."""
COARSE = 20
"""One over how finely the share of entries that are there tells surrogates apart."""


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Makes the gradients that the victim would upload if its image were a public one."""

    victim: Problem
    """In float32: its model, task, defence and how dense masks are count, its gradients are not looked at."""
    public: Tensor
    """Images (N, c, h, w) in [0, 1] that are not the victim's."""
    moved: bool = True
    """Whether they are put together to other pictures: `adversary.mjolnir.pictures`."""

    @classmethod
    def of(cls, problem: Problem, public: Tensor, moved: bool = True) -> "Surrogate":
        """Return the surrogate of a problem's clients."""
        return cls(cast(problem, torch.float32), public, moved)

    def batch(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures (count, 1, C, H, W), labels (count, 1) drawn evenly, gradients (count, d)."""
        task, device = self.victim.task, self.victim.like.device
        channels, height, width = task.input_shape
        shape = (channels, height, width)
        drawn = draw_pictures(self.public, shape, count, generator, moved=self.moved)
        pictures = drawn[:, None].to(device)
        labels = torch.randint(task.num_classes, (count, 1), generator=generator).to(device)
        return pictures, labels, self.gradients(pictures, labels)

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the clean gradients of batches (n, B, C, H, W) with labels (n, B), as rows (n, d)."""
        return gradients_of(self.victim, images, labels)

    def defended(self, rows: Tensor) -> Tensor:
        """Return clean gradients (n, d) after what the defence does without chance: clipping."""
        return after_defense(self.victim, rows)

    @cached_property
    def length(self) -> float:
        """Return the length of the median surrogate gradient as sent."""
        _, _, drawn = self.batch(64, torch.Generator().manual_seed(1))
        return float(self.defended(drawn).norm(dim=1).median())

    def at_length(self, problem: Problem, std: Tensor) -> tuple[Problem, Tensor]:
        """Return gradients and their noise `std` (P,) at the length that surrogate gradients have.

        For defences that scale each gradient by a factor which nobody knows (DP-SGD's clipping): a denoiser
        has seen none of it. All others are as they should be.
        """
        knowledge = problem.knowledge or NAIVE
        if not (knowledge.scale_free and knowledge.simulate is identity):
            return problem, std
        rows, entries = flatten(problem.target), presence(problem.present, problem.target).sum(dim=1)
        noise = std.square() * entries
        shown = (rows.square().sum(dim=1) - noise).clamp(min=RANGE[0] ** 2 * noise).sqrt()
        factor = self.length / shown.clamp(min=NOTHING)
        return replace(problem, target=unflatten(factor[:, None] * rows, problem.target)), factor * std

    def uploads(self, rows: Tensor, labels: Tensor, std: Tensor, generator: torch.Generator) -> Problem:
        """Return the problem that clean gradients (n, d) become: defended as the victim's, noise (n,) added.

        Masks are drawn entry by entry, as dense as those of the victims.
        """
        victim, present = self.victim, {}
        noise = torch.randn(rows.shape, generator=generator).to(rows)
        target = unflatten(self.defended(rows) + std[:, None].to(rows) * noise, victim.target)
        density = self.density
        for name in victim.present:
            there = torch.rand(target[name].shape, generator=generator) < density
            present[name] = there.to(rows.device)
            target[name] = target[name] * present[name]
        return replace(
            victim,
            target=target,
            present=present,
            slack={},
            labels=labels,
            rounds=(),
            seeds=tuple(range(len(rows))),
        )

    @property
    def density(self) -> float:
        """Return which share of masked parameters' entries is there, in steps of 1 / COARSE.

        Captures of one rate of masking differ by chance in how much is there: they share a surrogate.
        """
        masks = self.victim.present
        if not masks:
            return 1.0
        share = float(flatten(masks).double().mean())
        return max(1, round(COARSE * share)) / COARSE


def gradients_of(problem: Problem, images: Tensor, labels: Tensor) -> Tensor:
    """Return the clean gradients of batches (n, B, C, H, W) with labels (n, B), as rows (n, d)."""
    return flatten(vmap(problem.gradient, chunk_size=chunk_size(problem))(images, labels))


def after_defense(problem: Problem, rows: Tensor) -> Tensor:
    """Return clean gradients (n, d) after what the defence does without chance: clipping."""
    knowledge, unit = problem.knowledge or NAIVE, problem.unit
    if knowledge.simulate is identity:
        return rows
    sent = vmap(knowledge.simulate)(unflatten(unit * rows, problem.target))
    return flatten(sent) / unit
