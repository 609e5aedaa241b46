"""How small a loss has to be to certify an image: smaller for models that tell images hardly apart."""

import math

import torch
from conftest import Victim, victim_of

from adversary.attacks.idlg import IDLG
from adversary.attacks.match import BLUNT, CERTIFIED, sharpness
from adversary.attacks.prior_weights import APART, telling
from adversary.lockstep import matching_losses
from adversary.metrics import mse
from adversary.problem import Problem
from fedsim.defenses.noising import Noising


def saturated(steps: int) -> Victim:
    """Return a LeNet after some steps of gradient descent at rate 1, which drive its sigmoids apart."""
    victim = victim_of("lenet")
    for step in range(steps):
        gradient = victim.gradient(victim.images[step : step + 2], victim.labels[step : step + 2])
        for name, value in gradient.items():
            victim.weights[name] = victim.weights[name] - value
    return victim


def problem_of(victim: Victim) -> Problem:
    return victim.problem([victim.capture(victim.images[6:7], victim.labels[6:7])])


def test_telling_is_the_loss_of_an_image_that_is_off_by_so_much(victim: Victim) -> None:
    problem = problem_of(victim)
    draws = torch.randn(20, 1, 1, *victim.images.shape[1:], generator=torch.Generator().manual_seed(0))
    truth, labels = victim.images[6:7].double()[None], victim.labels[6:7][None]
    losses = [matching_losses(problem, truth + math.sqrt(APART) * draw.double(), labels) for draw in draws]
    assert 0.2 < float(telling(problem) / torch.cat(losses).mean()) < 5


def test_bounds_are_sharper_only_where_images_are_hardly_told_apart(victim: Victim) -> None:
    assert sharpness(problem_of(victim)) == 1
    blunt = sharpness(problem_of(saturated(4)))
    assert BLUNT <= blunt < 0.1
    noisy = Noising(std=0.01)
    capture = victim.capture(victim.images[:1], victim.labels[:1], [noisy])
    assert sharpness(victim.problem([capture], [noisy])) == 1  # the noise decides


def test_a_search_goes_on_where_the_plain_bound_would_show_another_image() -> None:
    victim = saturated(4)
    problem, truth = problem_of(victim), victim.images[6].double()
    attempt = IDLG().attack(problem)
    assert attempt.losses[0] < CERTIFIED * sharpness(problem)
    assert mse(attempt.images[0, 0].double(), truth) < 1e-3
    early = IDLG(max_evaluations=100).attack(problem)
    assert early.losses[0] < CERTIFIED
    assert not early.converged[0]
    assert mse(early.images[0, 0].double(), truth) > 3e-3
