"""What a tracker does."""

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """A place for a run's figures. `to_NAME.open_tracker(folder, run name, parameters)` makes one."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured after a round."""
        ...

    def close(self, results: Mapping[str, float] | None) -> None:
        """Take the figures of the attacks, or None where the run did not come to its end; no call follows."""
        ...
