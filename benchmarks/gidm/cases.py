"""Clients that train a denoiser, one capture each: what is attacked, and what is behind it."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.problem import Problem, frozen_model
from benchmarks.common import Pool
from fedsim.defenses import DEFENSES
from fedsim.defenses.chain import Chain
from fedsim.defenses.clipping import Clipping
from fedsim.defenses.dpsgd import DPSGD
from fedsim.defenses.noising import Noising
from fedsim.defenses.upload import Defense, Upload
from fedsim.options import build, require
from fedsim.seeds import derive, torch_generator
from fedsim.tasks.diffusion import Diffusion, DiffusionTask


@dataclass(frozen=True, eq=False)
class Case:
    """One capture's problem, and its truth."""

    number: int
    task: DiffusionTask
    problem: Problem
    """Without timestep and noise; see `granted`."""
    image: Tensor
    """(B, C, H, W)"""
    timesteps: Tensor
    noise: Tensor

    @property
    def granted(self) -> Problem:
        """Return the problem with timestep and noise known."""
        return replace(self.problem, timesteps=self.timesteps[None], noise=self.noise[None].double())


def task_of(arguments: argparse.Namespace, pool: Pool) -> DiffusionTask:
    """Return the clients' task."""
    options = {key: getattr(arguments, key) for key in ("prediction", "schedule", "timesteps")}
    kind: Diffusion = build(Diffusion, options, "task")
    unet = arguments.model == "unet"
    chosen = {"channels": arguments.channels} if unet else {"patch": arguments.patch}
    return kind.task(arguments.model, chosen, pool.shape, 0)


def cases(
    arguments: argparse.Namespace,
    pool: Pool,
    images: Tensor,
    defense: Mapping[str, Any] | None,
    adaptive: bool,
) -> Iterator[Case]:
    """Yield a case for each `--batch` of images (n, C, H, W): noise drawn anew, weights too where untrained.

    Timesteps are spread evenly over the first `--share` of T, in a random order; gradients are float32.
    """
    task, seed, count = task_of(arguments, pool), arguments.seed, len(images)
    order = torch.randperm(count, generator=torch_generator(seed, "benchmark timesteps"))
    spread = ((order + 0.5) * arguments.share * task.timesteps / count).long()
    weights = load_file(arguments.weights) if arguments.weights else None
    for number in range(count // arguments.batch):
        drawn = weights or dict(task.build(derive(seed, "benchmark weights", number)).state_dict())
        noise = task.draw(arguments.batch, torch_generator(seed, "benchmark noise", number))[1]
        own = slice(number * arguments.batch, (number + 1) * arguments.batch)
        image, times = images[own], spread[own]
        problem = _problem(task, drawn, image, times, noise, number, seed, defense, adaptive)
        yield Case(number, task, problem, image, times, noise)


def _problem(
    task: DiffusionTask,
    weights: Mapping[str, Tensor],
    image: Tensor,
    times: Tensor,
    noise: Tensor,
    number: int,
    seed: int,
    defense: Mapping[str, Any] | None,
    adaptive: bool,
) -> Problem:
    client = frozen_model(task, weights, dtype=torch.float32)
    client_problem = Problem(task=task, model=client, target={}, seeds=())
    gradient = client_problem.gradient_of(lambda model: task.loss_at(model, image, times, noise))
    chain = []
    if defense:
        options = {key: value for key, value in defense.items() if key != "name"}
        chain = [build(DEFENSES.resolve(defense["name"]), options, "defense")]
    generator = torch_generator(seed, "benchmark defense", number)
    sent = Chain((*chain, *_in_training(chain, len(image)))).apply(Upload(gradient), generator)
    capture = Capture(
        round=1, client=number, node=number + 1, upload="gradient", arrays=sent.values, present=sent.present
    )
    return build_problem(
        [capture],
        weights,
        task,
        frozen_model(task, weights),
        learning_rate=1.0,
        batch_size=len(image),
        seeds=[derive(seed, "benchmark start", number)],
        defenses=chain if adaptive else None,
    )


def _in_training(chain: Sequence[Defense], batch: int) -> list[Defense]:
    """Return what DP-SGD does to the gradient of an only example: to clip it, and then noise."""
    private = next((defense.private for defense in chain if isinstance(defense, DPSGD)), None)
    if private is None:
        return []
    require(batch == 1, "--batch", batch, "1 with DP-SGD, which clips each example's own gradient")
    std = private.noise_multiplier * private.clip_norm
    return [Clipping(norm=private.clip_norm), Noising(std=std)]
