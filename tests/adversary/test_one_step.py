"""After one step the attacks on local training are plain gradient matching: same losses, same figures."""

import pytest
import torch
from conftest import Victim
from torch import Tensor
from torch.func import grad_and_value

from adversary.attacks.epoch_invariant import EpochInvariant
from adversary.attacks.inverting import InvertingGradients
from adversary.attacks.local_steps import LocalSteps
from adversary.attacks.sme import SME, surrogate_gradient
from adversary.matching import match
from adversary.metrics import psnr
from adversary.objectives import Comparison, Distance, direction, matching, relative_square
from adversary.problem import Evidence, Problem
from adversary.reconstruct import reconstruct
from adversary.unroll import unrolled
from fedsim.defenses.upload import Values

IMAGES = 3


def surrogate(problem: Problem, images: Tensor, labels: Tensor, seen: Evidence) -> Values:
    """Return SME's dummy gradient where a single step is known: at the global weights."""
    return surrogate_gradient(problem, images, labels, seen, torch.ones_like(problem.like[0].sum()))


@pytest.fixture(scope="module")
def problem(victim: Victim) -> Problem:
    """Return the problem of one step on a batch."""
    return victim.problem(
        [victim.capture(victim.images[:IMAGES], victim.labels[:IMAGES])], batch_size=IMAGES, seeds=[3]
    )


@pytest.mark.parametrize("compare", [direction, relative_square])
def test_losses_and_slopes_of_all_objectives_are_the_same(problem: Problem, compare: Comparison) -> None:
    images = torch.rand(
        IMAGES, *problem.task.input_shape, generator=torch.Generator().manual_seed(5)
    ).double()
    labels = torch.tensor([4, 1, 1])
    (evidence,) = problem.evidence()
    seen = (Evidence(*({name: value[0] for name, value in part.items()} for part in evidence)),)

    def slope(distance: Distance) -> tuple[Tensor, Tensor]:
        return grad_and_value(lambda x: distance(x, labels, seen))(images)

    plain = slope(matching(problem, compare=compare))
    assert plain[1] > 0.01
    for dummy in (unrolled, surrogate):
        torch.testing.assert_close(slope(matching(problem, dummy, compare)), plain)


@pytest.mark.parametrize("attack", [LocalSteps, EpochInvariant, SME])
def test_they_find_what_the_plain_attack_finds(problem: Problem, victim: Victim, attack: type) -> None:
    plain, local = (
        reconstruct(kind(max_evaluations=150), problem)[0].images for kind in (InvertingGradients, attack)
    )
    assert decibels(local, victim.images[:IMAGES]) > decibels(plain, victim.images[:IMAGES]) - 0.5


def decibels(images: Tensor, truth: Tensor) -> float:
    """Return the mean PSNR of images (n, C, H, W) clipped to [0, 1], in the order that fits best."""
    found = images.clamp(0, 1)
    ordered = torch.stack([found[pair] for pair in match(found, truth) if pair is not None])
    return float(psnr(ordered, truth).mean())
