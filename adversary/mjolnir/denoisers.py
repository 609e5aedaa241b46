"""Denoisers made ready: trained for one model's gradients, or found where they are kept."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from adversary.mjolnir.chain import Mean
from adversary.mjolnir.squares import Squares, build_squares, squares_loss, squares_mean
from adversary.mjolnir.store import content_key, remembered
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.training import Loss, train
from adversary.mjolnir.unrolled import (
    Refiner,
    build_refiner,
    noise_range,
    pixel_unit,
    refiner_loss,
    refiner_mean,
)
from adversary.objectives import NAIVE
from adversary.problem import Problem
from fedsim.data.load import load_dataset
from fedsim.defenses.upload import identity

Kind = Literal["unrolled", "squares"]
MeanOf = Callable[[Problem], Mean]
"""Problem in float32, its labels set -> posterior mean of its gradients."""
VERSION = 3
"""Of what training does: part of the key, so that a change makes denoisers anew."""


class GradientDenoiser(Protocol):
    """Brings noisy gradients back; frozen dataclasses of options, as attacks are. `Mjolnir` is one."""

    def clean(self, problem: Problem, std: Tensor) -> Problem:
        """Return the problem with clean gradients, and what is left of the defence in its knowledge.

        `std` (P,) is the noise on each entry of a gradient; labels are set.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a denoiser is trained."""

    kind: Kind = "unrolled"
    conditional: bool = False
    """Squares alone: shown the upload (variant `conditional`)."""
    updates: int = 1600
    batch: int = 16
    """Surrogate gradients an update."""
    rate: float = 3e-3
    steps: int = 6
    """Steps of the unrolled search."""
    short: float = 0.7
    """Share of the updates that train a search of half as many steps: cheaper, and nearly as instructive."""
    seed: int = 0


PICTURED = Recipe(kind="squares", batch=8, rate=1e-3)
"""The paper's denoiser: batches of 8 as in its released code, ten times its rate for far fewer updates."""
RECIPES: dict[Kind, Recipe] = {"unrolled": Recipe(), "squares": PICTURED}


def ready(recipe: Recipe, surrogate: Surrogate, folder: Path) -> MeanOf:
    """Return a denoiser trained for the surrogate's model and defence, from `folder` where it is kept.

    What it is kept under: weights, public images, what the defence makes of gradients, recipe.
    """
    network, loss_of, mean_of = _parts(recipe, surrogate)

    def make(checkpoint: Path) -> dict[str, Tensor]:
        with tqdm(total=recipe.updates, desc=f"{recipe.kind} denoiser", delay=2, disable=None) as bar:

            def progress(done: int, _: int, loss: float) -> None:
                bar.update(done - bar.n)
                bar.set_postfix(loss=f"{loss:.4f}")

            train(
                network,
                loss_of,
                updates=recipe.updates,
                rate=recipe.rate,
                seed=recipe.seed,
                checkpoint=checkpoint,
                progress=progress,
            )
        return dict(network.state_dict())

    state = remembered(folder, _key(recipe, surrogate), make)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return mean_of


def _parts(recipe: Recipe, surrogate: Surrogate) -> tuple[nn.Module, Loss, MeanOf]:
    victim, device = surrogate.victim, surrogate.victim.like.device
    if recipe.kind == "squares":
        entries = sum(value[0].numel() for value in victim.target.values())
        squares: Squares = build_squares(entries, recipe.conditional, recipe.seed).to(device)
        return (
            squares,
            squares_loss(squares, surrogate, recipe.batch),
            lambda problem: squares_mean(squares, problem),
        )
    refiner: Refiner = build_refiner(victim, recipe.seed)
    unit = pixel_unit(surrogate)
    return (
        refiner,
        refiner_loss(refiner, surrogate, unit, recipe.steps, recipe.batch, recipe.short),
        lambda problem: refiner_mean(refiner, surrogate, problem, unit, recipe.steps),
    )


def _key(recipe: Recipe, surrogate: Surrogate) -> str:
    victim, knowledge = surrogate.victim, surrogate.victim.knowledge or NAIVE
    settings: dict[str, Any] = {
        "version": VERSION,
        "recipe": asdict(recipe),
        "unit": victim.unit,
        "scale_free": knowledge.scale_free,
        "moved": surrogate.moved,
        "masked": {"tensors": sorted(victim.present), "density": surrogate.density},
        # These follow from what the surrogate sends, so that another architecture or clipping has others.
        "noise": [f"{level:.4g}" for level in noise_range(surrogate)],
        "sent": _lengths(surrogate),
    }
    tensors = {f"model/{name}": value for name, value in victim.model.state_dict().items()}
    return content_key(settings, tensors | {"public": surrogate.public})


def _lengths(surrogate: Surrogate) -> list[str]:
    """Return how long surrogate gradients are as sent, where they are clipped: it tells bounds apart."""
    if (surrogate.victim.knowledge or NAIVE).simulate is identity:
        return []
    rows = surrogate.batch(64, torch.Generator().manual_seed(1))[2]
    lengths = surrogate.defended(rows).norm(dim=1)
    return [f"{0.999 * length:.3g}" for length in lengths.tolist()]  # a round norm is at no rounding edge


def public_images(
    name: str, options: dict[str, Any], part: Literal["train", "test"], limit: int, seed: int = 0
) -> Tensor:
    """Return up to `limit` images (N, C, H, W) of a data set's training or test split, the same each time.

    `seed` divides a data set that has no split of its own.
    """
    dataset = load_dataset(name, options, seed)
    split = dataset.train if part == "train" else dataset.test
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:limit]
    images: Tensor = split.batch(rows.numpy())[0]
    return images
