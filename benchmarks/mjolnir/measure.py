"""Denoise the same noisy gradients in each way, attack what comes out, and score gradient and image."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from adversary.attacks.idlg import IDLG
from adversary.attacks.mjolnir import Mjolnir
from adversary.labels import infer_labels
from adversary.metrics import mse, ssim
from adversary.mjolnir.around import mended
from adversary.mjolnir.baselines import Statistics, rank_one, shrinkage, wiener
from adversary.mjolnir.denoisers import public_images
from adversary.mjolnir.level import estimated_level, shown_ratio
from adversary.mjolnir.surrogate import RANGE, Surrogate
from adversary.mjolnir.vectors import (
    cosine,
    flatten,
    gradient_psnr,
    presence,
    signal_to_noise,
    unflatten,
)
from adversary.problem import Problem
from benchmarks.victims import Group, Victim
from fedsim.options import require

Row = dict[str, Any]
ENOUGH = (0.5, 0.03)
"""SSIM and MSE of an image that counts as found."""
SENSITIVITY, DELTA = 2 * 0.001 * 10, 1e-4
"""Of the paper: twice learning rate times clipping norm, as if the update were clipped."""
MAP = "MAP, no denoiser"
AT_TRUTH = "MAP, started at the truth"
"""An oracle: tells whether MAP is held back by its starts or by its prior."""
PRIORS = {"MAP, half its prior": 0.5, "MAP, twice its prior": 2.0}
"""Controls: whether the bar would be higher, were its prior weighed by other noise than there is."""
DENOISED = "unrolled"
OURS = "unrolled, mended"
"""Also what the upload itself says beyond the image found: the attack as it is by default up to a ratio of
`adversary.attacks.mjolnir.WEAK`, above which it is MAP."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One model, victims that computed a gradient on it each, and what the attacker prepared."""

    group: Group
    seed: int
    public: str
    """Data set of the surrogate's images."""
    split: Literal["train", "test"]
    """Of that data set: none that victims are drawn from."""
    gradients: int
    """Of the surrogate, behind the class means and the principal directions."""
    updates: int
    training_seed: int
    cache: Path | None
    before: tuple[Mapping[str, Any], ...]
    """Defences that act before the noise: clipping, masking."""
    granted: bool
    """Whether the labels are granted, or read off the noisy gradient."""
    evaluations: int
    """Of the attack that follows; twice as many where it is all there is (MAP)."""

    @cached_property
    def truth(self) -> Tensor:
        """Return the clean gradients (n, d), clipped where the defence clips."""
        clipping = tuple(one for one in self.before if one["name"] == "clipping")
        return flatten(self.group.problem(Victim(defenses=clipping), self.seed).target)

    @cached_property
    def sent(self) -> Tensor:
        """Return the gradients (n, d) to which noise is added."""
        return flatten(self.group.problem(Victim(defenses=self.before), self.seed).target)

    @cached_property
    def there(self) -> Tensor:
        """Return which entries (n, d) are sent."""
        problem = self.group.problem(Victim(defenses=self.before, adaptive=True), self.seed)
        return presence(problem.present, problem.target)

    @cached_property
    def surrogate(self) -> Surrogate:
        """Return the surrogate client. Raises InputError where it would have victims' images."""
        problem = self.group.problem(Victim(defenses=self.before, adaptive=True), self.seed)
        public = public_images(self.public, {}, self.split, 8000)
        victims = {image.numpy().tobytes() for image in self.group.images[:, 0]}
        theirs = any(image.numpy().tobytes() in victims for image in public)
        require(not theirs, "--surrogate", self.public, "a data set without the victims' images")
        return Surrogate.of(problem, public)

    @cached_property
    def statistics(self) -> Statistics:
        """Return what surrogate gradients have in common."""
        return Statistics(self.surrogate, self.gradients, self.seed)

    def noisy(self, std: float, distribution: str, device: str = "cpu") -> Problem:
        """Return the problem of the gradients under noise of this standard deviation, which is declared."""
        noising = {"name": "noising", "std": std, "distribution": distribution}
        victim = Victim(defenses=(*self.before, noising), adaptive=True, labels_known=self.granted)
        problem = self.group.problem(victim, self.seed, device=device)
        return problem if self.granted else replace(problem, labels=infer_labels(problem))

    def mjolnir(self, **options: Any) -> Mjolnir:
        """Return the attack with the scene's surrogate and cache."""
        cache = None if self.cache is None else str(self.cache)
        return Mjolnir(
            surrogate=self.public,
            split=self.split,
            updates=self.updates,
            training_seed=self.training_seed,
            cache=cache,
            **options,
        )


