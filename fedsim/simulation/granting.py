"""What a threat model grants of a diffusion client's own draws, put where the attack can read it."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from adversary.captures import Capture
from adversary.threat import Capability, ThreatModel
from fedsim.simulation.targets import Target


def grant_draws(target: Target, captures: Sequence[Capture], threat: ThreatModel, out: Path) -> str | None:
    """Write the draws behind captures that are granted, and return the folder: `<capture>.safetensors`.

    `timesteps` (n,) and `noise` (n, C, H, W) in the order of training; None where nothing is granted, where
    the truth does not know of any, and where an image had several.
    """
    granted = [name for name in (Capability.TIMESTEPS, Capability.NOISE) if threat.grants(name)]
    if not granted:
        return None
    for capture in captures:
        truth = target.truth(capture)
        if truth is None or truth.draws is None or len(truth.draws[0]) != len(truth.images):
            return None
        path = out / "granted" / f"{capture.name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = dict(zip((Capability.TIMESTEPS, Capability.NOISE), truth.draws, strict=True))
        save_file({name.value: drawn[name].contiguous() for name in granted}, path)
    return str(out / "granted")
