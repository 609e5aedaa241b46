"""Image classification with cross entropy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.build import initial_model, model_factory


@dataclass(frozen=True)
class ClassificationTask:
    """Classify images: `mean_b -log softmax(model(x_b))[y_b]`; labels may be class probabilities (DLG).

    It can be pickled where its factory can: a `functools.partial` of a module's function, not a lambda.
    """

    factory: Callable[[], nn.Module]
    """Returns a fresh model; normalisation is part of it, inputs are in [0, 1]."""
    input_shape: tuple[int, ...]
    """(C, H, W)"""
    num_classes: int

    def build(self, seed: int) -> nn.Module:
        """Return the model with the initial weights of this seed; the global generators stay as they were."""
        return initial_model(self.factory, seed)

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross entropy; labels are int64 (n,) or probabilities (n, num_classes)."""
        return F.cross_entropy(model(inputs), labels)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the summed loss and the number of right answers; the caller sets eval mode."""
        logits = model(inputs)
        loss = F.cross_entropy(logits, labels, reduction="sum").item()
        return {"loss": loss, "accuracy": float((logits.argmax(dim=1) == labels).sum())}


@dataclass(frozen=True, kw_only=True)
class Classification:
    """The classification task as a scenario names it: it has no options of its own."""

    def task(
        self, model: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
    ) -> ClassificationTask:
        """Return the task of a scenario's model on images of this shape (C, H, W): `classification_task`."""
        return classification_task(model, options, input_shape, num_classes)


def classification_task(
    name: str, options: Mapping[str, Any], input_shape: tuple[int, int, int], num_classes: int
) -> ClassificationTask:
    """Return the task of a scenario's model on images of this shape (C, H, W).

    Raises InputError where `fedsim.models.build.model_factory` does.
    """
    factory = model_factory(name, options, input_shape, num_classes)
    return ClassificationTask(factory, input_shape, num_classes)
