"""Weights & Biases: an offline run, or online where the user has said so."""

import os
from collections.abc import Mapping
from pathlib import Path

import wandb

from fedsim.simulation.trackers.figures import Parameter

PROJECT = "fedsim"


class WandB:
    """One run of the project `fedsim` (or WANDB_PROJECT): figures by round, the leakage in its summary."""

    def __init__(self, run: wandb.Run) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the figures of a round."""
        self._run.log(dict(values), step=step)

    def close(self, results: Mapping[str, float] | None) -> None:
        """Put the results into the summary and end the run; without results as failed."""
        self._run.summary.update(dict(results or {}))
        self._run.finish(exit_code=1 if results is None else 0)


def open_tracker(folder: Path, name: str, parameters: Mapping[str, Parameter]) -> WandB:
    """Begin a run; offline unless WANDB_MODE or WANDB_API_KEY is set. `wandb sync` uploads it later.

    Neither code, nor the state of a git repository, nor the machine and its paths are recorded.
    """
    said = os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY")
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=name,
        dir=folder.parent,  # in which W&B itself makes the folder `wandb`
        config=dict(parameters),
        mode=None if said else "offline",
        reinit="create_new",  # beside one that a notebook may have open
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
        ),
    )
    return WandB(run)
