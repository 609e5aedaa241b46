"""What is attacked: captures with their task, and, where there is one, the truth to score against."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from adversary.captures import Capture
from fedsim.errors import InputError
from fedsim.scenario.schema import Scenario
from fedsim.simulation.federation import (
    Cohorts,
    client_images,
    cohorts_of,
    draws_of,
    federation_at,
    truth_of,
)
from fedsim.tasks.task import Draws, Task, training_loss

MIXED = "mixed"
"""The cohort of an aggregate over clients with different defences."""
PUBLIC = 600
"""Images of the test split that stand for what the public has."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What scoring compares with: the images behind an upload, and all those that its clients hold."""

    images: Tensor
    labels: Tensor
    own: Tensor
    draws: Draws | None = None
    """Timesteps (m,) and noise (m, C, H, W) that the client drew in training, in its order; None for none."""
    drawn_for: Tensor | None = None
    """(m,): the position in `images` of the image that each was drawn for."""

    def loss(self, task: Task) -> Callable[[nn.Module], Tensor]:
        """Return the training loss of the batch as a function of the model, in float64."""
        rows = slice(None) if self.drawn_for is None else self.drawn_for
        images, labels = self.images.double()[rows], self.labels[rows]
        return lambda model: training_loss(task, model, images, labels, self.draws)


class Target(Hashable, Protocol):
    """Captures, their task, and what is known of the clients behind them."""

    @property
    def scenario(self) -> Scenario:
        """Return the scenario: seed, recipe, defences, adversary."""

    @property
    def captures(self) -> Path:
        """Return the folder of the captures."""

    @property
    def task(self) -> tuple[str, str | None]:
        """Return the task's `module:function` and its argument."""

    def truth(self, capture: Capture) -> Truth | None:
        """Return the truth behind a capture; None where nobody has handed it over."""

    def public(self) -> Tensor | None:
        """Return public images (N, C, H, W) for the blind baseline."""


class RunTarget:
    """The captures of a run: truth and task follow from its scenario."""

    def __init__(self, scenario: Scenario, run: Path) -> None:
        self.scenario = scenario
        self.captures = run / "captures"
        self._file = str(run / "scenario.toml")
        self.task: tuple[str, str | None] = ("fedsim.simulation.federation:task_of", self._file)

    def truth(self, capture: Capture) -> Truth:
        """Recompute batch and draws from scenario, seed, client and round; each image once."""
        clients = capture.clients or (_client(capture),)
        batches = [truth_of(self._file, client, capture.round) for client in clients]
        images = torch.cat([images for images, _ in batches])
        labels = torch.cat([labels for _, labels in batches])
        _, first, which = np.unique(images.flatten(1).numpy(), axis=0, return_index=True, return_inverse=True)
        keep = np.sort(first)
        own = torch.cat([client_images(self._file, client)[0] for client in clients])
        draws = _joined([draws_of(self._file, client, capture.round) for client in clients])
        drawn_for = None if draws is None else torch.from_numpy(np.searchsorted(keep, first[which]))
        return Truth(images[keep], labels[keep], own, draws, drawn_for)

    def public(self) -> Tensor:
        """Return the first images of the test split, which no client holds."""
        test = federation_at(self._file).dataset.test
        return test.batch(range(min(PUBLIC, len(test))))[0]


def _joined(draws: Sequence[Draws | None]) -> Draws | None:
    """Return the draws of several clients, one after the other; None where there are none."""
    present = [one for one in draws if one is not None]
    if not present:
        return None
    timesteps, noise = zip(*present, strict=True)
    return torch.cat(timesteps), torch.cat(noise)


class ForeignTarget:
    """Captures of a user's own Flower app, its task as `module:function`, the truth as npz where it is given.

    The file holds `x` (N, H, W, C) or (N, H, W), uint8, and `y` (N,); `capture` (N,), text, says from which
    capture's batch each image is, and is left out where all are of each.
    """

    def __init__(self, scenario: Scenario, captures: Path, task: str, truth: Path | None) -> None:
        self.scenario, self.captures = scenario, captures
        self.task: tuple[str, str | None] = (task, None)
        self._file = truth

    def truth(self, capture: Capture) -> Truth | None:
        """Return the images that the file gives for this capture."""
        if self._file is None:
            return None
        images, labels, names = self._truths
        chosen = np.ones(len(labels), dtype=bool) if names is None else names == capture.name
        if not chosen.any():
            return None
        picked = torch.from_numpy(chosen)
        return Truth(images[picked], labels[picked], images)

    def public(self) -> Tensor | None:
        """Return the truth's own images: no others of their kind are known."""
        return None if self._file is None else self._truths[0]

    @cached_property
    def _truths(self) -> tuple[Tensor, Tensor, np.ndarray | None]:
        assert self._file is not None
        try:
            with np.load(self._file, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise InputError(
                f"--truth {self._file}: cannot be read ({error}); allowed: npz with x and y"
            ) from None
        return _checked(self._file, arrays)


def _checked(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor, np.ndarray | None]:
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or y is None or x.dtype != np.uint8 or x.ndim not in (3, 4) or y.shape != x.shape[:1]:
        raise InputError(f"--truth {path}: allowed: x uint8 (N, H, W) or (N, H, W, C), and y (N,)")
    pixels = x[..., None] if x.ndim == 3 else x
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).float() / 255
    return images, torch.from_numpy(y.astype(np.int64)), arrays.get("capture")


@dataclass(frozen=True)
class Chains:
    """Which defences stand behind a capture, as far as one chain does."""

    cohorts: Cohorts
    tables: Sequence[Mapping[str, Any]]
    """Names and options, in the order of the scenario."""

    @classmethod
    def of(cls, scenario: Scenario) -> "Chains":
        """Return the chains of a scenario's clients."""
        cohorts = cohorts_of(scenario)
        pairs = zip(scenario.defenses, cohorts.defenses, strict=True)
        return cls(cohorts, [{"name": table.name, **_options(defense)} for table, defense in pairs])

    def cohort(self, capture: Capture) -> str:
        """Return the cohort's name; an aggregate over several cohorts is `mixed`."""
        names = {self.cohorts.cohort_of(client) for client in capture.clients or (capture.client or 0,)}
        return names.pop() if len(names) == 1 else MIXED

    def defenses(self, capture: Capture) -> tuple[Mapping[str, Any], ...]:
        """Return the names and options of a capture's chain; nothing for a mixed aggregate."""
        if self.cohort(capture) == MIXED:
            return ()
        client = (capture.clients or (capture.client or 0,))[0]
        mine = self.cohorts.defense_of(client)
        pairs = zip(self.cohorts.defenses, self.tables, strict=True)
        return tuple(table for defense, table in pairs if any(defense is one for one in mine))


def _options(defense: Any) -> dict[str, Any]:
    """Return a defence's options with every default, and what it was told of the recipe."""
    if not is_dataclass(defense):
        return {}
    return {option.name: getattr(defense, option.name) for option in fields(defense) if option.init}


def _client(capture: Capture) -> int:
    if capture.client is None:
        raise InputError(f"{capture.name}: the capture names no client, and so no truth")
    return capture.client
