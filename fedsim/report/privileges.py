"""What each capability of the adversary means, in words."""

from adversary.threat import Capability
from fedsim.report.folder import RunFolder

WORDS = {
    Capability.UPDATES: "It sees what clients upload, or the sum of it.",
    Capability.MODEL: "It knows the model, its weights before the round and the shape of an image.",
    Capability.CLIENT_UPDATES: "It sees each client's upload by itself, not only the sum.",
    Capability.BATCH_SIZE: "It knows how many images entered an upload.",
    Capability.RECIPE: "It knows how clients train: optimiser, learning rate, steps.",
    Capability.DEFENSE: "It knows which defence a client uses, and its parameters; not its random draws.",
    Capability.SURROGATE_DATA: "It holds public images of the same kind.",
    Capability.CLIENT_DISTRIBUTION: "It knows statistics of the client's data, such as its labels' shares.",
    Capability.BATCHNORM_STATISTICS: "It knows the BatchNorm statistics of the client's own batch.",
    Capability.MODIFY_MODEL: "It may change the model that it sends out: a malicious server.",
    Capability.CLIENT_SELECTION: "It may choose which clients take part.",
    Capability.LABELS: "It knows the private labels.",
    Capability.TIMESTEPS: "It knows the timesteps that clients drew for a diffusion loss.",
    Capability.NOISE: "It knows the noise that clients drew for a diffusion loss.",
}


def privileges(run: RunFolder) -> tuple[list[tuple[str, str]], list[str]]:
    """Return what the adversary was granted, each with its meaning, and the names of what it was not."""
    threat = run.summary.get("threat_model") or {}
    granted = [str(name) for name in threat.get("capabilities") or []]
    meanings: dict[str, str] = {capability.value: words for capability, words in WORDS.items()}
    denied = [_spaced(name) for name in meanings if name not in granted] if granted else []
    return [(_spaced(name), meanings.get(name, "")) for name in granted], denied


def _spaced(name: str) -> str:
    return name.replace("_", " ").replace("batchnorm", "BatchNorm")
