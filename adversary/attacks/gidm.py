"""GIDM: the images behind the gradient of a diffusion model whose timesteps and noise are known."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adversary.attacks.prior_weights import likely_weight, noise_unit
from adversary.coordinates import Chart, Coordinates
from adversary.diffusion.layers import diffusion
from adversary.diffusion.matching import denoising, judged
from adversary.diffusion.noisy import noisy_by_inputs
from adversary.lockstep import lockstep
from adversary.objectives import direction
from adversary.optimizers.adam import adam, cosine_decay
from adversary.optimizers.lbfgs import Evaluate, Preview, Stop, lbfgs
from adversary.precision import cast
from adversary.priors import image_prior, mean_variation
from adversary.problem import Attempt, Evidence, Problem, frozen_model
from adversary.starts import Start, draw_start
from fedsim.errors import InputError
from fedsim.models.attention import twice_differentiable
from fedsim.options import require
from fedsim.tasks.ddim import ddim_sample

Decode = Callable[[Tensor], Tensor]
"""Variables (n,) of one capture -> images (B, C, H, W) in [0, 1]."""

EXACT = 1e-10
"""Matching loss at which the search ends: what float32 gradients leave of the true image is about 1e-13."""
SINGLE = 1e-9
"""Matching loss down to which float32 will do, for half of the evaluations at most: of a trained model's
gradient its rounding may hide what is left, and below it costs more evaluations than it saves."""
ROUGH = 1e-6
"""Matching loss down to which float32 does for a whole search: what ends above it has failed.

