"""The noisy images from layers' inputs that are solved for."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from adversary.coordinates import Chart
from adversary.diffusion.inputs import LayerInput, is_solvable, solve_input
from adversary.diffusion.layers import Place, diffusion, recording
from adversary.optimizers.lbfgs import Evaluate, Minimum, Stop, lbfgs
from adversary.problem import Problem

EXCESS = 6
"""How many numbers the solved inputs have to give for each of the noisy image, where so many are had."""
TOLD = 10.0
"""How many times its squared misfit may be left of inputs that the noisy image explains."""
EXACT = 1e-2
"""Misfit above which a solved input is not trusted."""
TRIES = 2
"""Further starts for each further image of a batch."""
CHEAP = 5
"""Evaluations for one by row spaces: these end at the last of the layers and need no Gram matrices."""

Seen = dict[str, Tensor]
"""The inputs (k, C, H, W) of layers, by name."""


def solved_inputs(problem: Problem, where: list[Place]) -> dict[str, LayerInput]:
    """Return by layer the inputs that follow from the gradient of the problem's only capture.

    The first ones that give EXCESS numbers for each pixel; none of those that had entries left out. Nothing
    where none has a number for each pixel: all the others follow from it, and leave open which image it was.
    """
    size, pixels, had, found = problem.batch_size, math.prod(problem.task.input_shape), 0, {}
    solvable = [place for place in where if _is_whole(problem, place) and _is_solvable(problem, place)]
    if not _tells_all((place.shape for place in solvable), pixels):
        return {}
    for place in solvable:
        if had >= EXCESS * pixels:
            break
        layer = problem.model.get_submodule(place.name)
        assert isinstance(layer, torch.nn.Conv2d)
        one = solve_input(layer, place.name, problem.target, place.shape, size)
        if one.misfit < EXACT:
            found[place.name] = one
            had += one.value.numel()
    return found if _tells_all((one.value.shape for one in found.values()), pixels) else {}


def _tells_all(shapes: Iterable[torch.Size], pixels: int) -> bool:
    return max(map(math.prod, shapes), default=0) >= pixels


def _is_whole(problem: Problem, place: Place) -> bool:
    return not any(f"{place.name}.{part}" in problem.present for part in ("weight", "bias"))


def _is_solvable(problem: Problem, place: Place) -> bool:
    return is_solvable(problem.model.get_submodule(place.name), problem.batch_size * place.positions)


def by_inputs(
    problem: Problem, inputs: dict[str, LayerInput], timesteps: Tensor, start: Tensor, max_evaluations: int
) -> Minimum:
    r"""Return the noisy images (B, pixels) at which the layers' inputs are those solved for, by L-BFGS.

    $\sum_l w_l \|a_l(x_t) - a_l\|^2 / \|a_l\|^2$ with weights $1 / misfit_l^2$ that sum to 1, $a_l$ the
    nearest point of the plane: each image of a batch by itself, from `start` (B, pixels), at its timestep
    (B,), in CHEAP times `max_evaluations`. As the plane goes through the others' inputs as well, searches
    end near these. What has been found is therefore kept away from, by a factor $1 + 1 / d$ with d the
    distance in the same measure (deflation: Farrell, Birkisson & Funke 2015), in searches from further
    starts. Every second search is in natural coordinates, for what little noise leaves a smooth image: from
    there pixels take several times as long, or stall. `converged` (B,) are those explained.
    """
    size, enough = len(start), TOLD * misfit(inputs) ** 2
    points, losses = start.clone(), torch.full_like(start[:, 0], math.inf)
    spent, taken = torch.zeros(size, dtype=torch.int64), list[Seen]()
    for attempt in range(2 + TRIES * (size - 1)):
        rows = (losses > enough).nonzero().flatten()
        if not len(rows):
            break
        chart = Chart(tuple(problem.task.input_shape), "natural" if attempt % 2 else "pixels")
        search = _gaps(problem, inputs, timesteps[rows], chart, list(taken))
        stop = Stop(max_evaluations=CHEAP * max_evaluations, patience=50, min_progress=0.05)
        begun = chart.of(start[rows].roll(attempt // 2, dims=1).reshape(-1, *chart.shape))
        targets = torch.full_like(begun[:, 0], 1e-3 * misfit(inputs) ** 2)
        reached = lbfgs(search, begun, stop, targets=targets)
        spent[rows.cpu()] += reached.evaluations
        with torch.no_grad():
            found = chart.images(reached.points).flatten(1)
            ends = _inputs_at(problem, inputs, found, timesteps[rows])
        left = _unexplained(inputs, ends)
        for place, row in enumerate(rows.tolist()):
            seen = {name: values[place : place + 1] for name, values in ends.items()}
            if left[place] < losses[row] and not _is_taken(inputs, seen, taken):
                points[row], losses[row] = found[place], left[place]
                taken += [seen] if left[place] <= enough else []
    return Minimum(points, losses, spent, (losses <= enough).cpu())


def _gaps(
    problem: Problem, inputs: dict[str, LayerInput], timesteps: Tensor, chart: Chart, taken: Sequence[Seen]
) -> Evaluate:
    """Return what evaluates charted noisy images (k, n) at `timesteps`, away from what is `taken`."""

    def evaluate(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        point = points.detach().requires_grad_()
        with torch.enable_grad():
            seen = _inputs_at(problem, inputs, chart.images(point), timesteps[rows])
            losses = _unexplained(inputs, seen)
            for other in taken:
                losses = losses * (1 + 1 / _distance(inputs, seen, other))
        return losses.detach(), torch.autograd.grad(losses.sum(), point)[0]

    return evaluate


def _inputs_at(problem: Problem, inputs: dict[str, LayerInput], points: Tensor, timesteps: Tensor) -> Seen:
    """Return what goes into the layers at noisy images (k, pixels)."""
    task = diffusion(problem)
    with recording(problem.model, list(inputs), enough=True) as seen:
        task.predict(problem.model, points.reshape(-1, *task.input_shape), timesteps)
    return {name: seen[name][0] for name in inputs}


def _unexplained(inputs: dict[str, LayerInput], seen: Seen) -> Tensor:
    """Return how far inputs are from those solved for, squared, over the length of these (k,)."""
    shares = _shares(inputs)
    return torch.stack([shares[name] * one.gap(seen[name]) for name, one in inputs.items()]).sum(dim=0)


def _distance(inputs: dict[str, LayerInput], seen: Seen, other: Seen) -> Tensor:
    """Return how far inputs are from another one's, squared, over its length (k,)."""
    shares, tiny = _shares(inputs), torch.finfo(torch.float64).tiny
    parts = [
        shares[name] * (seen[name] - one).flatten(1).square().sum(dim=1) / one.square().sum()
        for name, one in other.items()
    ]
    return torch.stack(parts).sum(dim=0).clamp(min=tiny)


def _is_taken(inputs: dict[str, LayerInput], seen: Seen, taken: Sequence[Seen]) -> bool:
    """Return whether inputs are what was found before: at equal timesteps two searches may find the same."""
    return any(float(_distance(inputs, seen, other)) < TOLD * misfit(inputs) ** 2 for other in taken)


def _shares(inputs: dict[str, LayerInput]) -> dict[str, float]:
    total = sum(one.weight for one in inputs.values())
    return {name: one.weight / total for name, one in inputs.items()}


def misfit(inputs: dict[str, LayerInput]) -> float:
    """Return the root mean square of the misfits, by their weights: 1 / sqrt(mean(1 / misfit^2))."""
    return math.sqrt(len(inputs) / sum(one.weight for one in inputs.values()))
