"""Central evaluation: the global weights on the data set's test split."""

from collections.abc import Mapping
from math import prod

import numpy as np
from torch import Tensor, nn

from fedsim.data.dataset import Split
from fedsim.tasks.task import Task
from fedsim.training import load_state

BATCH = 500
"""Images at a time, fewer where they are larger than 32x32."""


class Evaluator:
    """Holds a model to load global weights into, and the test split to try them on, where the model is."""

    def __init__(self, task: Task, model: nn.Module, split: Split) -> None:
        self._task, self._model, self._split = task, model, split

    def __call__(self, arrays: Mapping[str, Tensor]) -> dict[str, float]:
        """Return the means over the split of what the task reports: `loss`, perhaps `accuracy`."""
        load_state(self._model, arrays)
        self._model.eval()
        totals: dict[str, float] = {}
        batch = max(1, min(BATCH, BATCH * 3 * 32 * 32 // prod(self._task.input_shape)))
        device = next(self._model.parameters()).device
        for start in range(0, len(self._split), batch):
            indices = np.arange(start, min(start + batch, len(self._split)))
            images, labels = self._split.batch(indices)
            found = self._task.evaluate(self._model, images.to(device), labels.to(device))
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value
        return {name: total / len(self._split) for name, total in totals.items()}

    def state(self, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return global weights in the model's own types, by name."""
        load_state(self._model, arrays)
        return {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}
