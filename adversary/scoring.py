"""Score reconstructions against the truth, image by image, and sum them up. Rules: docs/metrics.md."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from adversary.baseline import Baseline
from adversary.matching import identified, match
from adversary.metrics import mse, psnr, ssim, ssim_affine

Row = dict[str, Any]
"""One line of `scores.jsonl`: docs/run-folder.md."""

GREY = 0.5
"""What stands in for an image that is missing or not finite."""


class Result(Protocol):
    """What scoring reads of a reconstruction (adversary.problem.Reconstruction)."""

    @property
    def images(self) -> Tensor:
        """Images (B, C, H, W) as found: may leave [0, 1] or not be finite."""

    @property
    def labels(self) -> Tensor:
        """Labels (B,), int64."""

    @property
    def loss(self) -> float:
        """Matching loss."""

    @property
    def evaluations(self) -> int:
        """Gradients computed."""

    @property
    def restarts(self) -> int:
        """Starts tried."""

    @property
    def status(self) -> str:
        """`converged`, `stalled` or `diverged`."""

    @property
    def seconds(self) -> float:
        """Wall-clock time."""

    @property
    def equations(self) -> int:
        """Independent equations that the upload gives, at most."""

    @property
    def unknowns(self) -> int:
        """Pixels of the batch."""

    @property
    def signal(self) -> float:
        """Length of the observed gradient."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which upload was attacked, by what."""

    capture: str
    round: int
    client: int | None
    attack: str
    adaptive: bool = False
    defense: str = "none"


def score(
    result: Result,
    truth: Tensor,
    labels: Tensor,
    own: Tensor,
    baseline: Baseline,
    origin: Origin,
    *,
    picture: str | None = None,
) -> list[Row]:
    """Return a row for each image of the truth (n, C, H, W) in [0, 1], with labels (n,).

    `own` (N, C, H, W) are all images of the client (or of all clients of an aggregate): the truth has
    to be the nearest neighbour. Reconstructions and truth are paired by MSE; a missing one is scored as
    mid-grey, and so is one that is not finite, whose status becomes `diverged`.
    """
    truth, own = truth.detach().cpu(), own.detach().cpu()
    if not len(truth):
        return []
    images, found, broken = _paired(result, truth)
    columns = {
        "mse": mse(images, truth).tolist(),
        "psnr": psnr(images, truth).tolist(),
        "ssim": ssim(images, truth).tolist(),
        "ssim_affine": ssim_affine(images, truth).tolist(),
        "identified": identified(images, truth, own),
        "blind": baseline.score(truth),
        "label": labels.tolist(),
        "label_found": found,
        "status": ["diverged" if bad else result.status for bad in broken],
    }
    effort = {
        "loss": result.loss if math.isfinite(result.loss) else None,
        "evaluations": result.evaluations,
        "restarts": result.restarts,
        "equations": result.equations,
        "unknowns": result.unknowns,
        "signal": result.signal if math.isfinite(result.signal) else None,
        "seconds": result.seconds,
        "picture": picture,
    }
    rows = []
    for index in range(len(truth)):
        row = {name: column[index] for name, column in columns.items()}
        row["chance"] = 1 / max(len(own), 1)
        row["leaked"] = row["ssim_affine"] > baseline.p99 and row["identified"]
        rows.append(_ordered({**_head(origin), "index": index, **row, **effort}))
    return rows


def failed(labels: Tensor, own: int, origin: Origin, reason: str) -> list[Row]:
    """Return the rows of an attack that died: one for each image, with null scores and the reason."""
    rows = []
    for index, label in enumerate(labels.tolist()):
        row = dict.fromkeys(KEYS) | _head(origin)
        row |= {
            "index": index,
            "label": label,
            "identified": False,
            "chance": 1 / max(own, 1),
            "leaked": False,
        }
        rows.append(row | {"status": "failed", "reason": reason})
    return rows


KEYS = (
    *("capture", "round", "client", "attack", "adaptive", "defense", "index"),
    *(
        "mse",
        "psnr",
        "ssim",
        "ssim_affine",
        "label",
        "label_found",
        "identified",
        "chance",
        "blind",
        "leaked",
    ),
    *("status", "loss", "evaluations", "restarts", "equations", "unknowns", "signal", "seconds", "picture"),
)
"""The keys of a row, in order."""


def _head(origin: Origin) -> Row:
    return {
        name: getattr(origin, name)
        for name in ("capture", "round", "client", "attack", "adaptive", "defense")
    }


def _ordered(row: Row) -> Row:
    return {key: row[key] for key in KEYS}


def _paired(result: Result, truth: Tensor) -> tuple[Tensor, list[int | None], list[bool]]:
    """Return for each truth its image, its label and whether the image was not finite."""
    images = result.images.detach().cpu().to(torch.float64)
    finite = images.flatten(1).isfinite().all(dim=1) if len(images) else torch.ones(0, dtype=torch.bool)
    images = torch.where(finite[:, None, None, None], images, GREY)
    pairs = match(images, truth)
    grey = torch.full(truth.shape[1:], GREY, dtype=torch.float64)
    chosen = torch.stack([grey if pair is None else images[pair] for pair in pairs])
    labels = [None if pair is None else int(result.labels[pair]) for pair in pairs]
    found = [None if label == -1 else label for label in labels]
    return chosen, found, [pair is not None and not bool(finite[pair]) for pair in pairs]
