"""What a task's loss draws in training beside the batch: timesteps and noise, and how to draw them again."""

import torch

from fedsim.data.dataset import Indices
from fedsim.seeds import derive, torch_generator
from fedsim.tasks.task import DrawingTask, Draws, Task
from fedsim.training.batches import draw_batches
from fedsim.training.recipe import Recipe


def training_seed(seed: int, client: int, round_number: int) -> int:
    """Return the seed of one client's training in one round, which `train` takes."""
    return derive(seed, "training", client, round_number)


def draw_generator(seed: int) -> torch.Generator:
    """Return the generator of a training's draws, on the CPU: the same on every device and engine."""
    return torch_generator(seed, "timesteps and noise")


def truth_draws(
    task: Task, recipe: Recipe, indices: Indices, seed: int, client: int, round_number: int
) -> Draws | None:
    """Return what the loss drew for the examples of `truth_indices`, in their order; None for no draws."""
    if not isinstance(task, DrawingTask):
        return None
    generator = draw_generator(training_seed(seed, client, round_number))
    batches = draw_batches(recipe, indices, seed, client, round_number)
    drawn = [task.draw(len(batch), generator) for batch in batches]
    if not drawn:
        return task.draw(0, generator)
    timesteps, noise = zip(*drawn, strict=True)
    return torch.cat(timesteps), torch.cat(noise)