Clean = Callable[[Scene, Problem, Tensor], Tensor]
"""(scene, noisy problem with labels, noise (n,)) -> clean gradients (n, d)."""


def _by_mjolnir(estimated: bool = False, **options: Any) -> Clean:
    def clean(scene: Scene, problem: Problem, std: Tensor) -> Tensor:
        attack, level = scene.mjolnir(**options), estimated_level(problem) if estimated else std
        rows, noisy = flatten(problem.target), shown_ratio(problem, level) <= RANGE[1]
        if bool(noisy.any()):  # the denoiser has never seen weaker noise: those stay as they are
            rows = torch.where(noisy[:, None], flatten(attack.clean(problem, level).target), rows)
        return rows

    return clean


def _labels(problem: Problem) -> Tensor:
    assert problem.labels is not None
    return problem.labels[:, 0]


BASELINES: dict[str, Clean] = {
    "identity": lambda _, problem, __: flatten(problem.target),
    "shrinkage": lambda _, problem, std: shrinkage(problem, std),
    "Wiener, oracle": lambda scene, problem, std: wiener(problem, std, scene.truth),
    "PCA": lambda scene, problem, std: scene.statistics.pca(
        flatten(problem.target), std, _labels(problem), presence(problem.present, problem.target)
    ),
    "rank 1": lambda _, problem, __: rank_one(problem),
    "class mean": lambda scene, problem, std: scene.statistics.class_means(_labels(problem)).to(std),
}
DENOISERS: dict[str, Clean] = {
    DENOISED: _by_mjolnir(),
    OURS: _by_mjolnir(),
    "unrolled, level estimated": _by_mjolnir(estimated=True),
    "unrolled, DDIM": _by_mjolnir(sampling="ddim"),
    "squares": _by_mjolnir(denoiser="squares", sampling="ancestral"),
    "squares, mean": _by_mjolnir(denoiser="squares"),
    "squares, fixed": _by_mjolnir(denoiser="squares", variant="fixed", sampling="ancestral"),
    "squares, conditional": _by_mjolnir(denoiser="squares", variant="conditional", sampling="ddim"),
}
SEARCHES: dict[str, Clean | None] = dict.fromkeys((MAP, AT_TRUTH, *PRIORS))
METHODS = {**BASELINES, **SEARCHES, **DENOISERS}
"""None: the noisy gradients go to the adaptive attack as they are."""


def measure(scene: Scene, std: float, distribution: str, names: list[str], images: bool) -> Iterator[Row]:
    """Yield for each method the scores of every victim, as lists."""
    problem = scene.noisy(std, distribution)
    level = torch.full((len(problem),), std, dtype=problem.like.dtype)
    for name in names:
        worked = time.process_time()
        clean = METHODS[name]
        row: Row = {"method": name}
        if clean is None:
            start = scene.group.images if name == AT_TRUTH else None
            told = told_noise(problem, PRIORS.get(name, 1.0))
            found, rows = _inverted(scene, told, 2 * scene.evaluations, start)
            row |= _image_scores(scene, found)
        else:
            rows = clean(scene, problem, level)
            if images or name == OURS:
                found, _ = _inverted(scene, handed_on(problem, name, rows), scene.evaluations)
                if name == OURS:
                    found, rows = _mended(scene, problem, found)
                row |= _image_scores(scene, found)
        row["cpu_seconds"] = (time.process_time() - worked) / len(problem)
        row |= _gradient_scores(scene, rows)
        row["snr"] = signal_to_noise(scene.sent, std, scene.there).tolist()
        row["label_right"] = (_labels(problem) == scene.group.labels[:, 0]).tolist()
        yield row


