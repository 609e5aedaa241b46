"""The public call of an attack: restarts, the choice among them, statuses; its author writes none of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from adversary.counting import independent_equations, unknowns
from adversary.problem import Attempt, Problem, Reconstruction, Status
from fedsim.seeds import derive


class Attack(Protocol):
    """An attack: a frozen, keyword-only dataclass of hyperparameters with one method."""

    needs: ClassVar[frozenset[str]]
    """Capabilities that the threat model must grant."""
    max_images: ClassVar[int]
    """The largest batch that it takes on."""

    def attack(self, problem: Problem) -> Attempt:
        """Return what was found from one start per capture."""
        ...


@dataclass
class _Best:
    """The best attempt of each capture so far, by matching loss, never by the truth."""

    images: Tensor
    labels: Tensor
    parts: dict[str, Tensor]
    losses: list[float]
    converged: list[bool]
    evaluations: list[int]
    restarts: list[int]
    seconds: list[float]


def reconstruct(
    attack: Attack, problem: Problem, *, restarts: int = 1, progress: Callable[[], None] = lambda: None
) -> list[Reconstruction]:
    """Attack every capture from up to `restarts` starts; one whose gradient is explained needs no further.

    The start of a capture follows from its seed and the number of the restart alone.
    """
    best: _Best | None = None
    rows = list(range(len(problem)))
    for number in range(restarts):
        seeds = tuple(derive(seed, "start", number) for seed in problem.seeds)
        begun = time.perf_counter()
        attempt = attack.attack(replace(problem, seeds=seeds).select(rows))
        seconds = (time.perf_counter() - begun) / len(rows)
        best = _first(attempt, seconds) if best is None else _keep(best, attempt, rows, seconds)
        rows = [row for row in range(len(problem)) if not best.converged[row]]
        progress()
        if not rows:
            break
    assert best is not None
    results = [_result(best, row) for row in range(len(problem))]
    return _with_facts(problem, results)


def _first(attempt: Attempt, seconds: float) -> _Best:
    number = len(attempt.losses)
    return _Best(
        images=attempt.images.detach().clone(),
        labels=attempt.labels.detach().clone(),
        parts={name: value.detach().clone() for name, value in attempt.parts.items()},
        losses=attempt.losses.tolist(),
        converged=attempt.converged.tolist(),
        evaluations=attempt.evaluations.tolist(),
        restarts=[1] * number,
        seconds=[seconds] * number,
    )


def _keep(best: _Best, attempt: Attempt, rows: list[int], seconds: float) -> _Best:
    for i, row in enumerate(rows):
        best.evaluations[row] += int(attempt.evaluations[i])
        best.restarts[row] += 1
        best.seconds[row] += seconds
        loss = float(attempt.losses[i])
        if loss < best.losses[row] or best.losses[row] != best.losses[row]:
            best.images[row], best.labels[row] = attempt.images[i], attempt.labels[i]
            for name, value in attempt.parts.items():
                best.parts[name][row] = value[i]
            best.losses[row], best.converged[row] = loss, bool(attempt.converged[i])
    return best


def _result(best: _Best, row: int) -> Reconstruction:
    images = best.images[row]
    return Reconstruction(
        images=images.to(device="cpu", dtype=torch.float32),
        labels=best.labels[row].cpu(),
        loss=best.losses[row],
        evaluations=best.evaluations[row],
        restarts=best.restarts[row],
        status=_status(images, best.converged[row]),
        seconds=best.seconds[row],
        parts={name: value[row].cpu() for name, value in best.parts.items()},
    )


def _status(images: Tensor, converged: bool) -> Status:
    """Diverged: not a number, or on average further than 1 outside [0, 1]; the truth is not asked."""
    outside = (images - images.clamp(0, 1)).square().mean()
    if not torch.isfinite(outside) or outside > 1:
        return "diverged"
    return "converged" if converged else "stalled"


def _with_facts(problem: Problem, results: list[Reconstruction]) -> list[Reconstruction]:
    """Add what says how far a reconstruction can be trusted: equations, unknowns, length of the gradient."""
    lengths = [torch.linalg.vector_norm(value.flatten(1), dim=1) for value in problem.target.values()]
    signals = torch.linalg.vector_norm(torch.stack(lengths), dim=0).tolist()
    facts = zip(results, independent_equations(problem), signals, strict=True)
    return [
        replace(result, equations=equations, unknowns=unknowns(problem), signal=signal)
        for result, equations, signal in facts
    ]
