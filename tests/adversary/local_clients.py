"""Small clients that train for several steps, and the problem of their updates."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.matching import match
from adversary.problem import Problem, frozen_model
from fedsim.data.dataset import Indices
from fedsim.defenses.chain import Chain
from fedsim.defenses.upload import Defense, Upload
from fedsim.tasks.classification import ClassificationTask
from fedsim.training import Recipe, Trained, train
from fedsim.training.batches import draw_batches, number_of_batches

SHAPE, CLASSES, EXAMPLES = (1, 8, 8), 4, 4


def network() -> nn.Module:
    """Return a net with more parameters than the batch has pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.Sigmoid(), nn.Linear(48, CLASSES))


TASK = ClassificationTask(network, SHAPE, CLASSES)
WEIGHTS = dict(TASK.build(1).state_dict())
IMAGES = torch.rand(EXAMPLES, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([2, 0, 3, 1])


class Pairs:
    """A split of float64 images."""

    labels = LABELS.numpy()

    def __len__(self) -> int:
        """Return the number of images."""
        return EXAMPLES

    def batch(self, indices: Indices | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return images and labels at these positions."""
        rows = torch.as_tensor(np.asarray(indices))
        return IMAGES[rows], LABELS[rows]


def trained(recipe: Recipe, batches: Sequence[Sequence[int]] | None = None, seed: int = 0) -> Trained:
    drawn = draw_batches(recipe, np.arange(EXAMPLES), seed, 0, 1)
    chosen = drawn if batches is None else iter([np.array(rows) for rows in batches])
    return train(TASK, TASK.build(1).double(), Pairs(), chosen, recipe, seed=0)


def problem_of(
    recipe: Recipe, seeds: Sequence[int] = (0,), defense: Defense | None = None, upload: str = "update"
) -> Problem:
    """Return the problem of clients that trained by the recipe, one with each seed; labels are known."""
    defenses = () if defense is None else (defense,)
    captures = []
    for seed in seeds:
        made = trained(recipe, seed=seed)
        values = made.update
        if upload == "gradient":
            values = {name: -value / recipe.learning_rate for name, value in values.items()}
        if upload == "weights":
            values = {name: WEIGHTS[name].double() + value for name, value in values.items()}
        sent = Chain(defenses).apply(Upload(values), torch.Generator().manual_seed(seed))
        captures.append(
            Capture(
                round=1, client=seed, node=seed + 1, upload=upload, arrays=sent.values, present=sent.present
            )
        )
    return build_problem(
        captures,
        WEIGHTS,
        TASK,
        frozen_model(TASK, WEIGHTS),
        learning_rate=recipe.learning_rate,
        steps=number_of_batches(recipe, EXAMPLES),
        batch_size=EXAMPLES,
        seeds=seeds,
        defenses=defenses or None,
        labels=LABELS.sort().values.repeat(len(seeds), 1),
        recipe=recipe,
    )


def error(images: Tensor) -> float:
    """Return the largest error of a pixel after matching."""
    pairs = match(images.float(), IMAGES.float())
    return max(float((images[pair].double() - IMAGES[i]).abs().max()) for i, pair in enumerate(pairs))
