"""Victims of the attack benchmarks: models with drawn weights, and the captures of their gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.problem import Problem, frozen_model
from fedsim.defenses import DEFENSES
from fedsim.defenses.chain import Chain
from fedsim.defenses.dpsgd import DPSGD
from fedsim.defenses.upload import Adaptive, Defense, Upload
from fedsim.options import build
from fedsim.seeds import derive, torch_generator
from fedsim.tasks.classification import ClassificationTask, classification_task
from fedsim.training.private import private_gradient

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Victim:
    """Who is attacked: the model, the batch, the defence, and what the attacker knows of them."""

    model: str = "lenet"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    mode: Literal["train", "eval"] = "train"
    """How the client ran the model: matters for BatchNorm alone."""
    batch_size: int = 1
    defenses: tuple[Mapping[str, Any], ...] = ()
    """Names and options, in order."""
    adaptive: bool = False
    """Whether the attacker knows the defences."""
    labels_known: bool = False
    statistics_known: bool = False
    """Whether the attacker may use the BatchNorm statistics of the client's own batch, in train mode."""
    assumed_noise: float = 0.0
    """Standard deviation of a noise that is not there: it gives the undefended gradient a prior."""

    def task(self, shape: tuple[int, int, int], classes: int) -> ClassificationTask:
        """Return the task of the victim's model."""
        return classification_task(self.model, self.model_options, shape, classes)

    def chain(self) -> list[Defense]:
        """Return the defences."""
        return [
            build(DEFENSES.resolve(table["name"]), {k: v for k, v in table.items() if k != "name"}, "defense")
            for table in self.defenses
        ]


@dataclass(frozen=True, eq=False)
class Group:
    """Captures that share their weights, each with its batch: what is attacked in lockstep."""

    task: ClassificationTask
    weights: Weights
    images: Tensor
    """(P, B, C, H, W)"""
    labels: Tensor
    """(P, B)"""
    first: int
    """Number of the first capture among all; seeds of starts and noise follow from it."""

    def problem(
        self, victim: Victim, seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
    ) -> Problem:
        """Return the problem of attacking the group's captures."""
        numbers = range(self.first, self.first + len(self.images))
        problem = build_problem(
            captures_of(self, victim, seed),
            self.weights,
            self.task,
            frozen_model(self.task, self.weights, mode=victim.mode, dtype=dtype, device=device),
            learning_rate=1.0,
            batch_size=victim.batch_size,
            seeds=[derive(seed, "benchmark start", number) for number in numbers],
            defenses=victim.chain() if victim.adaptive else None,
            labels=self.labels.sort(dim=1).values.to(device) if victim.labels_known else None,
            own_statistics=victim.statistics_known,
        )
        if victim.assumed_noise:
            return replace(problem, knowledge=Adaptive(noise_std=victim.assumed_noise))
        return problem


def groups_of(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    classes: int,
    seed: int,
    per_weights: int,
    weights: Weights | None = None,
) -> list[Group]:
    """Return the images as groups of `per_weights` captures, each group with weights drawn anew.

    Images (n * B, C, H, W) become n batches in order. Given `weights` serve every group instead.
    """
    batches = images.reshape(-1, victim.batch_size, *images.shape[1:])
    targets = labels.reshape(-1, victim.batch_size)
    channels, height, width = images.shape[1:]
    task = victim.task((channels, height, width), classes)
    groups = []
    for number, first in enumerate(range(0, len(batches), per_weights)):
        drawn = dict(task.build(derive(seed, "benchmark weights", number)).state_dict())
        part = slice(first, first + per_weights)
        groups.append(Group(task, weights or drawn, batches[part], targets[part], first))
    return groups


def captures_of(group: Group, victim: Victim, seed: int) -> list[Capture]:
    """Return the captures: the float32 gradient that a client computes on its batch, after its defences.

    Beside it go the model's buffers, as the client's one forward pass leaves them.
    """
    model = group.task.build(0)
    model.train(victim.mode == "train")
    defenses = victim.chain()
    captures = []
    for row, (images, labels) in enumerate(zip(group.images, group.labels, strict=True)):
        generator = torch_generator(seed, "benchmark defense", group.first + row)
        model.load_state_dict(dict(group.weights))
        gradient = _gradient(group.task, model, images, labels, defenses, generator)
        sent = Chain(tuple(defenses)).apply(Upload(gradient), generator)
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        captures.append(
            Capture(
                round=1,
                client=group.first + row,
                node=group.first + row + 1,
                upload="gradient",
                arrays={**sent.values, **buffers},
                present=sent.present,
            )
        )
    return captures


def _gradient(
    task: ClassificationTask,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    defenses: Sequence[Defense],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the gradient of a batch by parameter; that of a DP-SGD step where it is among the defences."""
    names = [name for name, _ in model.named_parameters()]
    for defense in defenses:
        if isinstance(defense, DPSGD):
            with private_gradient(task, model, defense.private, generator) as private:
                values = private(images.clone(), labels)[1]
            return dict(zip(names, values, strict=True))
    loss = task.loss(model, images, labels)
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def clusters(groups: Sequence[Group]) -> list[int]:
    """Return for each capture the number of its draw of weights."""
    return [number for number, group in enumerate(groups) for _ in group.images]
