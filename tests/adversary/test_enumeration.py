"""GIDM+ against models in which no linear layer sees the timestep alone."""

from dataclasses import replace

import pytest
import torch
from denoisers import drawn
from torch import Tensor, nn

from adversary.attacks.gidm_plus import GIDMPlus
from adversary.diffusion.enumeration import enumerate_timesteps
from adversary.diffusion.timesteps import find_timesteps, shows_timesteps
from adversary.problem import Problem, frozen_model
from fedsim.errors import InputError
from fedsim.tasks.diffusion import DiffusionTask

STEPS = 40


class TimePlane(nn.Module):
    """A denoiser to which the timestep is one more channel of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 64, 3, stride=2, padding=1)
        self.second = nn.Conv2d(64, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 1, 2, stride=2)

    def forward(self, images: Tensor, timesteps: Tensor) -> Tensor:
        plane = (timesteps / STEPS).to(images).view(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])
        hidden = torch.sigmoid(self.first(torch.cat([images, plane], dim=1)))
        out: Tensor = self.up(torch.sigmoid(self.second(hidden)))
        return out


class TimeTable(TimePlane):
    """One to which it is a row of a learnt table, added to the image's features."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(STEPS, 64)

    def forward(self, images: Tensor, timesteps: Tensor) -> Tensor:
        blank = torch.cat([images, torch.zeros_like(images)], dim=1)
        hidden = torch.sigmoid(self.first(blank) + self.table(timesteps)[:, :, None, None])
        out: Tensor = self.up(torch.sigmoid(self.second(hidden)))
        return out


def problem_of(model: type[nn.Module], timesteps: list[int]) -> Problem:
    """Return captures of one image each, gradients in float32."""
    images = drawn([[0]] * len(timesteps)).images.float()
    task = DiffusionTask(model, (1, 8, 8), timesteps=STEPS)
    weights = dict(task.build(3).state_dict())
    client = Problem(task=task, model=frozen_model(task, weights, dtype=torch.float32), target={}, seeds=())
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    gradients = [
        client.gradient_of(lambda of, x=x, t=t, e=e: task.loss_at(of, x, torch.tensor([t]), e))
        for x, t, e in zip(images, timesteps, noise, strict=True)
    ]
    target = {name: torch.stack([one[name].double() for one in gradients]) for name in gradients[0]}
    seeds = tuple(range(len(timesteps)))
    return Problem(task=task, model=frozen_model(task, weights), target=target, seeds=seeds)


def test_where_no_layer_shows_the_timestep_the_best_fit_does():
    problem = problem_of(TimePlane, [33])
    assert not shows_timesteps(problem)
    with pytest.raises(InputError, match="grant `timesteps`"):
        find_timesteps(problem)
    start = 0.3 * problem.draw_images().flatten(1)
    assert enumerate_timesteps(problem, start, 100).tolist() == [[33]]


def test_the_attack_enumerates_by_itself():
    attempt = GIDMPlus(max_evaluations=480, iterations=20, polish=2).attack(problem_of(TimePlane, [21]))
    assert attempt.parts["timesteps"].tolist() == [[21]]


def test_a_table_of_embeddings_shows_the_row_that_was_looked_up():
    problem = problem_of(TimeTable, [0, 17, 39])
    assert shows_timesteps(problem)
    assert find_timesteps(problem).tolist() == [[0], [17], [39]]


def test_batches_are_refused_where_timesteps_are_not_shown():
    problem = replace(problem_of(TimePlane, [7]), batch_size=2)
    with pytest.raises(InputError, match="a batch has several"):
        enumerate_timesteps(problem, problem.draw_images().flatten(1), 10)
