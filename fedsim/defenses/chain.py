"""Defences in order, how they are named, and how strong they were."""

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from fedsim.defenses import DEFENSES
from fedsim.defenses.upload import Adaptive, Defense, Upload, Values, identity


@dataclass(frozen=True)
class Chain:
    """Several defences as one: the first acts first."""

    defenses: Sequence[Defense] = ()

    def apply(self, upload: Upload, generator: torch.Generator) -> Upload:
        """Return the upload after all defences, which draw from the generator one after the other."""
        return reduce(lambda defended, defense: defense.apply(defended, generator), self.defenses, upload)

    def adaptive(self, unit: float) -> Adaptive | None:
        """Return the counters composed in order; None if any defence has none.

        Noise adds in quadrature (as if nothing after it shrank it). What a later noise fills can no longer be
        told from the rest, so that `present` and `slack` of a defence are used only where no noise follows;
        that of training (DP-SGD) comes before all of them, wherever it stands.
        """
        in_order = sorted(self.defenses, key=lambda defense: not hasattr(defense, "private"))
        counters = [defense.adaptive(unit) for defense in in_order]
        known = [counter for counter in counters if counter is not None]
        if len(known) < len(counters):
            return None
        clear = [
            counter
            for place, counter in enumerate(known)
            if not any(later.noise_std > 0 for later in known[place:])
        ]
        masks = [counter.present for counter in clear if counter.present is not None]
        slacks = [counter.slack for counter in clear if counter.slack is not None]
        return Adaptive(
            simulate=_composed([counter.simulate for counter in known]),
            present=_intersection(masks) if masks else None,
            slack=_sum(slacks) if slacks else None,
            noise_std=math.hypot(*(counter.noise_std for counter in known)),
            scale_free=any(counter.scale_free for counter in known),
        )


def _composed(steps: Sequence[Callable[[Values], Values]]) -> Callable[[Values], Values]:
    acting = [step for step in steps if step is not identity]
    if not acting:
        return identity  # itself, by which attacks know that nothing is simulated
    return lambda values: reduce(lambda dummy, step: step(dummy), acting, values)


def _intersection(masks: Sequence[Callable[[Values], Values]]) -> Callable[[Values], Values]:
    def present(observed: Values) -> dict[str, Tensor]:
        everywhere = {name: torch.ones_like(value, dtype=torch.bool) for name, value in observed.items()}
        for mask in masks:
            everywhere |= {name: found & everywhere[name] for name, found in mask(observed).items()}
        return everywhere

    return present


def _sum(slacks: Sequence[Callable[[Values], Values]]) -> Callable[[Values], Values]:
    def slack(observed: Values) -> dict[str, Tensor]:
        widths = [width(observed) for width in slacks]
        return {name: torch.stack([width[name] for width in widths]).sum(dim=0) for name in observed}

    return slack


def describe(defense: Defense | Sequence[Defense]) -> str:
    """Return a defence or a chain in words: `masking(p=0.5) + noising(std=0.01)`; `none` where there is none.

    Options that have their default are left out.
    """
    if isinstance(defense, Chain):
        return describe(defense.defenses)
    if isinstance(defense, Sequence):
        named = [describe(one) for one in defense]
        return " + ".join(name for name in named if name != "none") or "none"
    options = ", ".join(f"{name}={value!r}" for name, value in _chosen(defense).items())
    return f"{_name(type(defense))}({options})" if options else _name(type(defense))


def _chosen(defense: object) -> dict[str, Any]:
    if not is_dataclass(defense):  # a foreign one
        return {}
    options = [
        (field.name, getattr(defense, field.name), field.default) for field in fields(defense) if field.init
    ]
    return {name: value for name, value, default in options if default is MISSING or value != default}


@cache
def _name(kind: type) -> str:
    """Return the name under which scenarios know the class, or its own."""
    target = f"{kind.__module__}:{kind.__qualname__}"
    return next((entry.name for entry in DEFENSES if entry.target == target), kind.__qualname__)


def snr(before: Values, after: Values, present: Values | None = None) -> float:
    """Return the strength of a disturbance: `||u|| / (sigma sqrt(d)) = ||u|| / ||after - before||`.

    `sigma` is the root mean square of the realised disturbance over the d entries that are present, `u` the
    update `before` at the same entries. Pass learnable values only. Infinite where nothing was disturbed.
    """
    signal = disturbance = 0.0
    for name, value in before.items():
        kept = (present or {}).get(name, torch.ones_like(value, dtype=torch.bool))
        signal += value[kept].double().square().sum().item()
        disturbance += (after[name] - value)[kept].double().square().sum().item()
    return math.sqrt(signal / disturbance) if disturbance > 0 else math.inf
