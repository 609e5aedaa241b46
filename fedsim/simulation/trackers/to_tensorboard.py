"""TensorBoard: event files."""

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from fedsim.simulation.trackers.figures import Parameter


class TensorBoard:
    """Scalars by round; at the end the leakage as scalars, and parameters and leakage as a row of HPARAMS."""

    def __init__(self, folder: Path, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = dict(parameters)
        self._writer = SummaryWriter(str(folder))
        self._last = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the scalars of a round, at once: TensorBoard may be watching."""
        self._last = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, results: Mapping[str, float] | None) -> None:
        """Write parameters and results, and close the files."""
        self._writer.add_hparams(self._parameters, dict(results or {}), run_name=".", global_step=self._last)
        self._writer.close()


def open_tracker(folder: Path, name: str, parameters: Mapping[str, Parameter]) -> TensorBoard:
    """Return the tracker; the run's name is its folder's."""
    del name
    return TensorBoard(folder, parameters)
