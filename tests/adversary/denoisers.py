"""Denoisers of 8x8 images, and the gradients of clients that train them: what tests of GIDM attack."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adversary.problem import Problem, frozen_model
from fedsim.data.load import load_dataset
from fedsim.tasks.diffusion import Diffusion, DiffusionTask


@dataclass(frozen=True)
class Drawn:
    """Captures of a denoiser with what is behind them."""

    problem: Problem
    task: DiffusionTask
    images: Tensor
    noise: Tensor
    timesteps: Tensor

    @property
    def noisy(self) -> Tensor:
        """Return x_t, (P, B, C, H, W)."""
        rows = zip(self.images, self.noise, self.timesteps, strict=True)
        return torch.stack([self.task.noisy(*row) for row in rows])


def drawn(
    timesteps: list[list[int]],
    prediction: str = "epsilon",
    dtype: torch.dtype = torch.float32,
    channels: Sequence[int] = (32, 64),
) -> Drawn:
    """Return gradients in float32 as clients compute them, or as sent in another type."""
    options = {"channels": channels, "attention": False, "norm_groups": channels[0] // 4}
    task = Diffusion(prediction=prediction).task("unet", options, (1, 8, 8), 10)  # type: ignore[arg-type]
    weights = dict(task.build(1).state_dict())
    times = torch.tensor(timesteps)
    shape = (*times.shape, 1, 8, 8)
    images = load_dataset("fashion_mnist", {}, 0).train.batch(range(times.numel()))[0]
    images = torch.nn.functional.avg_pool2d(images[:, :, 2:26, 2:26], 3).reshape(shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    client = Problem(task=task, model=frozen_model(task, weights, dtype=torch.float32), target={}, seeds=())
    gradients = [
        client.gradient_of(lambda model, x=x, t=t, e=e: task.loss_at(model, x, t, e))
        for x, t, e in zip(images, times, noise, strict=True)
    ]
    target = {name: torch.stack([one[name].to(dtype).double() for one in gradients]) for name in gradients[0]}
    model = frozen_model(task, weights)
    seeds = tuple(range(len(times)))
    problem = Problem(task=task, model=model, target=target, seeds=seeds, batch_size=times.shape[1])
    return Drawn(problem, task, images.double(), noise.double(), times)
