"""Attack each case one way, and score what was found."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from adversary.attacks import ATTACKS
from adversary.diffusion.errors import errors
from adversary.diffusion.polish import joint
from adversary.diffusion.timesteps import find_timesteps
from adversary.matching import match
from adversary.metrics import mse, psnr, ssim
from adversary.problem import Attempt, Problem, frozen_model
from adversary.reconstruct import Attack, reconstruct
from benchmarks.common import median, share
from benchmarks.gidm.cases import Case
from fedsim.options import build
from fedsim.tasks.ddim import ddim_sample

Row = dict[str, Any]
GOOD = 30.0
"""PSNR in dB from which a start counts as a success."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Joint descent, the baseline: L-BFGS over noisy image and target from noise, the timestep read off."""

    needs: ClassVar[frozenset[str]] = frozenset()
    max_images: ClassVar[int] = 1

    max_evaluations: int = 200

    def attack(self, problem: Problem) -> Attempt:
        """Return what it reaches from one start."""
        images, noise = problem.draw(2, problem.batch_size, *problem.task.input_shape).unbind(dim=1)
        return joint(problem, images.sigmoid(), noise, find_timesteps(problem), self.max_evaluations)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of attacking: a row of the table."""

    name: str
    attack: str
    """Of the registry, or `joint`, `prior`, `nearest`, `timesteps`."""
    options: Mapping[str, Any]
    known: bool = False
    """Whether timestep and noise are granted."""
    restarts: int = 1


def measure(way: Way, cases: Iterable[Case], others: Tensor, progress: Callable[[Row], None]) -> list[Row]:
    """Return a row for each image of the cases; the nearest is looked for among `others` (N, C, H, W)."""
    rows = []
    for case in cases:
        worked = time.process_time()
        found = _rows(way, case, others)
        spent = (time.process_time() - worked) / len(found)
        for row in found:
            row |= {"case": case.number, "cpu_seconds": spent}
            progress(row)
        rows += found
    return rows


def _rows(way: Way, case: Case, others: Tensor) -> list[Row]:
    if way.attack == "timesteps":
        found = find_timesteps(case.problem)[0].tolist()
        drawn = sorted(case.timesteps.tolist())
        return [{"timestep": one, "timestep_found": t} for one, t in zip(drawn, found, strict=True)]
    if way.attack in ("prior", "nearest"):
        return [_reference(way, case, others)]
    return _attacked(way, case)


def _attacked(way: Way, case: Case) -> list[Row]:
    attack: Attack = (
        Joint(**way.options)
        if way.attack == "joint"
        else build(ATTACKS.resolve(way.attack, "attack"), way.options, way.attack)
    )
    problem = case.granted if way.known else case.problem
    (found,) = reconstruct(attack, problem, restarts=way.restarts)
    images, draws = found.images.nan_to_num(0.5), (case.timesteps, case.noise)
    rest = errors(case.task, found.images, found.parts, case.image, draws)
    pairs = match(images, case.image)
    told = {"status": found.status, "loss": found.loss, "starts": found.restarts}
    return [
        {**_closeness(images[[pair]], truth[None]), **more, **told, "evaluations": found.evaluations}
        for truth, pair, more in zip(case.image, pairs, rest, strict=True)
    ]


def _reference(way: Way, case: Case, others: Tensor) -> Row:
    """Return the scores of what needs no gradient: what the model draws, or the nearest other image."""
    if way.attack == "nearest":
        gaps = mse(others, case.image)
        image = others[int(gaps.argmin())][None]
    else:
        latents, model = case.problem.draw_images()[0], case.problem.model
        if "prior" in way.options:
            model = frozen_model(case.task, load_file(way.options["prior"]))
        with torch.no_grad():
            image = ddim_sample(case.task, model, latents, min(16, case.task.timesteps))
        image = image.float().nan_to_num(0.5)
    return _closeness(image, case.image) | {"timestep": int(case.timesteps[0]), "status": "-"}


def _closeness(image: Tensor, truth: Tensor) -> Row:
    return {"psnr": float(psnr(image, truth)), "ssim": float(ssim(image, truth))}


QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
ENOUGH = 20
KEYS = ("psnr", "ssim", "noisy_psnr", "noise_error", "evaluations", "cpu_seconds", "amplification")


def figures(rows: list[Row], timesteps: int) -> dict[str, Any]:
    """Return medians and shares over rows: all of them and, of ENOUGH, those of each quarter of T."""
    parts = {"all": rows}
    for number, quarter in enumerate(QUARTERS if len(rows) >= ENOUGH else ()):
        parts[quarter] = [row for row in rows if 4 * row["timestep"] // timesteps == number]
    return {name: _figures(part) for name, part in parts.items() if part}


def _figures(rows: list[Row]) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(rows)}
    for key in KEYS:
        values = [row[key] for row in rows if row.get(key) is not None]
        found[key] = median(values) if values else None
    if "timestep_found" in rows[0]:
        found["timestep"] = share([row["timestep_found"] == row["timestep"] for row in rows])
    if "psnr" in rows[0]:
        found["success"] = share([row["psnr"] >= GOOD for row in rows])
        found["first start"] = share([row["psnr"] >= GOOD and row.get("starts", 1) == 1 for row in rows])
    return found
