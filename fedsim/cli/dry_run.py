"""What a study would cost: how many cells, and how long."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from adversary.workers import default_devices
from fedsim.cli.estimate import estimate
from fedsim.studies.cells import Cell


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """The cost of a study on this machine."""

    cells: int
    finished: int
    jobs: int
    federation_minutes: float
    """Of all cells that are left, side by side."""
    attack_minutes: float
    """At most, likewise."""
    notes: Sequence[str] = ()
    """What the estimates leave out."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain tables."""
        return asdict(self)

    def text(self) -> str:
        """Return the cost in a few lines."""
        return "\n".join(
            [
                f"cells       {self.cells} ({self.finished} finished)",
                f"at once     {self.jobs}",
                f"federations about {self.federation_minutes:.1f} min",
                f"attacks     at most {self.attack_minutes:.1f} min, to the end of every budget",
                *(f"note        {text}" for text in self.notes),
            ]
        )


def dry_run(cells: Sequence[Cell], *, jobs: int | None, devices: Sequence[str] | None = None) -> DryRun:
    """Measure probes of the first, the middle and the last cell that is left, and multiply.

    Raises InputError where one cannot start.
    """
    left = [cell for cell in cells if not cell.finished]
    count = min(len(left), jobs or len(devices or default_devices())) or 1
    places = sorted({0, len(left) // 2, len(left) - 1}) if left else []
    costs = [estimate(left[place].scenario) for place in places]
    share = len(left) / len(costs) / count if costs else 0.0
    return DryRun(
        cells=len(cells),
        finished=len(cells) - len(left),
        jobs=count,
        federation_minutes=share * sum(cost.federation_minutes for cost in costs),
        attack_minutes=share * sum(cost.attack_minutes for cost in costs),
        notes=list(dict.fromkeys(text for cost in costs for text in cost.notes)),
    )
