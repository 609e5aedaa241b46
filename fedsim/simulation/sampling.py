"""What a diffusion model draws as rounds go by: pictures in the run folder, and how real they look."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fedsim.data.dataset import Split
from fedsim.options import build
from fedsim.scenario.schema import Scenario
from fedsim.seeds import torch_generator
from fedsim.simulation.pictures import to_picture
from fedsim.tasks import TASKS
from fedsim.tasks.ddim import ddim_sample
from fedsim.tasks.diffusion import Diffusion, DiffusionTask
from fedsim.tasks.quality import sample_distance
from fedsim.tasks.task import Task
from fedsim.training import load_state

SAMPLES = "samples"
SHOWN = 10
"""Samples of a drawing that are kept as pictures: always of the same latents."""
REAL = 1000
"""Images of the test split that samples are compared with, at most."""
BATCH = 64


class Sampler:
    """Draws from the global model every so many rounds, from the same latents each time."""

    def __init__(
        self, task: DiffusionTask, options: Diffusion, model: nn.Module, split: Split, folder: Path, seed: int
    ) -> None:
        """Take the model to load weights into, and the split of real images; pictures go to `folder`.

        Draws where the model is, from latents that are the same on every device.
        """
        self._task, self._options, self._model, self._folder = task, options, model, folder
        generator, device = torch_generator(seed, "samples"), next(model.parameters()).device
        self._latents = torch.randn(options.samples, *task.input_shape, generator=generator).to(device)
        self._real = split.batch(range(min(REAL, len(split))))[0]

    def due(self, server_round: int) -> bool:
        """Return whether samples are drawn after this round; 0 is the initial model."""
        return server_round % self._options.sample_every == 0

    def __call__(self, server_round: int, arrays: Mapping[str, Tensor]) -> dict[str, float]:
        """Draw from global weights, write the pictures, and return `sample_distance`."""
        load_state(self._model, arrays)
        self._model.eval()
        images = self.draw()
        self._folder.mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(images[:SHOWN]):
            to_picture(image).save(self._folder / f"round-{server_round:05d}-{index:02d}.png")
        return {"sample_distance": sample_distance(images, self._real)}

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Return the model's images of all latents, clipped to [0, 1], on the CPU."""
        steps = min(self._options.sample_steps, self._task.timesteps)
        chunks = torch.split(self._latents, BATCH)
        images = [ddim_sample(self._task, self._model, chunk, steps, clip=True) for chunk in chunks]
        return torch.cat(images).clamp(0, 1).cpu()


def sampler_of(
    scenario: Scenario, task: Task, model: nn.Module, split: Split, folder: Path
) -> Sampler | None:
    """Return the sampler of a scenario's run folder; None where there is nothing to draw."""
    if not isinstance(task, DiffusionTask):
        return None
    options = build(TASKS.resolve(scenario.task.name), scenario.task.options, "task")
    if not options.sample_every:
        return None
    return Sampler(task, options, model, split, folder / SAMPLES, scenario.seed)
