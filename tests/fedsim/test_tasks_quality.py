"""The sample distance: its definition, and that it grows with what is wrong with the samples."""

import numpy as np
import pytest
import torch

from fedsim.data.load import load_dataset
from fedsim.seeds import torch_generator
from fedsim.tasks.quality import random_features, sample_distance


def test_the_distance_ranks_what_is_further_from_the_data():
    """About 0 for other real images, unbiased at any number; more for blurred, fewer kinds, and noise."""
    data = load_dataset("fashion_mnist", {}, 1)
    real, other = data.test.batch(range(500))[0], data.train.batch(range(400))[0]
    one_kind = data.train.batch(np.flatnonzero(data.train.labels == 8)[:400])[0]
    blurred = torch.nn.functional.avg_pool2d(other, 3, stride=1, padding=1)
    noise = torch.rand(other.shape, generator=torch_generator(0, "noise"))
    values = [sample_distance(images, real) for images in (other, blurred, one_kind, noise)]
    assert abs(values[0]) < 0.05 * min(values[1:])
    # As docs/diffusion.md states them.
    assert values[1:] == pytest.approx([0.24, 0.86, 4.7], rel=0.05)
    few = [sample_distance(other[start : start + 20], real) for start in range(0, 400, 20)]
    error = np.std(few, ddof=1) / len(few) ** 0.5
    assert abs(np.mean(few) - values[0]) < 4 * error


def test_the_distance_is_that_of_its_definition():
    """Slow reference: the double sums of the unbiased estimate, on the standardised features."""

    generator = torch_generator(0, "images")
    x, y = torch.rand(5, 3, 32, 32, generator=generator), torch.rand(7, 3, 32, 32, generator=generator)
    a, b = random_features(x), random_features(y)
    a, b = (a - b.mean(0)) / b.std(0), (b - b.mean(0)) / b.std(0)

    def k(u, v):
        return (float(u @ v) / a.shape[1] + 1) ** 3

    within = [
        sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (a, b)
    ]
    across = sum(k(u, v) for u in a for v in b) / 35
    assert sample_distance(x, y) == pytest.approx(sum(within) - 2 * across, rel=1e-9)
