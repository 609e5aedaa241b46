"""Inverting Gradients on small networks: exact where the model is smooth, close where it has kinks."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from adversary.attacks.dlg import DLG
from adversary.attacks.idlg import IDLG
from adversary.attacks.inverting import InvertingGradients
from adversary.lockstep import LARGE, chunk_size, lockstep
from adversary.metrics import psnr, ssim
from adversary.objectives import direction, matching
from adversary.precision import cast, is_smooth
from adversary.priors import mean_variation, norm
from adversary.problem import Problem, frozen_model
from fedsim.errors import InputError
from fedsim.tasks.classification import ClassificationTask

SHAPE = (1, 8, 8)


def small(activation: type[nn.Module], width: int = 8) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), activation(), nn.Conv2d(width, width, 3, padding=1), activation(),
        nn.Flatten(), nn.Linear(64 * width, 4),
    )  # fmt: skip


def pictures(number: int) -> Tensor:
    """Smooth blobs in [0, 1], (number, 1, 8, 8)."""
    noise = torch.randn(number, 1, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.sigmoid(nn.functional.interpolate(noise, size=(8, 8), mode="bilinear"))


def problem_of(
    activation: type[nn.Module], images: Tensor, labels: list[list[int]], width: int = 8
) -> Problem:
    """One capture a row of labels; images (P * B, 1, 8, 8) in order."""
    task = ClassificationTask(partial(small, activation, width), SHAPE, 4)
    model = frozen_model(task, task.build(1).state_dict())
    size = len(labels[0])
    bare = Problem(task=task, model=model, target={}, seeds=())
    rows = [bare.gradient(x, torch.tensor(y)) for x, y in zip(images.split(size), labels, strict=True)]
    target = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return Problem(task=task, model=model, target=target, seeds=tuple(range(len(labels))), batch_size=size)


def test_is_exact_on_a_smooth_network() -> None:
    images = pictures(2)
    attempt = InvertingGradients(max_evaluations=600).attack(problem_of(nn.Sigmoid, images, [[1], [3]]))
    assert attempt.converged.all()
    assert attempt.labels.tolist() == [[1], [3]]
    assert (psnr(attempt.images[:, 0], images) > 40).all()


def test_comes_close_on_a_network_with_kinks_and_a_batch() -> None:
    images = pictures(2)
    problem = problem_of(nn.ReLU, images, [[0, 2]])
    attempt = InvertingGradients(max_evaluations=300, tv=1e-4).attack(problem)
    assert attempt.labels.tolist() == [[0, 2]]
    assert (ssim(attempt.images[0].double(), images) > 0.9).all()
    assert (attempt.images.min() >= 0) & (attempt.images.max() <= 1)


def test_the_longer_schedule_ends_lower_and_the_papers_settings_run() -> None:
    problem = problem_of(nn.ReLU, pictures(1), [[2]])
    losses = [
        float(InvertingGradients(max_evaluations=number).attack(problem).losses[0]) for number in (5, 30, 200)
    ]
    assert losses[0] > losses[1] > losses[2]
    paper = InvertingGradients(max_evaluations=200, decay="step", start="normal", learning_rate=0.025)
    assert paper.attack(problem).losses[0] < 0.1


def test_neighbours_do_not_matter() -> None:
    images = pictures(3)
    problem = problem_of(nn.ReLU, images, [[0], [1], [2]])
    attack = InvertingGradients(max_evaluations=30)
    together = attack.attack(problem)
    for row in range(3):
        alone = attack.attack(problem.select([row]))
        torch.testing.assert_close(alone.images[0], together.images[row], rtol=1e-3, atol=1e-3)


def test_kinks_are_found_also_where_they_are_functions() -> None:
    class Functional(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.flatten(1))

    problem = problem_of(nn.Sigmoid, pictures(1), [[0]])
    assert is_smooth(problem)
    assert not is_smooth(replace(problem, model=Functional()))
    assert not is_smooth(problem_of(nn.LeakyReLU, pictures(1), [[0]]))


def test_a_cast_leaves_the_problem_as_it_was() -> None:
    problem = problem_of(nn.ReLU, pictures(1), [[0]])
    single = cast(problem, torch.float32)
    assert {value.dtype for value in single.target.values()} == {torch.float32}
    assert {value.dtype for value in single.model.parameters()} == {torch.float32}
    assert {value.dtype for value in problem.model.parameters()} == {torch.float64}
    assert cast(problem, torch.float64) is problem


@pytest.mark.parametrize("width", [8, 64])
def test_losses_and_gradients_are_those_of_plain_autograd(width: int) -> None:
    images = pictures(2)
    problem = problem_of(nn.Tanh, images, [[0], [1]], width)
    assert (chunk_size(problem) == 1) == (sum(p.numel() for p in problem.model.parameters()) > LARGE)
    distance = matching(problem, compare=direction)
    points, labels = problem.draw_images(), torch.tensor([[0], [1]])
    losses, gradients = lockstep(problem, distance)(points, labels, problem.evidence())
    for row in range(2):
        x = points[row].clone().requires_grad_()
        model = problem.model.requires_grad_(True)
        loss = nn.functional.cross_entropy(model(x), labels[row])
        dummy = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        a = torch.cat([value.flatten() for value in dummy])
        b = torch.cat([value[row].flatten() for value in problem.target.values()])
        expected = 2 * (1 - torch.nn.functional.cosine_similarity(a, b, dim=0))
        torch.testing.assert_close(losses[row], expected.detach())
        torch.testing.assert_close(gradients[row], torch.autograd.grad(expected, x)[0])
        model.requires_grad_(False)


def test_total_variation_is_that_of_the_released_code() -> None:
    images = torch.rand(2, 3, 5, 7, dtype=torch.float64)
    dx = (images[:, :, :, :-1] - images[:, :, :, 1:]).abs().mean()
    dy = (images[:, :, :-1, :] - images[:, :, 1:, :]).abs().mean()
    torch.testing.assert_close(mean_variation(images), dx + dy)


def test_norm_has_a_gradient_at_zero() -> None:
    values = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(norm(values), values)
    assert gradient.tolist() == [0, 0, 0]
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), torch.tensor(5.0))


@pytest.mark.parametrize("attack", [IDLG, DLG])
def test_dlg_and_idlg_take_other_starts(attack: type[IDLG] | type[DLG]) -> None:
    problem = problem_of(nn.Sigmoid, pictures(1), [[1]])
    one = attack(max_evaluations=1, start="patterned").attack(problem).images[0, 0, 0]
    torch.testing.assert_close(one[:2, :2], one[4:6, 2:4], rtol=0, atol=0.02)  # two evaluations at least
    other = attack(max_evaluations=1, start="normal").attack(problem).images[0, 0, 0]
    assert (other[:2, :2] - other[4:6, 2:4]).abs().max() > 0.5
    assert attack(max_evaluations=60, start="patterned").attack(problem).losses[0] < 1e-2


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"max_evaluations": 0}, "max_evaluations"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"tv": -1.0}, "tv"),
        ({"deep": 1.5}, "deep"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], key: str) -> None:
    with pytest.raises(InputError, match=key):
        InvertingGradients(**options)  # type: ignore[arg-type]
