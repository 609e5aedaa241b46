"""Metrics to TensorBoard, MLflow or Weights & Biases, beside what a run leaves (docs/run-folder.md)."""

import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fedsim.errors import InputError
from fedsim.registry import import_object
from fedsim.scenario.schema import Scenario
from fedsim.simulation.trackers.figures import measured_of, parameters_of, results_of
from fedsim.simulation.trackers.tracker import Tracker

__all__ = ["Trackers", "require_packages"]

TRACKERS = "trackers"
"""Folder in the run folder."""
PACKAGES = {
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
    "wandb": ("wandb",),
}
"""What a tracker imports; the extra of its name installs it."""
PRIVATE = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""Nothing is reported to anybody, unless the user has set these."""

logger = logging.getLogger("fedsim")


def require_packages(names: Sequence[str]) -> None:
    """Import what the trackers need; raises InputError that says which extra to install."""
    for name, value in PRIVATE.items() if names else ():
        os.environ.setdefault(name, value)
    for name in names:
        try:
            for package in PACKAGES[name]:
                importlib.import_module(package)
        except ImportError as error:
            missing = error.name or "its package"
            raise InputError(
                f"output.trackers = {name!r}: {missing} is not installed: pip install 'fedsim[{name}]'"
            ) from None


class Trackers:
    """The trackers of a run: each gets the figures of a round as it ends, and of the attacks at the end.

    One that fails is turned off with one line of warning; the run goes on.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        """Open them in `folder`/trackers; raises InputError for one that cannot be opened."""
        self._open: dict[str, Tracker] = {}
        parameters = parameters_of(scenario)
        for name in dict.fromkeys(scenario.output.trackers):
            try:
                factory = import_object(f"fedsim.simulation.trackers.to_{name}:open_tracker")
                place = folder.resolve() / TRACKERS / name
                place.mkdir(parents=True, exist_ok=True)
                self._open[name] = factory(place, folder.resolve().name, parameters)
            except Exception as error:
                self._close(None)
                raise InputError(f"output.trackers = {name!r}: cannot be opened ({_line(error)})") from None

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close those that are open: of a run that did not come to its end."""
        self._close(None)

    def round(self, row: Mapping[str, Any]) -> None:
        """Pass on what was measured in a round: a line of rounds.jsonl."""
        values = measured_of(row)
        self._each(lambda tracker: tracker.log(int(row["round"]), values))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Pass on the figures of summary.json, and close."""
        self._close(results_of(summary))

    def _close(self, results: Mapping[str, float] | None) -> None:
        self._each(lambda tracker: tracker.close(results))
        self._open = {}

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                act(tracker)
            except Exception as error:  # a foreign service must not cost the run
                logger.warning("output.trackers: %s is off: %s", name, _line(error))
                del self._open[name]


def _line(error: Exception) -> str:
    """Return an error in one line, of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:197]}..."