def handed_on(problem: Problem, name: str, rows: Tensor) -> Problem:
    """Return the problem that the attack is given after a method made clean gradients (n, d).

    Whole gradients, of which nothing is left of the defence, by `unrolled`; by all others gradients as they
    were sent, clipped and with the same entries absent, of which the attack knows.
    """
    target = unflatten(rows, problem.target)
    if name.startswith(DENOISED):
        return replace(problem, target=target, present={}, knowledge=None)
    assert problem.knowledge is not None
    return replace(problem, target=target, knowledge=replace(problem.knowledge, noise_std=0.0))


def told_noise(problem: Problem, times: float) -> Problem:
    """Return the problem of an attacker who takes the noise for so many times what it is.

    MAP weighs its prior by it, and uses it for nothing else in what it finds.
    """
    known = problem.knowledge
    assert known is not None
    return replace(problem, knowledge=replace(known, noise_std=times * known.noise_std))


def _inverted(
    scene: Scene, problem: Problem, evaluations: int, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the images (n, C, H, W) that the attack finds, and the gradients (n, d) that they have."""
    attack = IDLG(max_evaluations=evaluations)
    found = attack.attack(problem) if start is None else attack.search(problem, start)
    images = found.images.nan_to_num(0.5)
    rows = scene.surrogate.gradients(images.float(), found.labels)
    return images[:, 0], rows.to(problem.like)


def _mended(scene: Scene, problem: Problem, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (n, C, H, W) mended by the noisy gradients, and the gradients (n, d) that they have."""
    labels = problem.labels
    assert labels is not None
    spent = scene.mjolnir().mending
    found, _ = mended(problem, images[:, None].to(problem.like), labels, max_evaluations=spent)
    found = found.nan_to_num(0.5)
    return found[:, 0], scene.surrogate.gradients(found.float(), labels).to(problem.like)


def _image_scores(scene: Scene, images: Tensor) -> Row:
    truth = scene.group.images[:, 0]
    likeness, error = ssim(images.float(), truth), mse(images.float(), truth)
    success = (likeness >= ENOUGH[0]) & (error <= ENOUGH[1])
    return {"ssim": likeness.tolist(), "mse": error.tolist(), "success": success.tolist()}


def _gradient_scores(scene: Scene, rows: Tensor) -> Row:
    """Return cosines, as they are and after the mean surrogate gradient of the true label is taken away.

    What is found is clipped as what was sent.
    """
    rows, truth = rows.nan_to_num(0.0), scene.truth
    for norm in (one["norm"] for one in scene.before if one["name"] == "clipping"):
        rows = rows * (norm / rows.norm(dim=1).clamp(min=1e-30)).clamp(max=1)[:, None]
    mean = scene.statistics.class_means(scene.group.labels[:, 0]).to(truth)
    return {
        "cosine": cosine(rows, truth).tolist(),
        "centred": cosine(rows - mean, truth - mean).tolist(),
        "gradient_psnr": gradient_psnr(rows, truth).tolist(),
    }


def std_of_epsilon(epsilon: float, distribution: str = "gaussian") -> float:
    """Return the standard deviation of the paper's noise of an epsilon, Gaussian or Laplace mechanism."""
    laplace = distribution == "laplace"  # of scale SENSITIVITY / epsilon
    return SENSITIVITY * math.sqrt(2 if laplace else 2 * math.log(1.25 / DELTA)) / epsilon


def epsilon_of(std: float, distribution: str) -> float:
    """Return the epsilon whose noise in the paper has this standard deviation."""
    return std_of_epsilon(std, distribution)  # their product is fixed


def std_of_ratio(scene: Scene, ratio: float) -> float:
    """Return the noise at which the median victim's signal-to-noise ratio is this one, over what is sent."""
    entries = scene.there.sum(dim=1)
    lengths = scene.sent.norm(dim=1) * (scene.sent.shape[1] / entries).sqrt()
    return float(lengths.median()) / (ratio * math.sqrt(scene.sent.shape[1]))
