"""From reconstructions to scores and pictures: the only place where the truth is looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from adversary.attacks.match import EXPLAINED
from adversary.baseline import Baseline, blind_baseline
from adversary.captures import Capture, read_capture, read_weights
from adversary.diffusion.errors import errors
from adversary.evidence import observed_update, unit_of
from adversary.jobs import AttackJob, load_task, read_reconstruction
from adversary.matching import match
from adversary.problem import Problem, Reconstruction, frozen_model
from adversary.scoring import KEYS, Origin, Row, failed, score
from fedsim.defenses.chain import snr
from fedsim.simulation.gradients import cosines, gradient_pictures
from fedsim.simulation.pictures import to_picture
from fedsim.simulation.targets import Target, Truth
from fedsim.tasks.diffusion import DiffusionTask

PICTURES = "reconstructions"


class Judge:
    """Scores the reconstructions of one target, and draws them beside the truth."""

    def __init__(self, target: Target, folder: Path, cohorts: Mapping[str, str]) -> None:
        self._target, self._folder, self._cohorts = target, folder, cohorts
        public = target.public()
        enough = public is not None and len(public) >= 2
        self.baseline: Baseline | None = (
            blind_baseline(public, seed=target.scenario.seed) if public is not None and enough else None
        )

    def rows(self, job: AttackJob, name: str, reason: str | None = None) -> list[Row]:
        """Return the score rows of one capture's reconstruction; `reason` is why there is none.

        Without a truth the rows have null scores; the pictures are drawn all the same.
        """
        capture, truth = self._truth(name)
        origin = Origin(
            capture=name,
            round=capture.round,
            client=capture.client,
            attack=job.attack,
            adaptive=job.adaptive,
            defense=self._cohorts[name],
        )
        if reason is not None:
            return [] if truth is None else failed(truth.labels, len(truth.own), origin, reason)
        result = read_reconstruction(job.file(name))
        if truth is None or self.baseline is None:
            return unscored(result, origin, self._draw(job.file(name).stem, result.images))
        scored = score(result, truth.images, truth.labels, truth.own, self.baseline, origin)
        shown = self._shown(result, truth)
        pictures = self._draw(job.file(name).stem, shown)
        truths = self._draw(f"{name}--truth", truth.images)
        for row in scored:
            row["picture"], row["truth_picture"] = pictures[row["index"]], truths[row["index"]]
        self._add_parts(scored, result, truth, job.file(name).stem)
        if "gradient" in result.parts:
            self._add_gradient(scored, result.parts["gradient"][0], capture, truth, job.file(name).stem)
        return scored

    def _add_parts(self, rows: list[Row], result: Reconstruction, truth: Truth, stem: str) -> None:
        """Add what is known of a diffusion gradient besides its images: errors, and pictures of phase 1."""
        task = load_task(*self._target.task)
        if not isinstance(task, DiffusionTask) or truth.draws is None or truth.drawn_for is None:
            return
        if "noisy" in result.parts and len(truth.drawn_for) == len(truth.images):
            order = truth.drawn_for.argsort()
            draws = (truth.draws[0][order], truth.draws[1][order])
            found = errors(task, result.images, result.parts, truth.images, draws)
            for row in rows:
                row |= found[row["index"]]
        if "phase1" in result.parts:
            first = replace(result, images=result.parts["phase1"].float())
            pictures = self._draw(f"{stem}--phase1", self._shown(first, truth))
            for row in rows:
                row["phase1_picture"] = pictures[row["index"]]

    def _add_gradient(
        self, rows: list[Row], found: Tensor, capture: Capture, truth: Truth, stem: str
    ) -> None:
        """Add what was made of a gradient: cosines with the clean one, and pictures of all three."""
        clean = self._gradient(capture, truth)
        if clean is None:
            return
        weights = read_weights(self._target.captures, capture.weights)
        unit = unit_of(capture.upload, self._target.scenario.training.learning_rate)
        sent = {name: value / unit for name, value in observed_update(capture, weights, list(clean)).items()}
        flat = [torch.cat([value.flatten() for value in one.values()]) for one in (clean, sent)]
        trio = (flat[0], flat[1], found.to(flat[0]))
        drawn = gradient_pictures(*trio)
        paths = {name: self._draw(f"{stem}--gradient-{name}", one[None])[0] for name, one in drawn.items()}
        for row in rows:
            row |= {**cosines(*trio), "gradient_pictures": paths}

    def snr(self, names: list[str]) -> float | None:
        """Return the median strength of the defence over some captures, `||u|| / ||disturbance||`.

        The undefended update is recomputed from the truth; None where a client made more than one step.
        """
        measured = [value for value in map(self._snr, names) if value is not None]
        return float(torch.tensor(measured).median()) if measured else None

    def _snr(self, name: str) -> float | None:
        capture, truth = self._truth(name)
        gradient = None if truth is None else self._gradient(capture, truth)
        if gradient is None:
            return None
        weights = read_weights(self._target.captures, capture.weights)
        unit = unit_of(capture.upload, self._target.scenario.training.learning_rate)
        before = {parameter: unit * value for parameter, value in gradient.items()}
        strength = snr(before, observed_update(capture, weights, list(gradient)))
        # Rounding in float32 is no defence.
        return strength if strength < EXPLAINED**-0.5 else None

    def _gradient(self, capture: Capture, truth: Truth) -> dict[str, Tensor] | None:
        """Return the clean gradient behind an upload; None where it is not one step of one client."""
        if self._target.scenario.training.algorithm != "fedsgd" or capture.clients:
            return None
        weights = read_weights(self._target.captures, capture.weights)
        task = load_task(*self._target.task)
        problem = Problem(task=task, model=frozen_model(task, weights), target={}, seeds=())
        return problem.gradient_of(truth.loss(task))

    def _truth(self, name: str) -> tuple[Capture, Truth | None]:
        return _remembered(self._target, name)

    def _shown(self, result: Reconstruction, truth: Truth) -> Tensor:
        """Return the reconstruction in the order of the truth; mid-grey where there is none."""
        images = result.images.nan_to_num(0.5, 0.5, 0.5)
        grey = torch.full(truth.images.shape[1:], 0.5)
        pairs = match(images, truth.images)
        return torch.stack([grey if pair is None else images[pair] for pair in pairs])

    def _draw(self, stem: str, images: Tensor) -> list[str]:
        """Write images as PNG and return their paths, relative to the run folder."""
        names = [f"{PICTURES}/{stem}-{index}.png" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            path = self._folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                to_picture(image).save(path)
        return names


def unscored(result: Reconstruction, origin: Origin, pictures: Sequence[str]) -> list[Row]:
    """Return a row for each image that has no truth beside it: all scores null."""
    told = {key: getattr(result, key) for key in ("status", "loss", "evaluations", "restarts", "seconds")}
    row = dict.fromkeys(KEYS) | asdict(origin) | told
    labels = result.labels.tolist()
    return [
        row | {"index": index, "label_found": label, "picture": picture}
        for index, (label, picture) in enumerate(zip(labels, pictures, strict=True))
    ]


@lru_cache(maxsize=64)
def _remembered(target: Target, name: str) -> tuple[Capture, Truth | None]:
    capture = read_capture(target.captures / f"{name}.safetensors")
    return capture, target.truth(capture)
