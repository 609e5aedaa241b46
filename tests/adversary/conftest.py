"""A small victim whose gradients are attacked in tests: DLG's LeNet on a few embedded images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.problem import Problem, frozen_model
from fedsim.data.load import load_dataset
from fedsim.defenses.chain import Chain
from fedsim.defenses.upload import Defense, Upload
from fedsim.tasks.classification import ClassificationTask, classification_task

LEARNING_RATE = 0.5


@dataclass(frozen=True)
class Victim:
    """A task with its weights, and a way to make captures and problems of images."""

    task: ClassificationTask
    weights: dict[str, Tensor]
    images: Tensor
    labels: Tensor

    def gradient(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the float32 gradient as a client computes it."""
        model = frozen_model(self.task, self.weights, dtype=torch.float32)
        problem = Problem(task=self.task, model=model, target={}, seeds=())
        return problem.gradient(images, labels)

    def capture(
        self, images: Tensor, labels: Tensor, defenses: Sequence[Defense] = (), client: int = 0
    ) -> Capture:
        """Return the capture of one defended update."""
        update = {name: -LEARNING_RATE * value for name, value in self.gradient(images, labels).items()}
        sent = Chain(tuple(defenses)).apply(Upload(update), torch.Generator().manual_seed(client))
        return Capture(
            round=1, client=client, node=client + 1, upload="update", arrays=sent.values, present=sent.present
        )

    def problem(
        self,
        captures: Sequence[Capture],
        defenses: Sequence[Defense] | None = None,
        batch_size: int = 1,
        seeds: Sequence[int] | None = None,
        device: str = "cpu",
    ) -> Problem:
        """Return the problem of attacking captures; `defenses` is what the attacker knows of."""
        return build_problem(
            captures,
            self.weights,
            self.task,
            frozen_model(self.task, self.weights, device=device),
            learning_rate=LEARNING_RATE,
            batch_size=batch_size,
            seeds=range(len(captures)) if seeds is None else seeds,
            defenses=defenses,
        )


def victim_of(model: str, number: int = 8, **options: object) -> Victim:
    """Return a model with its initial weights, and embedded images."""
    dataset = load_dataset("fashion_mnist", {}, 0)
    task = classification_task(model, options, dataset.shape, dataset.num_classes)
    images, labels = dataset.train.batch(range(number))
    return Victim(task, dict(task.build(1).state_dict()), images, labels)


@pytest.fixture(scope="session")
def victim() -> Victim:
    """Return LeNet with its initial weights, and eight embedded images."""
    return victim_of("lenet")


VictimFactory = Callable[[], Victim]
