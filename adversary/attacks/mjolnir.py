"""Mjolnir: bring a perturbed gradient back with what surrogate data teach, then attack it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from adversary.attacks import ATTACKS
from adversary.attacks.match import EXPLAINED
from adversary.labels import infer_labels
from adversary.lockstep import matching_losses
from adversary.mjolnir.around import mended
from adversary.mjolnir.chain import Sampling, drawn, reverse
from adversary.mjolnir.denoisers import RECIPES, GradientDenoiser, Kind, public_images, ready
from adversary.mjolnir.level import declared_level, estimated_level, shown_ratio
from adversary.mjolnir.store import folder_of
from adversary.mjolnir.surrogate import Surrogate, after_defense
from adversary.mjolnir.unrolled import noise_range
from adversary.mjolnir.vectors import flatten, unflatten
from adversary.objectives import noise_floor
from adversary.precision import cast
from adversary.problem import Attempt, Problem
from adversary.reconstruct import Attack
from fedsim.defenses.upload import Adaptive
from fedsim.options import build, require
from fedsim.registry import import_object
from fedsim.seeds import torch_generator

Variant = Literal["adaptive", "fixed", "conditional"]
"""Start the chain where the noise belongs; at one level whatever the noise; or from noise alone, shown the
upload."""

WEAK = 4.0
"""Ratio of signal to noise above which denoising loses to the adaptive attack (docs/mjolnir.md)."""
SILENT = 1e3
"""Ratio above which there is no noise to speak of: rounding."""
TOLD_APART = 1.1
"""Ratio of estimated levels from which captures are told different ones."""
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
    denoiser: str = "unrolled"
    """Or `squares`, or `module:name` of a GradientDenoiser, to which only `mending` and `level` mean anything
    of the options below."""
    denoiser_options: Mapping[str, Any] = field(default_factory=dict)
    """Of a denoiser of your own."""
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
    surrogate_seed: int = 0
    """Divides a data set that has no split of its own: the scenario's, where it is the victims' as well."""
    moved: bool = True
    """Whether they are turned, scaled, outlined and layered: needless where they are of the victims' kind."""
    images: int = 8000
    """Public images at most."""
    updates: int = 1600
    """Of the denoiser's training."""
    training_seed: int = 0
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
        if not self._own():
            folder_of(self.cache)

    def attack(self, problem: Problem) -> Attempt:
        """Return what the other attack finds, with the gradients it found it in as the part `gradient`.

        Losses are those of the observed gradients. Raises InputError where the noise cannot be told.
        """
        labels = infer_labels(problem) if problem.labels is None else problem.labels
        known, std = replace(problem, labels=labels), self._level(problem)
        kinds = list(zip(self.is_noisy(problem, std).tolist(), self._levels(problem, std), strict=True))
        attempts, order = [], []
        for kind in sorted(set(kinds)):
            denoise, level = kind
            chosen = [row for row, one in enumerate(kinds) if one == kind]
            part = known.select(chosen)
            told = self._told(part, level)
            given = self.clean(part, std[chosen]) if denoise else told
            found = self._other().attack(given)
            if denoise and self.mending:
                found = self.mend(told, found)
            attempts.append(_judged(found, given, told))
            order += chosen
        return _joined(attempts, order)

    def is_noisy(self, problem: Problem, std: Tensor) -> Tensor:
        """Return whose noise `std` (P,) is strong enough to be worth denoising, (P,).

        Rounds that are joined tell more than one, as if noise were weaker by the root of their number.
        """
        rounds = 1 + len(problem.rounds)
        return shown_ratio(problem, std) * math.sqrt(rounds) <= WEAK

    def clean(self, problem: Problem, std: Tensor) -> Problem:
        """Return the problem with its gradients denoised: exact, and nothing left of the defence.

        But `squares`, a denoiser of gradients as they were sent, leaves them clipped. `std` (P,) is the noise
        on each entry of a gradient; `problem.labels` are needed. Raises InputError for masked uploads, of
        which `squares` knows nothing.
        """
        if own := self._own():
            return own.clean(problem, std)
        whole = self.denoiser == "unrolled"
        require(whole or not problem.present, "denoiser", self.denoiser, "unrolled, for masked uploads")
        single = cast(problem, torch.float32)
        surrogate = Surrogate.of(single, self._public(), self.moved)
        single, std = surrogate.at_length(single, std.to(single.like))
        conditional, base = self.variant == "conditional", RECIPES["unrolled" if whole else "squares"]
        recipe = replace(base, updates=self.updates, conditional=conditional, seed=self.training_seed)
        mean = ready(recipe, surrogate, folder_of(self.cache))(single)
        generators = [torch_generator(seed, "mjolnir") for seed in problem.seeds]
        rows, level = self._start(flatten(single.target), std, surrogate, generators)
        rows = reverse(
            mean,
            rows,
            level,
            steps=self.chain,
            sampling=self.sampling,
            generators=generators,
            weakest=noise_range(surrogate)[0] if whole else 0.0,
            sent=lambda rows: after_defense(single, rows),
        )
        target = unflatten(rows.to(problem.like), problem.target)
        left = None if whole or problem.knowledge is None else replace(problem.knowledge, noise_std=0.0)
        return replace(problem, target=target, present={}, slack={}, rounds=(), knowledge=left)

    def public(self) -> Tensor | None:
        """Return the surrogate's images (N, C, H, W); None where a denoiser of the user's does without."""
        return None if self._own() else self._public()

    def _public(self) -> Tensor:
        options = dict(self.surrogate_options)
        return public_images(self.surrogate, options, self.split, self.images, self.surrogate_seed)

    def _own(self) -> GradientDenoiser | None:
        """Return a denoiser of the user's, None for those here. Raises InputError for what is none."""
        if self.denoiser in (known := get_args(Kind)):
            return None
        require(":" in self.denoiser, "denoiser", self.denoiser, f"{', '.join(known)}, or module:name")
        denoiser = build(import_object(self.denoiser, "denoiser"), self.denoiser_options, "denoiser_options")
        require(hasattr(denoiser, "clean"), "denoiser", self.denoiser, "a GradientDenoiser (with `clean`)")
        own: GradientDenoiser = denoiser
        return own

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
        known = problem.knowledge is not None
        require(known or self.level != "declared", "level", self.level, "estimated: no noise is declared")
        return declared_level(problem) if self._trusts(problem) else estimated_level(problem)

    def _trusts(self, problem: Problem) -> bool:
        """Return whether the noise is as the defence declares it."""
        return problem.knowledge is not None and self.level != "estimated"

    def _levels(self, problem: Problem, std: Tensor) -> list[float]:
        """Return what is told of each capture's noise, in the upload's units; 0: declared, or none.

        What was estimated, on a scale of TOLD_APART: captures of one level go on together, and what a capture
        is told does not depend on its neighbours.
        """
        if self._trusts(problem):
            return [0.0] * len(problem)
        step = math.log(TOLD_APART)
        levels = torch.exp((std.log() / step).round() * step) * abs(problem.unit)
        return torch.where(shown_ratio(problem, std) <= SILENT, levels, 0.0).tolist()

    def _told(self, problem: Problem, level: float) -> Problem:
        """Return the problem with the noise that was estimated in place of what was declared, if anything."""
        if self._trusts(problem) or (problem.knowledge is None and not level):
            return problem
        return replace(problem, knowledge=replace(problem.knowledge or Adaptive(), noise_std=level))

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
