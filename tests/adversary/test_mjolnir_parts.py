"""What Mjolnir is made of, piece by piece, against what theory says of each."""

import pytest
import torch
from conftest import Victim
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adversary.mjolnir.baselines import Statistics, rank_one, shrinkage, wiener
from adversary.mjolnir.chain import Sampling, reverse
from adversary.mjolnir.pictures import draw_pictures
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.vectors import (
    cosine,
    flatten,
    gradient_psnr,
    presence,
    signal_to_noise,
    unflatten,
)
from adversary.problem import Problem
from fedsim.defenses.clipping import Clipping
from fedsim.defenses.masking import Masking
from fedsim.defenses.noising import Noising
from fedsim.defenses.upload import Defense

SIGNAL = 2.0
"""Standard deviation of the signal in the chain's tests."""


def problem_of(victim: Victim, *defenses: Defense, number: int = 4) -> Problem:
    captures = [
        victim.capture(victim.images[i : i + 1], victim.labels[i : i + 1], defenses, client=i)
        for i in range(number)
    ]
    return victim.problem(captures, defenses)


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def gaussian_mean(rows: Tensor, std: Tensor) -> Tensor:
    """The posterior mean for a signal N(0, SIGNAL^2)."""
    return rows * (SIGNAL**2 / (SIGNAL**2 + std.square()))[:, None]


def test_rows_are_the_gradients_in_order(victim: Victim) -> None:
    problem = problem_of(victim)
    rows = flatten(problem.target)
    assert rows.shape == (4, sum(value[0].numel() for value in problem.target.values()))
    for name, value in unflatten(rows, problem.target).items():
        torch.testing.assert_close(value, problem.target[name])


