"""The threat model: what the adversary is granted, named and reported beside every number."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from fedsim.errors import InputError
from fedsim.registry import suggest

Visibility = Literal["client", "aggregate"]


class Capability(StrEnum):
    """One thing that the adversary knows or can do."""

    UPDATES = "updates"
    """Sees what clients upload, or the sum of it."""
    MODEL = "model"
    """Knows architecture, weights before the round, input shape and number of classes."""
    CLIENT_UPDATES = "client_updates"
    """Sees each client's upload, not only the sum (no secure aggregation)."""
    BATCH_SIZE = "batch_size"
    """Knows how many examples entered an upload."""
    RECIPE = "recipe"
    """Knows the local recipe: optimiser, learning rate, steps, weight decay, loss."""
    DEFENSE = "defense"
    """Knows which defence the client uses and its parameters (Kerckhoffs), not its random draws."""
    SURROGATE_DATA = "surrogate_data"
    """Holds public data of the same kind."""
    CLIENT_DISTRIBUTION = "client_distribution"
    """Knows statistics of the client's data, such as its label distribution."""
    BATCHNORM_STATISTICS = "batchnorm_statistics"
    """Knows the BatchNorm statistics of the client's own batch."""
    MODIFY_MODEL = "modify_model"
    """May change the model that it sends out (malicious server)."""
    CLIENT_SELECTION = "client_selection"
    """May choose which clients take part."""
    LABELS = "labels"
    """Knows the private labels. In no letter: grant it by name."""
    TIMESTEPS = "timesteps"
    """Knows the timesteps that a client drew for a diffusion loss. In no letter."""
    NOISE = "noise"
    """Knows the noise that it drew. In no letter."""


_A = frozenset({Capability.UPDATES, Capability.MODEL})
_B = _A | {Capability.BATCH_SIZE}
_C = _B | {Capability.RECIPE, Capability.DEFENSE}
_D = _C | {Capability.SURROGATE_DATA}
_E = _D | {Capability.CLIENT_DISTRIBUTION, Capability.BATCHNORM_STATISTICS}
_F = _C | {Capability.MODIFY_MODEL}
_G = _D | {Capability.MODIFY_MODEL}
_H = _G | {Capability.CLIENT_SELECTION}

PRESETS: dict[str, frozenset[Capability]] = {
    "A": _A,
    "B": _B,
    "C": _C,
    "D": _D,
    "E": _E,
    "F": _F,
    "G": _G,
    "H": _H,
}
"""The letters of Carletti et al., "SoK: Gradient Inversion Attacks in Federated Learning" (USENIX Sec. 2025).

`client_updates` is not among them: the scenario's `visibility` grants it.
"""


PRIVATE = (Capability.LABELS, Capability.TIMESTEPS, Capability.NOISE)
"""What clients keep to themselves: granted by name only."""


@dataclass(frozen=True)
class ThreatModel:
    """A set of capabilities under a name: a letter, or `custom`."""

    name: str
    capabilities: frozenset[Capability]

    @property
    def privileges(self) -> list[str]:
        """Return the capabilities' names in the order of their definition, as they are reported."""
        return [capability.value for capability in Capability if capability in self.capabilities]

    @property
    def visibility(self) -> Visibility:
        """Return `client` where each upload is seen, `aggregate` where only the sum is."""
        return "client" if Capability.CLIENT_UPDATES in self.capabilities else "aggregate"

    def grants(self, capability: Capability) -> bool:
        """Return whether the adversary has this capability."""
        return capability in self.capabilities


def parse(
    value: str | Sequence[str], visibility: Visibility = "client", key: str = "adversary.threat_model"
) -> ThreatModel:
    """Return the threat model of a letter (`"C"`) or a list of letters and capabilities (`["C", "labels"]`).

    A list is the union of its members, and always contains `updates` and `model`. `visibility` alone decides
    on `client_updates`. Raises InputError for an unknown name and for a list that contradicts `visibility`.
    """
    names = [value] if isinstance(value, str) else list(value)
    granted = set(_A)
    for name in names:
        granted |= _named(name, key)
    if visibility == "client":
        granted.add(Capability.CLIENT_UPDATES)
    elif Capability.CLIENT_UPDATES in granted:
        raise InputError(
            f"{key} = {value!r}: {Capability.CLIENT_UPDATES.value} contradicts visibility = 'aggregate'; "
            "allowed: visibility = 'client'"
        )
    single = len(names) == 1 and names[0].upper() in PRESETS
    return ThreatModel(names[0].upper() if single else "custom", frozenset(granted))


def refuse(needs: frozenset[Capability], threat: ThreatModel) -> str | None:
    """Return in one line why an attack with these needs is refused; None where all of them are granted."""
    missing = [capability.value for capability in Capability if capability in needs - threat.capabilities]
    if not missing:
        return None
    hints = [hint for hint in (_letters(needs), _by_name(needs)) if hint]
    return f"needs {', '.join(missing)}, which threat model {threat.name} does not grant; {'; '.join(hints)}"


def _named(name: str, key: str) -> frozenset[Capability]:
    if name.upper() in PRESETS:
        return PRESETS[name.upper()]
    known = [capability.value for capability in Capability]
    if name not in known:
        raise InputError(f"{key} = {name!r}: no such capability; {suggest(name, [*PRESETS, *known])}")
    return frozenset({Capability(name)})


def _letters(needs: frozenset[Capability]) -> str:
    wanted = needs - {Capability.CLIENT_UPDATES, *PRIVATE}
    letters = [letter for letter, granted in PRESETS.items() if wanted <= granted]
    return f"granted by {', '.join(letters)}" if letters and wanted - _A else ""


def _by_name(needs: frozenset[Capability]) -> str:
    hints = []
    private = [capability.value for capability in PRIVATE if capability in needs]
    if private:
        hints.append(f"{' and '.join(private)} are granted by name only")
    if Capability.CLIENT_UPDATES in needs:
        hints.append("client_updates by visibility = 'client'")
    return ", ".join(hints)