Mostly by what a defence hides. Of 20 images of a trained model two, at large t, float64 would have taken
further from there; a further start found them as well.
"""
NEARLY = 5
"""Share of its evaluations that phase 2 has, one in so many, where the inputs of layers told the image."""
OUTSIDE = 0.1
"""Mean square by which an image of phase 1 may leave [0, 1]: a third of the range everywhere."""
OVERFIT = 1 / 6
"""Share of the pixels for which phase 2 may explain a unit of noise better, and still only fit noise."""


@dataclass(frozen=True, kw_only=True)
class GIDM:
    r"""Search the latent of a trained diffusion model first, then the pixels.

        1. min over z of D(g(DDIM(z)), g*) by Adam, from z ~ N(0, 1);   2. min over x of D(g(x), g*)

    with the client's own timesteps and noise in the dummy gradient g. Huang, Hong, Chen & Roos, GIDM (2024,
    arXiv 2405.20380), with the federation's global model as the prior or one that is handed in. Where ours
    differs: phase 2 by L-BFGS in `coordinates`, to convergence; the paper has Adam, 5,001 steps of 0.01.
    Under noise of known sigma phase 1 minimises ||g - g*||^2 + sigma^2 ||z||^2 (most probable latent), and
    has the last word where phase 2, with its weaker prior, explains no more than noise (`_fits_noise`).
    """

    phases: Literal["both", "latents", "pixels"] = "both"
    objective: Literal["l2", "cosine"] = "l2"
    """Relative squared distance, or 2 (1 - cos); `l2` turns to the latter where clipping hid the length."""
    prior: str | None = None
    """Safetensors file of a denoiser's weights, of the task's architecture (None: the global model)."""
    steps: int = 16
    """Of DDIM, at most T."""
    latent_evaluations: int = 100
    """Of phase 1 (paper: 2,501); each runs the chain forth and back."""
    learning_rate: float = 0.05
    """Of Adam over latents (paper: 0.01)."""
    max_evaluations: int = 1000
    """Of phase 2."""
    optimizer: Literal["lbfgs", "adam"] = "lbfgs"
    """Of phase 2; `adam` sees the gradient's sign only, with rate 0.1 down to 0 (Inverting Gradients)."""
    tv: float = 0.0
    """Weight of the mean total variation in phase 2; noise that is known of has a prior of its own."""
    start: Start | Literal["inputs"] = "inputs"
    """Where images start without a phase 1, or where that was no use: `adversary.starts.draw_start`, and
    `inputs`: what the inputs of layers say that follow from the gradient (as GIDM+ has them); `natural`
    where they do not say all."""
    coordinates: Coordinates = "natural"
    """What L-BFGS moves in phase 2: `adversary.coordinates.Chart`."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"updates", "model", "batch_size", "recipe", "timesteps", "noise"}
    )
    max_images: ClassVar[int] = 8
    task: ClassVar[str] = "diffusion"

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        for key in ("latent_evaluations", "max_evaluations"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require(self.learning_rate > 0, "learning_rate", self.learning_rate, "above 0")
        require(self.tv >= 0, "tv", self.tv, "at least 0")

    def attack(self, problem: Problem) -> Attempt:
        """Return the images found from one start per capture. Raises InputError for an unfit prior."""
        noise, times = _granted(problem)
        shape = (problem.batch_size, *problem.task.input_shape)
        spent, parts = torch.zeros(len(problem), dtype=torch.int64), {}
        if self.phases != "pixels":
            images, spent = self._latents(problem)
            parts["phase1"] = images
        if self.phases != "latents":
            start, before, budgets = self._start(problem)
            if self.phases == "both":
                nearer = self._is_nearer(problem, images, start)
                start = torch.where(nearer[:, None, None, None, None], images, start)
            points, more = self._pixels(problem, start.flatten(1), budgets)
            found, spent = points.reshape(-1, *shape), spent + before + more
            if self.phases == "both":
                kept = self._fits_noise(problem, images, found)
                found = torch.where(kept[:, None, None, None, None], images, found)
            images = found
        return judged(problem, images, noise, times, spent, **parts)

    def _start(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images to start phase 2 from (P, B, C, H, W), evaluations and budgets (P,)."""
        none = torch.zeros(len(problem), dtype=torch.int64)
        budgets = torch.full_like(none, self.max_evaluations)
        if self.start != "inputs":
            return draw_start(problem, self.start), none, budgets
        plain, task = draw_start(problem, "natural"), diffusion(problem)
        noise, times = _granted(problem)
        begun = torch.stack([task.noisy(*row) for row in zip(plain, noise, times, strict=True)])
        found, spent, told = noisy_by_inputs(problem, times, begun.flatten(1), self.max_evaluations)
        if not bool(told.any()):
            return plain, spent, budgets
        noisy = found.reshape(begun.shape)
        read = torch.stack([task.clean(*row) for row in zip(noisy, noise, times, strict=True)]).clamp(0, 1)
        told &= self._is_nearer(problem, read, plain).cpu()
        images = torch.where(told.to(read.device)[:, None, None, None, None], read, plain)
        return images, spent, torch.where(told, (budgets // NEARLY).clamp(min=1), budgets)

    def _is_nearer(self, problem: Problem, images: Tensor, plain: Tensor) -> Tensor:
        """Return where images are images, and explain more than a plain start does, (P,).

        The chain of a model that has learnt nothing ends anywhere: one that predicts noise divides by
        sqrt(alpha-bar_T), which is next to nothing. Normalisation hides the size from the gradient. Of two
        images at one timestep the inputs do not say which is which.
        """
        distance, rows = self._distance(problem), torch.arange(len(problem), device=images.device)
        both = images, plain.to(images)
        with twice_differentiable():
            losses = [distance(one.flatten(1), rows)[0].nan_to_num(torch.inf) for one in both]
        outside = (images - images.clamp(0, 1)).square().flatten(1).mean(dim=1)
        return (losses[0] < losses[1]) & (outside < OUTSIDE)

    def _fits_noise(self, problem: Problem, first: Tensor, second: Tensor) -> Tensor:
        """Return where the second images explain the gradient better by no more than noise allows, (P,).

        Images that fit noise lower ||g - g*||^2 by sigma^2 for each direction that they are free in: at most
        one a pixel, under total variation far fewer (`benchmarks.gidm ablations --std`, either phase alone:
        .03 to .12 a pixel where the first image was nearer to the truth, .38 where it was not).
        """
        distance = self._distance(problem)
        rows = torch.arange(len(problem), device=first.device)
        with twice_differentiable():
            losses = [distance(images.flatten(1), rows)[0] for images in (first, second)]
        unit = noise_unit(problem)
        return (unit > 0) & (losses[0] - losses[1] <= OVERFIT * first[0].numel() * unit)

    def _latents(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Return the images of phase 1, and evaluations (P,)."""
        single, shape = cast(problem, torch.float32), (problem.batch_size, *problem.task.input_shape)
        task, model = diffusion(problem), self._prior(single)
        steps = min(self.steps, task.timesteps)

        def decode(latents: Tensor) -> Tensor:
            return ddim_sample(task, model, latents.reshape(shape), steps, checkpointing=True)

        start = problem.draw_images().flatten(1).float()
        with twice_differentiable():
            found = adam(
                with_prior(through(decode, self._distance(single)), noise_unit(single)),
                start,
                lambda _: self.learning_rate,
                max_evaluations=self.latent_evaluations,
            )
            with torch.no_grad():
                images = torch.stack([decode(point) for point in found.points])
        return images.to(problem.like), found.evaluations

    def _pixels(self, problem: Problem, start: Tensor, budgets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images of phase 2 (P, pixels), and evaluations (P,), `budgets` (P,) at most."""
        single, budget = cast(problem, torch.float32), self.max_evaluations
        shape = tuple(problem.task.input_shape)
        chart = Chart(shape, "pixels" if self.optimizer == "adam" else self.coordinates)
        weight = likely_weight(problem)
        coarse, fine = (self._distance(one, weight.to(one.like), chart) for one in (single, problem))
        points = chart.of(start.reshape(len(start), -1, *shape)).flatten(1)
        with twice_differentiable():
            if self.optimizer == "adam":
                rate = cosine_decay(0.1, budget)
                found = adam(coarse, points.float(), rate, max_evaluations=budget, signed=True, keep="last")
            else:
                goals = points.new_full((len(points),), EXACT)
                preview = Preview(coarse, SINGLE, budget // 2, coarse_above=ROUGH)
                stop = Stop(max_evaluations=budget)
                found = lbfgs(fine, points, stop, targets=goals, budgets=budgets, preview=preview)
        images = chart.images(found.points.to(start).reshape(len(start), problem.batch_size, -1))
        return images.flatten(1), found.evaluations

    def _distance(
        self, problem: Problem, weight: Tensor | None = None, chart: Chart | None = None
    ) -> Evaluate:
        """Return what evaluates images, in a chart's coordinates (k, n), against the observed gradient."""
        distance = denoising(problem, direction if self.objective == "cosine" else None)
        moved = chart or Chart(tuple(problem.task.input_shape), "pixels")

        tv = 0.0 if weight is None else self.tv
        weights = problem.like.new_zeros(len(problem)) if weight is None else weight
        with_image_prior = bool((weights > 0).any())

        def loss(
            point: Tensor, noise: Tensor, times: Tensor, seen: tuple[Evidence, ...], w: Tensor
        ) -> Tensor:
            images = moved.images(point.reshape(problem.batch_size, -1))
            value = distance(images, noise, times, seen)
            if with_image_prior:
                value = value + w * image_prior(images)
            return value + tv * mean_variation(images) if tv else value

        batched = lockstep(problem, loss)
        noise, times = _granted(problem)
        noise = noise.to(problem.like)

        def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            seen = problem.evidence(rows)
            losses, gradients = batched(points.to(noise), noise[rows], times[rows], seen, weights[rows])
            return losses.to(points), gradients.to(points)

        return evaluate

    def _prior(self, problem: Problem) -> nn.Module:
        if self.prior is None:
            return problem.model
        try:
            weights = load_file(Path(self.prior).expanduser())
            like = problem.like
            return frozen_model(problem.task, weights, mode="eval", dtype=like.dtype, device=like.device)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            allowed = "safetensors of a denoiser as the task's"
            raise InputError(f"prior = {self.prior!r}: allowed: {allowed} ({reason})") from None


def _granted(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return the client's noise and timesteps. Raises InputError where these are not granted."""
    if problem.timesteps is None or problem.noise is None:
        raise InputError("gidm: needs timesteps and noise; allowed: grant both, or gidm_plus")
    return problem.noise, problem.timesteps


def through(decode: Decode, evaluate: Evaluate) -> Evaluate:
    """Return what evaluates latents (k, n): images of each by `decode`, and back through it."""

    def evaluate_latents(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        losses, gradients = [], []
        for i in range(len(points)):
            point = points[i].detach().requires_grad_()
            with torch.enable_grad():
                images = decode(point).reshape(1, -1)
            loss, slope = evaluate(images.detach(), rows[i : i + 1])
            losses.append(loss)
            gradients.append(torch.autograd.grad(images, point, slope)[0])
        return torch.cat(losses), torch.stack(gradients)

    return evaluate_latents


def with_prior(evaluate: Evaluate, weights: Tensor) -> Evaluate:
    """Return what evaluates latents (k, n) and adds `weights` (P,) times their squared length."""

    def evaluate_with_prior(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        losses, slopes = evaluate(points, rows)
        weight = weights[rows].to(points)
        return losses + weight * points.square().sum(dim=1), slopes + 2 * weight[:, None] * points

    return evaluate_with_prior
