"""Mjolnir: bring a perturbed gradient back with what surrogate data teach, then attack it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from adversary.attacks import ATTACKS
from adversary.attacks.match import EXPLAINED
from adversary.labels import infer_labels
from adversary.lockstep import matching_losses
from adversary.mjolnir.around import mended
from adversary.mjolnir.chain import Sampling, drawn, reverse
from adversary.mjolnir.denoisers import PICTURED, Kind, Recipe, public_images, ready
from adversary.mjolnir.level import declared_level, estimated_level
from adversary.mjolnir.store import default_folder
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.unrolled import noise_range
from adversary.mjolnir.vectors import flatten, signal_to_noise, unflatten
from adversary.objectives import noise_floor
from adversary.precision import cast
from adversary.problem import Attempt, Problem
from adversary.reconstruct import Attack
from fedsim.defenses.upload import Adaptive
from fedsim.options import build, require
from fedsim.seeds import torch_generator

Variant = Literal["adaptive", "fixed", "conditional"]
"""Start the chain where the noise belongs; at one level whatever the noise; or from noise alone, shown the
upload."""

WEAK = 4.0
"""Ratio of signal to noise above which denoising loses to the adaptive attack (docs/mjolnir.md)."""
SILENT = 1e3
"""Ratio above which there is no noise to speak of: rounding."""
NOTHING_KNOWN = 10.0
"""Level from which the conditional variant starts, in units of the strongest noise of its training."""


@dataclass(frozen=True, kw_only=True)
class Mjolnir:
    r"""Denoise the gradient by a diffusion model of surrogate gradients, and hand it to another attack.

        g_hat = reverse chain from sigma of g* = g + sigma z;   then any attack on g_hat
        then, in g* again, what it says above its noise beyond that image (`adversary.mjolnir.around`)

    Liu et al., Mjolnir (AAAI 2025, arXiv 2407.05285), Algorithms 1 to 3: gradients of public images on the
    victim's model, a denoiser trained on them, and the upload placed at the step of the forward process that
    has as much noise. `squares` is the paper's denoiser (`adversary.mjolnir.squares`), `unrolled` ours
    (`adversary.mjolnir.unrolled`). A gradient whose noise is weak (a ratio of signal to noise above WEAK) is
    attacked as it is, with a prior that is weighed by the noise: there that finds more.
    """

    then: str = "dlg"
    """The attack that the clean gradient is handed to."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of that attack."""
    denoiser: Kind = "unrolled"
    variant: Variant = "adaptive"
    sampling: Sampling = "mean"
    """`adversary.mjolnir.chain.reverse`"""
    chain: int = 16
    """Steps of `ddim` and `ancestral`."""
    mending: int = 300
    """Evaluations of the search around the image found, in the upload itself (`mended`); 0: none."""
    level: Literal["auto", "declared", "estimated"] = "auto"
    """Of the noise: as the defence declares it, or read off the gradient (`auto`: where none is declared)."""
    surrogate: str = "fashion_mnist"
    """Data set of the public images."""
    split: Literal["train", "test"] = "train"
    """Of that data set: the other one than the victims' where it is theirs as well."""
    surrogate_options: Mapping[str, Any] = field(default_factory=dict)
    moved: bool = True
    """Whether they are turned, scaled, outlined and layered: needless where they are of the victims' kind."""
    images: int = 8000
    """Public images at most."""
    updates: int = 3000
    """Of the denoiser's training."""
    cache: str | None = None
    """Folder of trained denoisers (None: the user's cache)."""

    needs: ClassVar[frozenset[str]] = frozenset(
        {"updates", "model", "batch_size", "recipe", "surrogate_data"}
    )
    max_images: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for key in ("chain", "images", "updates"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require(self.mending >= 0, "mending", self.mending, "0 or more")
        require(self.then != "mjolnir", "then", self.then, "another attack than mjolnir")
        fits = self.variant != "conditional" or self.denoiser == "squares"
        require(fits, "variant", self.variant, "denoiser = 'squares' for the conditional one")
        require(
            self.variant != "conditional" or self.sampling != "mean",
            "sampling",
            self.sampling,
            "ddim or ancestral for the conditional variant",
        )
        self._other()

    def attack(self, problem: Problem) -> Attempt:
        """Return what the other attack finds, with the gradients it found it in as the part `gradient`.

        Losses are those of the observed gradients. Raises InputError where the noise cannot be told.
        """
        labels = infer_labels(problem) if problem.labels is None else problem.labels
        known, std = replace(problem, labels=labels), self._level(problem)
        noisy = self.is_noisy(problem, std)
        attempts, order = [], []
        for denoise, rows in ((True, noisy), (False, ~noisy)):
            chosen = rows.nonzero().flatten().tolist()
            if chosen:
                part = known.select(chosen)
                told = _told(part, std[rows])
                given = self.clean(part, std[rows]) if denoise else told
                found = self._other().attack(given)
                if denoise and self.mending:
                    found = self.mend(told, found)
                attempts.append(_judged(found, given, part))
                order += chosen
        return _joined(attempts, order)

    def is_noisy(self, problem: Problem, std: Tensor) -> Tensor:
        """Return whose noise `std` (P,) is strong enough to be worth denoising, (P,)."""
        seen = signal_to_noise(flatten(problem.target), std)  # of signal and noise together
        return seen.square() - 1 <= WEAK**2

    def clean(self, problem: Problem, std: Tensor) -> Problem:
        """Return the problem with its gradients denoised: whole, exact, nothing left of the defence.

        `std` (P,) is the noise on each entry of a gradient; `problem.labels` are needed.
        """
        single = cast(problem, torch.float32)
        public = public_images(self.surrogate, dict(self.surrogate_options), self.split, self.images)
        surrogate = Surrogate.of(single, public, self.moved)
        base = PICTURED if self.denoiser == "squares" else Recipe()
        recipe = replace(base, updates=self.updates, conditional=self.variant == "conditional")
        folder = default_folder() if self.cache is None else Path(self.cache).expanduser()
        mean = ready(recipe, surrogate, folder)(single)
        generators = [torch_generator(seed, "mjolnir") for seed in problem.seeds]
        rows, level = self._start(flatten(single.target), std.to(single.like), surrogate, generators)
        rows = reverse(
            mean,
            rows,
            level,
            steps=self.chain,
            sampling=self.sampling,
            generators=generators,
            weakest=noise_range(surrogate)[0] if self.denoiser == "unrolled" else 0.0,
        )
        target = unflatten(rows.to(problem.like), problem.target)
        return replace(problem, target=target, present={}, slack={}, rounds=(), knowledge=None)

    def _other(self) -> Attack:
        """Return the attack that follows. Raises InputError for what there is not, or is not granted."""
        kind = ATTACKS.resolve(self.then, "then")
        allowed = f"an attack that needs no more than {', '.join(sorted(self.needs))}"
        require(kind.needs <= self.needs, "then", self.then, allowed)
        require(not hasattr(kind, "task"), "then", self.then, "an attack on classifiers")
        attack: Attack = build(kind, self.options, "options")
        return attack

    def mend(self, problem: Problem, found: Attempt) -> Attempt:
        """Return what was found in denoised gradients, mended by what the problem's own ones say."""
        images, more = mended(problem, found.images, found.labels, max_evaluations=self.mending)
        return replace(found, images=images, evaluations=found.evaluations + more)

    def _level(self, problem: Problem) -> Tensor:
        """Return the noise on each entry (P,); zero where the attacker knows that there is none."""
        declared = declared_level(problem)
        known = problem.knowledge is not None
        require(known or self.level != "declared", "level", self.level, "estimated: no noise is declared")
        return declared if known and self.level != "estimated" else estimated_level(problem)

    def _start(
        self, rows: Tensor, std: Tensor, surrogate: Surrogate, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Return the states (P, d) in which the chain starts, and their levels (P,)."""
        if self.variant == "adaptive":
            return rows, std
        low, high = noise_range(surrogate)
        if self.variant == "fixed":
            return rows, torch.full_like(std, (low * high) ** 0.5)
        level = torch.full_like(std, NOTHING_KNOWN * high)
        return level[:, None] * drawn(generators, rows), level


def _judged(found: Attempt, given: Problem, problem: Problem) -> Attempt:
    """Return what was found in the gradients given, judged by the observed ones."""
    losses = matching_losses(problem, found.images.to(problem.like), found.labels)
    enough = torch.maximum(torch.full_like(losses, EXPLAINED), 1.5 * noise_floor(problem))
    parts = {"gradient": flatten(given.target)[:, None]}
    return replace(found, losses=losses, converged=(losses <= enough).cpu(), parts=parts)


def _told(problem: Problem, std: Tensor) -> Problem:
    """Return the problem with what was estimated of its noise, where nothing was known of a defence."""
    noise = float(std.median())
    if problem.knowledge is not None or bool((signal_to_noise(flatten(problem.target), std) > SILENT).any()):
        return problem
    return replace(problem, knowledge=Adaptive(noise_std=noise * abs(problem.unit)))


def _joined(attempts: list[Attempt], order: list[int]) -> Attempt:
    """Return attempts at parts of the captures as one; `order` are the captures' rows, part after part."""
    back = torch.tensor(order).argsort()

    def whole(values: list[Tensor]) -> Tensor:
        return torch.cat(values)[back.to(values[0].device)]

    return Attempt(
        images=whole([one.images for one in attempts]),
        labels=whole([one.labels for one in attempts]),
        losses=whole([one.losses for one in attempts]),
        evaluations=whole([one.evaluations for one in attempts]),
        converged=whole([one.converged for one in attempts]),
        parts={name: whole([one.parts[name] for one in attempts]) for name in attempts[0].parts},
    )
