"""From captures to a problem: the observed gradient, the entries that count, the knowledge of the defence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from adversary.batchnorm import observed_statistics
from adversary.captures import Capture
from adversary.problem import Problem
from fedsim.defenses.chain import Chain
from fedsim.defenses.upload import Adaptive, Defense
from fedsim.tasks.task import Task
from fedsim.training import Recipe


def unit_of(upload: str, learning_rate: float, steps: int = 1) -> float:
    """Return what one unit of gradient becomes in an upload of this kind.

    An update (and a difference of weights) of k SGD steps is about -k * lr * gradient, a `gradient` upload
    that divided by -lr: the sum over the steps.
    """
    return float(steps) if upload == "gradient" else -learning_rate * steps


def observed_update(
    capture: Capture, weights: Mapping[str, Tensor], names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the upload as an update (or gradient) by parameter, in float64; absent entries are zero."""
    values = {}
    for name in names:
        value = capture.arrays[name].double()
        if capture.upload == "weights":
            value = value - weights[name].double()
        values[name] = value * capture.present[name] if name in capture.present else value
    return values


def build_problem(
    captures: Sequence[Capture],
    weights: Mapping[str, Tensor],
    task: Task,
    model: nn.Module,
    *,
    learning_rate: float,
    steps: int = 1,
    batch_size: int,
    seeds: Sequence[int],
    defenses: Sequence[Defense] | None = None,
    labels: Tensor | None = None,
    recipe: Recipe | None = None,
    own_statistics: bool = False,
) -> Problem:
    """Return the problem of attacking captures that share weights, kind of upload, defence and batch size.

    `defenses` is the chain that the attacker knows of, None for the naive attacker; `own_statistics` grants
    the BatchNorm statistics of the client's own batch (`observed_statistics`). Raises ValueError if an
    array of the model is missing from a capture, or if a known defence has no adaptive counter.
    """
    like = next(model.parameters())
    names = [name for name, _ in model.named_parameters()]
    unit = unit_of(captures[0].upload, learning_rate, steps)
    updates = _updates(captures, weights, names)
    one_step = unit_of(captures[0].upload, learning_rate)
    knowledge = None if defenses is None else _knowledge(defenses, one_step, len(captures[0].clients))
    target = {name: torch.stack([update[name] for update in updates]) / unit for name in names}
    statistics = observed_statistics(captures, weights, model, own=own_statistics, steps=steps)
    return Problem(
        task=task,
        model=model,
        target={name: value.to(like) for name, value in target.items()},
        present=_present(captures, updates, knowledge, like.device),
        slack={name: (width / abs(unit)).to(like) for name, width in _slack(updates, knowledge).items()},
        unit=unit,
        batch_size=batch_size,
        seeds=tuple(seeds),
        labels=labels,
        statistics={name: (mean.to(like), var.to(like)) for name, (mean, var) in statistics.items()},
        own_statistics=own_statistics,
        recipe=recipe,
        knowledge=knowledge,
    )


def _updates(
    captures: Sequence[Capture], weights: Mapping[str, Tensor], names: Sequence[str]
) -> list[dict[str, Tensor]]:
    missing = [name for capture in captures for name in names if name not in capture.arrays]
    if missing:
        raise ValueError(f"the capture lacks {missing[0]!r}, a parameter of the task's model")
    return [observed_update(capture, weights, names) for capture in captures]


def _knowledge(defenses: Sequence[Defense], unit: float, clients: int) -> Adaptive:
    """Return what is done about a chain; in the mean over `clients` of equal weight their noises average."""
    knowledge = Chain(tuple(defenses)).adaptive(unit)
    if knowledge is None:
        raise ValueError("adaptive: none")
    return replace(knowledge, noise_std=knowledge.noise_std / math.sqrt(max(1, clients)))


def _present(
    captures: Sequence[Capture],
    updates: Sequence[Mapping[str, Tensor]],
    knowledge: Adaptive | None,
    device: torch.device,
) -> dict[str, Tensor]:
    """Return the masks of the entries that count, stacked; none for the naive attacker."""
    if knowledge is None:
        return {}
    masks = [_masks(c, u, knowledge) for c, u in zip(captures, updates, strict=True)]
    names = [name for name in updates[0] if any(name in mask for mask in masks)]
    whole = {name: torch.ones_like(updates[0][name], dtype=torch.bool) for name in names}
    return {name: torch.stack([mask.get(name, whole[name]) for mask in masks]).to(device) for name in names}


def _masks(capture: Capture, update: Mapping[str, Tensor], knowledge: Adaptive) -> dict[str, Tensor]:
    """Return the masks that came with the capture, and those that the attacker infers from the values."""
    masks = {name: mask for name, mask in capture.present.items() if name in update}
    if knowledge.present is not None:
        for name, mask in knowledge.present(update).items():
            masks[name] = mask & masks[name] if name in masks else mask
    return masks


def _slack(updates: Sequence[Mapping[str, Tensor]], knowledge: Adaptive | None) -> dict[str, Tensor]:
    """Return how far the undisturbed updates may be from those observed, stacked, in the upload's units."""
    if knowledge is None or knowledge.slack is None:
        return {}
    widths = [knowledge.slack(update) for update in updates]
    return {name: torch.stack([width[name] for width in widths]) for name in updates[0]}