def test_measures_of_closeness() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(
        cosine(rows, torch.tensor([[4.0, 3.0], [1.0, 1.0]])), torch.tensor([0.96, 0.0])
    )
    # range 4, mean squared error 1 / 2: 10 log10(16 / 0.5)
    found = gradient_psnr(torch.tensor([[1.0, 4.0]]), torch.tensor([[0.0, 4.0]]))
    torch.testing.assert_close(found, torch.tensor([15.0515]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(signal_to_noise(rows, 0.5)[0], torch.tensor(5 / (0.5 * 2**0.5)))


def test_the_mean_is_the_first_step() -> None:
    rows, std = torch.randn(3, 50, dtype=torch.float64), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    found = reverse(gaussian_mean, rows, std, steps=9, sampling="mean", generators=generators(3))
    torch.testing.assert_close(found, gaussian_mean(rows, std))


def test_ddim_follows_the_probability_flow() -> None:
    """For a Gaussian signal its solution is known: g_0 = g_sigma s / sqrt(s^2 + sigma^2)."""
    rows, std = torch.randn(3, 50, dtype=torch.float64), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    found = reverse(gaussian_mean, rows, std, steps=2000, sampling="ddim", generators=generators(3))
    expected = rows * (SIGNAL / (SIGNAL**2 + std.square()).sqrt())[:, None]
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=1e-3)


def test_the_ancestral_chain_draws_from_the_posterior() -> None:
    """Its mean is the posterior mean, its variance s^2 sigma^2 / (s^2 + sigma^2)."""
    std = torch.tensor([1.0, 3.0], dtype=torch.float64)
    rows = torch.full((2, 40_000), 1.5, dtype=torch.float64)
    found = reverse(gaussian_mean, rows, std, steps=300, sampling="ancestral", generators=generators(2))
    torch.testing.assert_close(found.mean(dim=1), gaussian_mean(rows, std)[:, 0], rtol=0.03, atol=0.02)
    variance = SIGNAL**2 * std.square() / (SIGNAL**2 + std.square())
    torch.testing.assert_close(found.var(dim=1), variance, rtol=0.06, atol=0.0)


@pytest.mark.parametrize("sampling", ["ddim", "ancestral"])
def test_no_step_is_below_the_weakest_noise_of_the_training(sampling: Sampling) -> None:
    """The chain ends there; one that starts below it takes all its steps where it is."""
    asked: list[Tensor] = []

    def mean(rows: Tensor, std: Tensor) -> Tensor:
        asked.append(std)
        return gaussian_mean(rows, std)

    rows, std = torch.randn(2, 20, dtype=torch.float64), torch.tensor([2.0, 0.1], dtype=torch.float64)
    reverse(mean, rows, std, steps=4, sampling=sampling, generators=generators(2), weakest=0.25)
    torch.testing.assert_close(
        torch.stack(asked)[:, 0], torch.tensor([2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    )
    torch.testing.assert_close(torch.stack(asked)[:, 1], torch.full((4,), 0.1, dtype=torch.float64))


def test_a_captures_draws_do_not_depend_on_its_neighbours() -> None:
    rows, std = torch.randn(2, 20, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    both = reverse(gaussian_mean, rows, std, steps=5, sampling="ancestral", generators=generators(2))
    alone = reverse(
        gaussian_mean, rows[1:], std[1:], steps=5, sampling="ancestral", generators=generators(2)[1:]
    )
    torch.testing.assert_close(both[1:], alone)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([1, 3]),
    st.integers(8, 33),
    st.integers(8, 33),
    st.integers(0, 2**31),
    st.sampled_from([1, 3]),
)
def test_pictures_of_any_shape(
    channels: int, height: int, width: int, seed: int, given_channels: int
) -> None:
    public = torch.rand(5, given_channels, 28, 28, generator=torch.Generator().manual_seed(seed))
    shape, moved = (channels, height, width), seed % 3 > 0
    twice = [
        draw_pictures(public, shape, 4, torch.Generator().manual_seed(seed), moved=moved) for _ in range(2)
    ]
    assert twice[0].shape == (4, channels, height, width)
    assert float(twice[0].min()) >= 0
    assert float(twice[0].max()) <= 1
    assert torch.equal(*twice)


def test_pictures_of_the_victims_kind_are_shown_as_they_are() -> None:
    public = torch.rand(5, 1, 28, 28)
    drawn = draw_pictures(public, (1, 28, 28), 7, torch.Generator().manual_seed(0), moved=False)
    assert all(any(torch.equal(one, image) for image in public) for one in drawn)


def test_the_surrogate_uploads_what_the_victim_would(victim: Victim) -> None:
    """The same image and label give the same gradient, and the same defence is put on it."""
    clipped = problem_of(victim, Clipping(norm=0.5), number=2)
    surrogate = Surrogate.of(clipped, victim.images)
    rows = surrogate.gradients(victim.images[:2, None].float(), victim.labels[:2, None])
    torch.testing.assert_close(
        rows, flatten(problem_of(victim, number=2).target).float(), rtol=1e-3, atol=1e-5
    )
    sent = surrogate.uploads(rows, victim.labels[:2, None], torch.zeros(2), torch.Generator().manual_seed(0))
    torch.testing.assert_close(flatten(sent.target), flatten(clipped.target).float(), rtol=1e-3, atol=1e-5)


def test_the_surrogates_masks_and_noise_are_the_victims(victim: Victim) -> None:
    problem = problem_of(victim, Noising(std=0.01), Masking(p=0.4))
    surrogate = Surrogate.of(problem, victim.images)
    generator = torch.Generator().manual_seed(0)
    _, labels, rows = surrogate.batch(16, generator)
    sent = surrogate.uploads(rows, labels, torch.full((16,), 0.3), generator)
    there = flatten(sent.present)
    assert abs(float(there.float().mean()) - float(flatten(problem.present).float().mean())) < 0.02
    assert float((flatten(sent.target)[~there]).abs().max()) == 0
    left = (flatten(sent.target) - rows)[there]
    assert abs(float(left.std()) - 0.3) < 0.01


@pytest.mark.parametrize("masks", [(), (Masking(p=0.4),)], ids=["whole", "masked"])
def test_baselines(victim: Victim, masks: tuple[Masking, ...]) -> None:
    clean = problem_of(victim, *masks)
    problem = problem_of(victim, Noising(std=0.05), *masks)
    truth, there = flatten(problem_of(victim).target), presence(problem.present, problem.target)
    noisy, std = flatten(problem.target), torch.full((4,), 0.1, dtype=torch.float64)

    def error(rows: Tensor) -> float:
        return float(((rows - truth) * there).square().sum())

    assert error(shrinkage(problem, std)) < error(noisy)
    assert error(wiener(problem, std, truth)) < error(shrinkage(problem, std))
    assert error(rank_one(problem)) < error(noisy)
    for found in (shrinkage(problem, std), wiener(problem, std, truth), rank_one(problem)):
        assert bool((found[~there] == 0).all())
    shown = presence(clean.present, clean.target)
    torch.testing.assert_close(rank_one(clean)[shown], truth[shown], rtol=1e-3, atol=1e-5)


def test_principal_directions_are_the_surrogates_own(victim: Victim) -> None:
    """Without noise a surrogate gradient is its own projection; with much only the class mean is left."""
    surrogate = Surrogate.of(problem_of(victim), victim.images)
    statistics = Statistics(surrogate, 64, seed=3)
    _, labels, rows = surrogate.batch(64, torch.Generator().manual_seed(3))
    still = statistics.pca(rows, torch.zeros(64), labels[:, 0])
    torch.testing.assert_close(still, rows, rtol=1e-2, atol=2e-3)
    there = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    filled = statistics.pca(rows * there, torch.full((64,), 1e-4), labels[:, 0], there)
    torch.testing.assert_close(filled, rows, rtol=1e-2, atol=2e-3)
    all_there = torch.ones_like(there)
    std = torch.full((64,), 0.1)
    torch.testing.assert_close(
        statistics.pca(rows, std, labels[:, 0], all_there), statistics.pca(rows, std, labels[:, 0])
    )
    lost = statistics.pca(rows, torch.full((64,), 1e6), labels[:, 0])
    torch.testing.assert_close(lost, statistics.class_means(labels[:, 0]), rtol=1e-3, atol=1e-4)
