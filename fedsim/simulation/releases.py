"""What one upload releases: how far its noise lies behind its bound, as the chain of defences makes it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from fedsim.defenses.clipping import Clipping
from fedsim.defenses.dpsgd import DPSGD
from fedsim.defenses.masking import Masking
from fedsim.defenses.noising import Noising
from fedsim.defenses.none import NoDefense
from fedsim.defenses.pruning import Pruning
from fedsim.defenses.quantizing import Quantizing
from fedsim.defenses.upload import Defense

UNBOUNDED = "nothing bounds the update before the noise: put the defence clipping before it"
_KNOWN = {Clipping, DPSGD, Masking, NoDefense, Noising, Pruning, Quantizing}


@dataclass(frozen=True)
class Release:
    """A Gaussian release of a bounded update: `x + N(0, std^2 I)`, `||x||_2 <= bound`."""

    bound: float
    """L2 norm of the update before the noise, at most, in the units of the upload."""
    std: float
    """Standard deviation of the noise on each entry, in the same units."""
    place: int
    """Of the noise in the chain: what follows works on what is released already."""

    @property
    def noise_multiplier(self) -> float:
        """Return the noise in units of what replacing the update can change: `std / (2 bound)`."""
        return self.std / (2 * self.bound)


def release_of(chain: Sequence[tuple[Defense, bool]], model: nn.Module) -> Release | str:
    """Return the best Gaussian release in a chain of (defence, whether all clients use it), or why none is.

    What is known of the norm is followed through the chain. `clipping` bounds it: by C over the update, by
    `C sqrt(tensors)` by tensor, by `C sqrt(entries)` by entry. `masking` and `pruning` shorten the update
    (`rescale` lengthens it by 1 / (1 - p)); rounding and noise void the bound. Whatever comes after the noise
    sees the noisy update only, and cannot take the promise back. A bound or a noise that only some clients
    use counts for nothing, and so does one after marks that tell of the raw update (`absent` of pruning).
    """
    walk = _Walk(model)
    for place, (defense, by_all) in enumerate(chain):
        walk.step(place, defense, by_all)
    return walk.best or walk.why


class _Walk:
    """Follows the bound through a chain."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._bound = math.inf
        self._lost = UNBOUNDED
        """Why the bound is infinite."""
        self._told = ""
        """What was told of the raw update already."""
        self.best: Release | None = None
        self.why = "no defence adds noise to the update"

    def step(self, place: int, defense: Defense, by_all: bool) -> None:
        match defense:
            case _ if type(defense) not in _KNOWN:
                self._told = f"nothing is known of {type(defense).__name__}, which acts before the noise"
            case Clipping():
                self._clip(_limit(defense, self._model), by_all, "clip")
            case Noising():
                self._noise(place, defense, by_all)
            case Masking():
                self._bound /= 1 - defense.p if defense.rescale else 1
            case Pruning() if defense.fill == "absent":
                self._told = "pruning with fill = 'absent' before the noise marks where the update is small"
            case Quantizing():
                self._lose("quantizing between clipping and noise can lengthen the update")

    def _clip(self, bound: float, by_all: bool, what: str) -> None:
        if by_all:
            self._bound = min(self._bound, bound)
        elif math.isinf(self._bound):
            self._lost = f"only a share of the clients {what}s the update"

    def _noise(self, place: int, defense: Noising, by_all: bool) -> None:
        if defense.clip_norm is not None:
            # Of Laplace noise it is the L1 norm, which is never below the L2 norm.
            self._clip(defense.clip_norm, by_all, "bound")
        why = self._refuse(defense, by_all)
        if why:
            self.why = why
        else:
            found = Release(self._bound, defense.sigma, place)
            if self.best is None or found.noise_multiplier > self.best.noise_multiplier:
                self.best = found
        self._lose("another noise between clipping and noise can lengthen the update")

    def _refuse(self, defense: Noising, by_all: bool) -> str:
        if defense.distribution != "gaussian":
            return "only Gaussian noise is accounted for, and this is Laplace's"
        if defense.sigma == 0:
            return "the standard deviation of the noise is 0"
        if not by_all:
            return "only a share of the clients adds the noise"
        return self._told or (self._lost if math.isinf(self._bound) else "")

    def _lose(self, why: str) -> None:
        if not math.isinf(self._bound):
            self._lost = why
        self._bound = math.inf


def _limit(clipping: Clipping, model: nn.Module) -> float:
    """Return what the L2 norm of the whole clipped update is at most."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    parts = {"update": 1, "tensor": len(sizes), "entry": sum(sizes)}[clipping.scope]
    return clipping.norm * math.sqrt(parts)
