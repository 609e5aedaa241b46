"""The attack that chooses by itself: exact where it can be, within its budget, and never by the truth."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from conftest import Victim, victim_of
from torch import nn

from adversary.attacks.auto import HANDICAP, Auto
from adversary.attacks.idlg import IDLG
from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.metrics import ssim
from adversary.problem import Attempt, Problem, frozen_model
from adversary.reconstruct import reconstruct
from fedsim.errors import InputError
from fedsim.tasks.classification import ClassificationTask, classification_task
from fedsim.training import Recipe


def problem_of(victim: Victim, model: str, seed: int = 0) -> Problem:
    task = classification_task(model, {}, (1, 28, 28), 10)
    other = Victim(task, dict(task.build(seed).state_dict()), victim.images, victim.labels)
    capture = other.capture(victim.images[:1], victim.labels[:1])
    return build_problem(
        [capture],
        other.weights,
        task,
        frozen_model(task, other.weights),
        learning_rate=0.5,
        batch_size=1,
        seeds=[3],
    )


def test_a_fully_connected_first_layer_is_read_at_once(victim: Victim) -> None:
    (result,) = reconstruct(Auto(), problem_of(victim, "mlp"))
    assert result.status == "converged"
    assert result.evaluations <= 2
    assert ssim(result.images[0], victim.images[0]) > 0.999


def test_finds_what_the_single_attacks_find(victim: Victim) -> None:
    captures = [victim.capture(victim.images[i : i + 1], victim.labels[i : i + 1]) for i in range(2)]
    for result, image in zip(reconstruct(Auto(), victim.problem(captures)), victim.images, strict=False):
        assert result.status == "converged"
        assert ssim(result.images[0], image) > 0.99


def test_keeps_to_its_budget_and_is_no_worse_than_its_first_search(victim: Victim) -> None:
    problem = victim.problem([victim.capture(victim.images[:1], victim.labels[:1])])
    one = IDLG(max_evaluations=60).attack(problem)
    several = Auto(max_evaluations=180).attack(problem)
    assert int(several.evaluations[0]) <= 200
    assert int(several.evaluations[0]) > 100
    assert several.losses[0] < 1.0
    assert torch.isfinite(one.losses).all()


def test_an_explained_capture_is_left_alone_while_another_goes_on(victim: Victim) -> None:
    easy = victim.capture(victim.images[:1], victim.labels[:1])
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in easy.arrays.items()}
    hopeless = Capture(round=1, client=1, node=2, upload="update", arrays=noise)
    first, second = reconstruct(Auto(max_evaluations=400), victim.problem([easy, hopeless]))
    assert first.status == "converged"
    assert second.status != "converged"
    assert second.evaluations > first.evaluations


@pytest.mark.parametrize(("optimizer", "number"), [("adam", 2), ("sgd", 20)])
def test_steps_that_are_not_unrolled_are_taken_for_one_gradient(optimizer: str, number: int) -> None:
    victim = victim_of("lenet", number)
    problem = victim.problem([victim.capture(victim.images, victim.labels)], batch_size=number)
    recipe = Recipe(batch_size=1, epochs=1, learning_rate=0.5, optimizer=optimizer)
    attempt = Auto(max_evaluations=4).attack(replace(problem, recipe=recipe))
    assert attempt.images.shape[:2] == (1, number)
    assert torch.isfinite(attempt.losses).all()


def test_a_model_that_nothing_suits_is_refused() -> None:
    def unreadable() -> (
        nn.Module
    ):  # no bias to read labels from, and a batch beyond those that search for them
        layers = (nn.Conv2d(1, 6, 3, padding=1), nn.Sigmoid(), nn.Conv2d(6, 5, 1, bias=False))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    task = ClassificationTask(unreadable, (1, 8, 8), 5)
    images = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    victim = Victim(task, dict(task.build(0).state_dict()), images, torch.arange(9) % 5)
    problem = victim.problem([victim.capture(images, victim.labels)], batch_size=9)
    with pytest.raises(InputError, match="no attack takes a batch of 9"):
        Auto(max_evaluations=10).attack(problem)


def test_draws_of_an_exact_reading_are_no_evaluations() -> None:
    victim = victim_of("mlp", 6)
    problem = victim.problem([victim.capture(victim.images, victim.labels)], batch_size=6)
    attempt = Auto(max_evaluations=50).attack(problem)
    assert int(attempt.evaluations[0]) <= 60


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """A search that ends at a loss, at an image of one shade."""

    loss: float
    shade: float
    converged: bool = False
    max_evaluations: int = 100
    max_images: ClassVar[int] = 1

    def attack(self, problem: Problem) -> Attempt:
        return Attempt(
            images=torch.full((len(problem), 1, *problem.task.input_shape), self.shade),
            labels=torch.zeros(len(problem), 1, dtype=torch.int64),
            losses=torch.full((len(problem),), self.loss),
            evaluations=torch.full((len(problem),), 100),
            converged=torch.full((len(problem),), self.converged),
        )


@pytest.mark.parametrize(
    ("less", "kept"),
    [
        (Fixed(loss=0.3, shade=0.2), 0.1),
        (Fixed(loss=0.05, shade=0.2), 0.2),
        (Fixed(loss=0.9, shade=0.2, converged=True), 0.2),
    ],
)
def test_a_search_that_suits_less_has_to_fit_much_better(
    victim: Victim, monkeypatch: pytest.MonkeyPatch, less: Fixed, kept: float
) -> None:
    searches = [(Fixed(loss=1.0, shade=0.1), 1.0), (less, HANDICAP)]
    monkeypatch.setattr("adversary.attacks.auto._searches", lambda _: searches)
    monkeypatch.setattr("adversary.attacks.auto._readings", lambda _: [])
    problem = victim.problem([victim.capture(victim.images[:1], victim.labels[:1])])
    found = Auto(max_evaluations=200).attack(problem)
    assert float(found.images.mean()) == pytest.approx(kept)
    assert int(found.evaluations[0]) == 200


def test_the_first_search_starts_where_it_would_alone(victim: Victim) -> None:
    problem = victim.problem([victim.capture(victim.images[:1], victim.labels[:1])])
    alone, chosen = (
        attack.attack(problem) for attack in (IDLG(max_evaluations=20), Auto(max_evaluations=20))
    )
    assert torch.equal(alone.images, chosen.images)
