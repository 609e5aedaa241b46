"""The weight of the prior: it follows the pull of the noise on a pixel, and nothing where there is none."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import Victim

from adversary.attacks.prior_weights import ANNEALED, noise_weight, prior_weights, sensitivity
from adversary.problem import Problem
from fedsim.defenses import DEFENSES
from fedsim.defenses.upload import Defense
from fedsim.options import build


def defense(name: str, **options: Any) -> Defense:
    made: Defense = build(DEFENSES.resolve(name), options, name)
    return made


def problem(victim: Victim, *defenses: Defense, number: int = 2) -> Problem:
    pairs = [(victim.images[i : i + 1], victim.labels[i : i + 1]) for i in range(number)]
    captures = [victim.capture(*pair, defenses, client) for client, pair in enumerate(pairs)]
    return victim.problem(captures, defenses)


def test_nothing_is_weighed_without_noise_and_less_and_less_of_what_is_missing(victim: Victim) -> None:
    (none,) = prior_weights(problem(victim))
    assert none.tolist() == [0, 0]
    stages = prior_weights(problem(victim, defense("masking", p=0.5)))
    assert [stage.tolist() for stage in stages] == [[weight] * 2 for weight in ANNEALED]
    noisy = problem(victim, defense("masking", p=0.5), defense("noising", std=0.01))
    for stage, weight in zip(prior_weights(noisy), ANNEALED, strict=True):
        torch.testing.assert_close(stage, noise_weight(noisy) + weight)


def test_the_weight_grows_as_the_noise(victim: Victim) -> None:
    weak, strong = (problem(victim, defense("noising", std=std)) for std in (0.0001, 0.001))
    first, last = prior_weights(strong)
    torch.testing.assert_close(first, 10 * last)
    torch.testing.assert_close(last, 10 * prior_weights(weak)[-1], rtol=1e-2, atol=0)


def test_sensitivity_is_the_length_of_a_column_of_the_jacobian(victim: Victim) -> None:
    noisy = problem(victim, defense("noising", std=0.001), number=1)
    image = 0.5 + 0.2 * noisy.draw(2, 1, *victim.task.input_shape)[0, 0]

    squares = []
    for pixel in range(0, image.numel(), 7):
        step = torch.zeros_like(image)
        step.view(-1)[pixel] = 1e-4
        here, there = (noisy.gradient(x, victim.labels[:1]) for x in (image, image + step))
        change = torch.cat([(there[name] - here[name]).flatten() for name in here])
        squares.append((change / 1e-4).square().sum())
    columns = torch.stack(squares).mean().sqrt()
    found = sensitivity(noisy, torch.ones(1))
    assert found.item() == pytest.approx(columns.item(), rel=0.2)


def test_after_clipping_the_weight_does_not_depend_on_the_length(victim: Victim) -> None:
    long, short = (
        problem(victim, defense("clipping", norm=norm), defense("noising", std=0.003 * norm))
        for norm in (0.1, 0.001)
    )
    torch.testing.assert_close(noise_weight(long), noise_weight(short), rtol=1e-4, atol=0)


def test_two_rounds_of_a_batch_need_less_prior(victim: Victim) -> None:
    one = problem(victim, defense("noising", std=0.01))
    both = replace(one, rounds=(one,))
    torch.testing.assert_close(noise_weight(one), 2**0.5 * noise_weight(both))


def test_what_a_capture_gets_does_not_depend_on_its_neighbours(victim: Victim) -> None:
    noisy = problem(victim, defense("noising", std=0.01), number=3)
    torch.testing.assert_close(noise_weight(noisy)[2:], noise_weight(noisy.select([2])))
