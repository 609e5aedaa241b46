"""Batchings relaxed to shares: their sums, their corners, and the update that they lead to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from local_clients import EXAMPLES, IMAGES, LABELS, problem_of
from torch import Tensor, nn

from adversary.attacks.local_steps import LocalSteps, in_shares
from adversary.batching import averages_images, shares
from adversary.problem import Evidence, Problem
from adversary.unroll import batch_sizes, unrolled, unrolled_shares
from fedsim.training import Recipe
from fedsim.training.batches import draw_batches


def evidence_of(problem: Problem) -> tuple[Evidence, ...]:
    """Return the evidence of a problem's only capture."""
    return tuple(
        Evidence(*({name: value[0] for name, value in part.items()} for part in seen))
        for seen in problem.evidence()
    )


def weights_of(recipe: Recipe, order: Tensor) -> Tensor:
    """Return the weights (E, S, N) of images that come in this order (E, N): 1 / b in a batch of b."""
    sizes = batch_sizes(recipe, EXAMPLES)
    weights = torch.zeros(len(order), len(sizes), EXAMPLES, dtype=torch.float64)
    for epoch, rows in enumerate(order):
        for step, batch in enumerate(rows.split(sizes)):
            weights[epoch, step, batch] = 1 / len(batch)
    return weights


def test_shares_are_those_of_batches() -> None:
    sizes = torch.tensor([3.0, 3.0, 2.0], dtype=torch.float64)
    logits = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shares(logits, sizes)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 8, dtype=torch.float64))
    torch.testing.assert_close(found.sum(dim=2), sizes.expand(2, 3), rtol=0, atol=0.01)
    torch.testing.assert_close(shares(0 * logits, sizes), (sizes / 8)[:, None].expand(2, 3, 8))
    corner = torch.eye(3, dtype=torch.float64).repeat_interleave(sizes.long(), dim=1)
    torch.testing.assert_close(shares(30 * corner, sizes), corner, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(batch_size=2, epochs=2, learning_rate=0.5, momentum=0.9, weight_decay=0.01),
        Recipe(batch_size=3, epochs=2, learning_rate=0.1),
        Recipe(batch_size=3, steps=3, learning_rate=0.1),
    ],
)
def test_whole_shares_are_the_batches_themselves(recipe: Recipe) -> None:
    problem = problem_of(recipe)
    order = torch.tensor([[2, 0, 3, 1], [1, 2, 0, 3]])
    (seen,) = evidence_of(problem)
    sets = torch.stack([IMAGES, IMAGES.flip(-1)])
    for images in (sets[:1], sets):
        found = unrolled_shares(problem, images, LABELS, seen, weights=weights_of(recipe, order))
        trained = torch.cat([images[0][order[0]], images[-1][order[1]]])
        for name, value in unrolled(problem, trained, LABELS[order].flatten(), seen).items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


def test_every_round_has_batches_of_its_own() -> None:
    recipe = Recipe(batch_size=2, epochs=1, learning_rate=0.5)
    one, other = (problem_of(recipe, seeds=(seed,)) for seed in (0, 1))
    joined = replace(one, rounds=(other,))
    start, loss = in_shares(joined, LocalSteps().search, reach=1.0)
    corners = []
    for seed in (0, 1):
        order = np.concatenate(list(draw_batches(recipe, np.arange(EXAMPLES), seed, 0, 1)))
        corners.append(weights_of(recipe, torch.as_tensor(order)[None]).flatten())
    assert not torch.equal(*corners)
    assert start.shape == (1, 2 * 2 * EXAMPLES)
    for settled, explained in ((corners, True), (corners[::-1], False)):
        logits = 100 * torch.cat(settled)
        assert bool(loss(IMAGES[None], logits, LABELS, evidence_of(joined)) < 1e-10) is explained


def test_a_batch_is_not_its_images_where_it_is_normalised_by_itself() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, kernel_size=3), nn.BatchNorm2d(2))
    assert not averages_images(model)
    assert averages_images(model.eval())
    assert not averages_images(nn.BatchNorm2d(2, track_running_stats=False).eval())
