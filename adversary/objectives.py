"""How far a dummy gradient is from the observed one."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from adversary.priors import norm
from adversary.problem import Evidence, Problem
from fedsim.defenses.upload import Adaptive, Values, identity

Distance = Callable[[Tensor, Tensor, tuple[Evidence, ...]], Tensor]
"""(images, labels, evidence of each round) of one capture -> scalar."""

Dummy = Callable[[Problem, Tensor, Tensor, Evidence], Values]
"""(problem, images, labels, evidence) of one capture and round -> dummy gradient by parameter."""

Comparison = Callable[[Values, Evidence], Tensor]
"""(dummy gradient, evidence) of one capture and round -> scalar."""

NAIVE = Adaptive()

ROUNDING = 5e-12
"""Relative squared error of a gradient that a client computes in float32 (`benchmarks.layer_spreads`)."""


def one_gradient(problem: Problem, images: Tensor, labels: Tensor, seen: Evidence) -> Values:  # noqa: ARG001
    """Return the gradient at the global weights: what one step uploads."""
    return problem.gradient(images, labels)


def relative_square(dummy: Values, seen: Evidence) -> Tensor:
    """Return `||g - g*||^2 / ||g*||^2` over the present entries (DLG, equation 4, made relative).

    Where the evidence is an interval, only what lies outside counts: `max(0, |g - g*| - slack)`.
    """
    return _square(_outside(dummy, seen)) / _length(seen)


def layer_squares(dummy: Values, seen: Evidence) -> Tensor:
    """Return the mean over layers of `||g_l - g*_l||^2 / ||g*_l||^2`: each layer has the same say.

    A layer is a module's parameters together. One that shows nothing is left out.
    """
    gaps, shown = _outside(dummy, seen), _present(seen.target, seen)
    terms = []
    for names in layers_of(shown):
        length = _square({name: shown[name] for name in names})
        gap = _square({name: gaps[name] for name in names})
        terms.append(torch.where(length > 0, gap / length.clamp(min=torch.finfo(length.dtype).tiny), 0.0))
    return torch.stack(terms).mean()


def spread_squares(spreads: Mapping[str, float], misfit: float) -> Comparison:
    r"""Return the comparison `mean over layers l of ||g_l - g*_l||^2 / (misfit V_l + ROUNDING ||g*_l||^2)`.

    V_l, `spreads[l]`, is how far the layer's gradients of different images lie apart, squared: with `misfit`
    the share of it that is not explained yet, every layer's term is about one.
    """

    def compare(dummy: Values, seen: Evidence) -> Tensor:
        gaps, shown = _outside(dummy, seen), _present(seen.target, seen)
        terms = []
        for names in layers_of(shown):
            length = _square({name: shown[name] for name in names})
            unit = misfit * spreads[layer_of(names[0])] + ROUNDING * length
            gap = _square({name: gaps[name] for name in names})
            terms.append(torch.where(unit > 0, gap / unit.clamp(min=torch.finfo(unit.dtype).tiny), 0.0))
        return torch.stack(terms).mean()

    return compare


def direction(dummy: Values, seen: Evidence) -> Tensor:
    """Return `2 (1 - cos(g, g*))` over the present entries: relative_square of the two at unit length.

    Inverting Gradients (Geiping et al. 2020, equation 4) up to the factor; silent on length, as clipping
    does. With intervals the dummy is brought to the observed length first.
    """
    mine, theirs = _present(dummy, seen), _present(seen.target, seen)
    product = torch.stack([(mine[name] * theirs[name]).sum() for name in theirs]).sum()
    if not seen.slack:
        return 2 * (1 - product / (_square(mine).sqrt() * _square(theirs).sqrt()))
    return relative_square(at_length(dummy, seen), seen)


def layer_directions(dummy: Values, seen: Evidence) -> Tensor:
    """Return the mean over layers of `2 (1 - cos(g_l, g*_l))`: `direction` where each layer has the same say.

    A layer is a module's parameters together. One that shows nothing is left out. Intervals are not looked
    at.
    """
    mine, theirs = _present(dummy, seen), _present(seen.target, seen)
    terms = []
    for names in layers_of(theirs):
        product = torch.stack([(mine[name] * theirs[name]).sum() for name in names]).sum()
        squares = [_square({name: part[name] for name in names}) for part in (mine, theirs)]
        lengths = [square.clamp(min=torch.finfo(square.dtype).tiny).sqrt() for square in squares]
        distance = 2 * (1 - product / (lengths[0] * lengths[1]))
        terms.append(torch.where(squares[1] > 0, distance, 0.0))
    return torch.stack(terms).mean()


def at_length(dummy: Values, seen: Evidence) -> dict[str, Tensor]:
    """Return the dummy gradient at the length that brings it nearest to the observed one."""
    mine, theirs = _present(dummy, seen), _present(seen.target, seen)
    product = torch.stack([(mine[name] * theirs[name]).sum() for name in theirs]).sum()
    scale = product / _square(mine)
    return {name: scale * value for name, value in dummy.items()}


def layer_norms(dummy: Values, seen: Evidence) -> Tensor:
    """Return `sum over parameters of ||g_l - g*_l||`, in units of the gradient (Yin et al. 2021)."""
    return torch.stack([norm(gap) for gap in _outside(dummy, seen).values()]).sum()


def matching(problem: Problem, dummy: Dummy = one_gradient, compare: Comparison | None = None) -> Distance:
    """Return the distance that suits what the attacker knows: defence simulated, absent entries out.

    Over several rounds it is the mean of theirs. `dummy` is what stands for the observed gradient, `compare`
    how the two are compared: by default `direction` where the length says nothing, else `relative_square`.
    """
    rounds = [_of_round(one, dummy, compare) for one in (problem, *problem.rounds)]

    def distance(images: Tensor, labels: Tensor, evidence: tuple[Evidence, ...]) -> Tensor:
        pairs = zip(rounds, evidence, strict=True)
        return torch.stack([of_round(images, labels, seen) for of_round, seen in pairs]).mean()

    return distance


def _of_round(
    problem: Problem, dummy: Dummy, compare: Comparison | None
) -> Callable[[Tensor, Tensor, Evidence], Tensor]:
    knowledge = problem.knowledge or NAIVE
    compared = compare or (direction if knowledge.scale_free else relative_square)

    def distance(images: Tensor, labels: Tensor, seen: Evidence) -> Tensor:
        gradient = dummy(problem, images, labels, seen)
        if knowledge.simulate is identity:  # no copies of a large gradient
            return compared(gradient, seen)
        uploaded = knowledge.simulate({name: problem.unit * value for name, value in gradient.items()})
        return compared({name: value / problem.unit for name, value in uploaded.items()}, seen)

    return distance


def noise_floor(problem: Problem) -> Tensor:
    """Return the distance expected of the true image, (P,): `sigma^2 d / ||g*||^2` for known noise."""
    std = (problem.knowledge or NAIVE).noise_std / abs(problem.unit)
    total = torch.zeros(len(problem), dtype=problem.like.dtype, device=problem.like.device)
    entries = torch.zeros_like(total)
    for name, value in problem.target.items():
        mask = problem.present.get(name, torch.ones_like(value, dtype=torch.bool))
        total += (value * mask).flatten(1).square().sum(dim=1)
        entries += mask.flatten(1).sum(dim=1)
    return std**2 * entries / total


def _present(values: Values, seen: Evidence) -> dict[str, Tensor]:
    return {
        name: value * seen.present[name] if name in seen.present else value for name, value in values.items()
    }


def _outside(dummy: Values, seen: Evidence) -> dict[str, Tensor]:
    gaps = _present({name: dummy[name] - seen.target[name] for name in seen.target}, seen)
    return {
        name: torch.relu(gap.abs() - seen.slack[name]) if name in seen.slack else gap
        for name, gap in gaps.items()
    }


def _length(seen: Evidence) -> Tensor:
    return _square(_present(seen.target, seen))


def layers_of(values: Values) -> list[list[str]]:
    """Return the names of the parameters, those of a module together."""
    layers: dict[str, list[str]] = {}
    for name in values:
        layers.setdefault(layer_of(name), []).append(name)
    return list(layers.values())


def layer_of(parameter: str) -> str:
    """Return the name of the module that a parameter belongs to."""
    return parameter.rpartition(".")[0]


def _square(values: Values) -> Tensor:
    return torch.stack([value.square().sum() for value in values.values()]).sum()
