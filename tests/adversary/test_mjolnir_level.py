"""The noise's level, read off the classifier's gradient alone."""

import pytest
import torch
from conftest import Victim

from adversary.mjolnir.level import declared_level, estimated_level, low_rank, shown_ratio
from adversary.mjolnir.vectors import flatten, signal_to_noise
from adversary.problem import Problem
from fedsim.defenses.masking import Masking
from fedsim.defenses.noising import Noising
from fedsim.defenses.upload import Defense
from fedsim.errors import InputError

UNIT = 0.5
"""Learning rate of the fixture: updates are that much of a gradient."""


def noisy(victim: Victim, *defenses: Defense, batch: int = 1) -> Problem:
    captures = [
        victim.capture(victim.images[i : i + batch], victim.labels[i : i + batch], defenses, client=i)
        for i in range(4)
    ]
    return victim.problem(captures, defenses, batch_size=batch)


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
@pytest.mark.parametrize("std", [1e-3, 0.05, 1.0])
def test_the_estimate_is_the_declared_level(victim: Victim, std: float, distribution: str) -> None:
    problem = noisy(victim, Noising(std=std, distribution=distribution))
    torch.testing.assert_close(declared_level(problem), torch.full((4,), std / UNIT, dtype=torch.float64))
    torch.testing.assert_close(estimated_level(problem), declared_level(problem), rtol=0.05, atol=0.0)


@pytest.mark.parametrize(("p", "within"), [(0.3, 0.05), (0.8, 0.1)])
def test_absent_entries_do_not_count(victim: Victim, p: float, within: float) -> None:
    problem = noisy(victim, Noising(std=0.05), Masking(p=p))
    torch.testing.assert_close(estimated_level(problem), declared_level(problem), rtol=within, atol=0.0)


def test_the_ratio_is_of_the_entries_that_are_there(victim: Victim) -> None:
    """And of the signal: the noise's own part of the upload's length is taken away."""
    masked, whole = (noisy(victim, Noising(std=0.05), *more) for more in ([Masking(p=0.9)], []))
    clean = noisy(victim)
    expected = signal_to_noise(flatten(clean.target), declared_level(clean) + 0.1)
    assert float(expected.min()) > 1
    for problem, within in ((whole, 0.02), (masked, 0.1)):
        shown = shown_ratio(problem, declared_level(problem))
        torch.testing.assert_close(shown, expected, rtol=within, atol=0.0)


def test_two_images_leave_eight_of_ten_directions(victim: Victim) -> None:
    problem = noisy(victim, Noising(std=0.05), batch=2)
    torch.testing.assert_close(estimated_level(problem), declared_level(problem), rtol=0.05, atol=0.0)


def test_without_noise_there_is_next_to_none(victim: Victim) -> None:
    assert float(estimated_level(noisy(victim)).max()) < 1e-6


def test_a_broken_upload_does_not_stop_the_others(victim: Victim) -> None:
    problem = noisy(victim, Noising(std=0.05))
    expected = estimated_level(problem)
    for value in problem.target.values():
        value[1] = torch.nan
    torch.testing.assert_close(estimated_level(problem)[[0, 2, 3]], expected[[0, 2, 3]])


def test_as_many_images_as_classes_leave_nothing_to_go_by(victim: Victim) -> None:
    problem = noisy(victim, Noising(std=0.05), batch=2)
    with pytest.raises(InputError, match="batch of 10; allowed: fewer images than classes"):
        estimated_level(Problem(**{**vars(problem), "batch_size": 10}))


def test_the_low_rank_fit_is_exact_on_low_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(2, 6, 1, generator=generator) * torch.randn(2, 1, 9, generator=generator)
    there = torch.rand(2, 6, 9, generator=generator) < 0.8
    torch.testing.assert_close(low_rank(whole, torch.ones_like(there), 1), whole)
    torch.testing.assert_close(low_rank(torch.where(there, whole, 0.0), there, 1), whole)
