"""MLflow: a run in an SQLite file, or on the user's own server."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from fedsim.simulation.trackers.figures import Parameter

EXPERIMENT = "fedsim"
AT_ONCE = 100
"""Parameters that MLflow takes in one request."""


class MLflow:
    """One run of the experiment `fedsim` (or MLFLOW_EXPERIMENT_NAME)."""

    def __init__(self, client: MlflowClient, run: str) -> None:
        self._client, self._run = client, run
        self._last = 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the figures of a round in one request."""
        self._last = step
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)

    def close(self, results: Mapping[str, float] | None) -> None:
        """Log the results and end the run: FINISHED, or FAILED without results."""
        self.log(self._last, results or {})
        self._client.set_terminated(self._run, "FAILED" if results is None else "FINISHED")


def open_tracker(folder: Path, name: str, parameters: Mapping[str, Parameter]) -> MLflow:
    """Begin a run in `folder`/mlflow.db, or where MLFLOW_TRACKING_URI says; parameters are logged at once."""
    local = None if os.environ.get("MLFLOW_TRACKING_URI") else f"sqlite:///{folder / 'mlflow.db'}"
    if local and "MLFLOW_LOGGING_LEVEL" not in os.environ:
        for told in ("mlflow.store.db.utils", "alembic"):  # each step of making the tables
            logging.getLogger(told).setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=local)
    run = client.create_run(_experiment(client, folder if local else None), run_name=name).info.run_id
    params = [Param(key, str(value)) for key, value in parameters.items()]
    for start in range(0, len(params), AT_ONCE):
        client.log_batch(run, params=params[start : start + AT_ONCE])
    return MLflow(client, run)


def _experiment(client: MlflowClient, folder: Path | None) -> str:
    """Return the experiment's id; artifacts of a local one lie in `folder`, not where the command is run."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    place = (folder / "artifacts").as_uri() if folder else None
    return str(client.create_experiment(name, artifact_location=place))
