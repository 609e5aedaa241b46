"""What is learnt: a model, a loss on a batch, the shapes. Federation and adversary know no more than this."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
"""Inputs (n, *input_shape) in [0, 1] and labels: int64 (n,), or class probabilities (n, num_classes)."""
Draws = tuple[Tensor, Tensor]
"""What a loss draws beside the batch: timesteps (n,), int64, and noise (n, *input_shape)."""


class Task(Protocol):
    """A learning problem. `module:function` of a foreign app returns one of these."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input, such as (C, H, W)."""
        ...

    @property
    def num_classes(self) -> int:
        """Return the number of labels; 0 where the task has none."""
        ...

    def build(self, seed: int) -> nn.Module:
        """Return the model with its initial weights, which follow from the seed alone."""
        ...

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the training loss, a scalar: the mean over the batch."""
        ...

    def evaluate(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Return sums over the batch of what is reported per example: `loss`, perhaps `accuracy`."""
        ...


@runtime_checkable
class DrawingTask(Task, Protocol):
    """A task whose training loss draws at random: its `loss` alone is not defined, `loss_at` takes its place.

    What it draws belongs to the truth of an upload, beside the images.
    """

    def draw(self, count: int, generator: torch.Generator) -> Draws:
        """Draw timesteps and noise for so many examples, on the generator's device."""
        ...

    def loss_at(self, model: nn.Module, inputs: Tensor, timesteps: Tensor, noise: Tensor, /) -> Tensor:
        """Return the training loss for given draws, a scalar: the mean over the batch."""
        ...


def draw_for(task: Task, count: int, generator: torch.Generator) -> Draws | None:
    """Return what the task's loss draws for so many examples; None, and nothing drawn, where it does not."""
    return task.draw(count, generator) if isinstance(task, DrawingTask) else None


def training_loss(
    task: Task, model: nn.Module, inputs: Tensor, labels: Tensor, draws: Draws | None
) -> Tensor:
    """Return the mean training loss of a batch, with what `draw_for` gave for it."""
    if draws is None:
        return task.loss(model, inputs, labels)
    assert isinstance(task, DrawingTask)
    timesteps, noise = (value.to(inputs.device) for value in draws)
    return task.loss_at(model, inputs, timesteps, noise)
