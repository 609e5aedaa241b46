"""The deep layers first: which they are, what they cost, and that they alone find an image."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from adversary.attacks.inverting import InvertingGradients
from adversary.balance import Weighting, random_gradient
from adversary.depth import SHALLOW, deep_parameters, observed_gradient, restricted, shallow_share
from adversary.metrics import psnr
from adversary.optimizers.adam import adam, shifted, step_decay
from adversary.problem import Problem, frozen_model
from fedsim.defenses.upload import Adaptive
from fedsim.tasks.classification import ClassificationTask

SHAPE = (1, 8, 8)
WEIGHTINGS: tuple[Weighting, ...] = ("auto", "layers")


def pooled(width: int = 16) -> nn.Module:
    """Two layers as large as the image, then two that are not."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * width, 4),
    )  # fmt: skip


def flat() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))


def problem_of(build: partial[nn.Module], images: Tensor, labels: list[int]) -> Problem:
    """One capture an image (P, 1, 8, 8)."""
    task = ClassificationTask(build, SHAPE, 4)
    model = frozen_model(task, task.build(3).state_dict(), mode="eval")
    bare = Problem(task=task, model=model, target={}, seeds=())
    rows = [bare.gradient(x[None], torch.tensor([y])) for x, y in zip(images, labels, strict=True)]
    target = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    known = torch.tensor(labels)[:, None]
    return Problem(task=task, model=model, target=target, seeds=tuple(range(len(labels))), labels=known)


def pictures(number: int) -> Tensor:
    noise = torch.randn(number, 1, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return torch.sigmoid(nn.functional.interpolate(noise, size=(8, 8), mode="bilinear"))


def test_deep_are_those_behind_the_first_loss_of_resolution() -> None:
    problem = problem_of(partial(pooled), pictures(1), [1])
    assert deep_parameters(problem) == ["5.weight", "5.bias", "8.weight", "8.bias"]
    simulated = replace(problem, knowledge=Adaptive(simulate=lambda values: values))
    assert deep_parameters(simulated) == []
    # Where nothing is as large as the image, all are deep, and there is one stage.
    dense = problem_of(partial(flat), pictures(1), [1])
    assert deep_parameters(dense) == list(dense.target)


def test_the_gradient_by_some_parameters_is_that_part_of_the_whole() -> None:
    images = pictures(2)
    problem = problem_of(partial(pooled), images, [1, 2])
    masks = {name: torch.ones_like(value, dtype=torch.bool) for name, value in problem.target.items()}
    problem = replace(problem, present=masks, rounds=(problem,))
    names = deep_parameters(problem)
    part = restricted(problem, names)
    assert list(part.target) == list(part.present) == list(part.rounds[0].target) == names
    labels = torch.tensor([1])
    seen = part.select([0]).evidence()[0]
    whole = problem.gradient(images[:1], labels)
    some = observed_gradient(problem, images[:1], labels, seen)
    assert list(some) == names
    for name in names:
        torch.testing.assert_close(some[name], whole[name])


def test_the_deep_layers_alone_find_the_image_and_neighbours_do_not_matter() -> None:
    images = pictures(2)
    problem = problem_of(partial(pooled), images, [1, 3])
    attack = InvertingGradients(max_evaluations=150, optimizer="adam")
    found = attack.attack(problem)
    assert (psnr(found.images[:, 0].double(), images) > 20).all()
    alone = attack.attack(problem.select([1]))
    torch.testing.assert_close(alone.images[0], found.images[1], rtol=1e-3, atol=1e-3)


def test_stages_share_the_budget_and_the_schedule() -> None:
    problem = problem_of(partial(pooled), pictures(1), [1])
    names = deep_parameters(problem)
    for deep, stages in ((0.0, [(0, 40)]), (0.75, [(0, 30), (30, 40)]), (1.0, [(0, 40)])):
        attack = InvertingGradients(max_evaluations=40, optimizer="adam", deep=deep)
        assert [stage[:2] for stage in attack._stages(problem, names)] == stages
        assert attack.attack(problem).evaluations.tolist() == [40]
    rate = step_decay(1.0, 8)
    assert [shifted(rate, 5)(step) for step in range(3)] == [rate(5), rate(6), rate(7)]


def test_variation_weighs_in_units_of_the_distance() -> None:
    problem = problem_of(partial(pooled), pictures(1), [1])
    point, rows = torch.rand(1, 64, dtype=torch.float64), torch.arange(1)

    def of(**options: float | bool) -> tuple[Tensor, Tensor]:
        attack = InvertingGradients(**options)  # type: ignore[arg-type]
        assert problem.labels is not None
        shape = torch.Size((1, *SHAPE))
        return attack._evaluator(problem, problem, shape, problem.labels, alike=False)(point, rows)

    bare, slope = of(tv=0.0)
    absolute, steep = of(tv=1e-3, relative=False)
    relative, steeper = of(tv=0.5)
    torch.testing.assert_close((relative - bare) / (absolute - bare), 0.5 * bare / 1e-3)
    torch.testing.assert_close(steeper - slope, (steep - slope) * 0.5 * bare / 1e-3)


def test_the_last_point_is_kept_unless_the_loss_breaks() -> None:
    def jitter(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        del rows
        jitter.calls += 1  # type: ignore[attr-defined]
        losses = torch.tensor([float(jitter.calls), float(jitter.calls)])  # type: ignore[attr-defined]
        if jitter.calls == 3:  # type: ignore[attr-defined]
            losses[1] = torch.nan
        return losses[: len(points)], torch.ones_like(points)

    jitter.calls = 0  # type: ignore[attr-defined]
    found = adam(jitter, torch.zeros(2, 1), lambda _step: 1.0, max_evaluations=4, keep="last")
    torch.testing.assert_close(found.points, torch.tensor([[-4.0], [0.0]]))
    assert found.losses.tolist() == [1.0, 1.0]


def lopsided(build: partial[nn.Module], factor: float) -> Problem:
    """The problem of a model whose classifier's weights, and so the gradients of all before, are scaled."""
    task = ClassificationTask(build, SHAPE, 4)
    weights = dict(task.build(3).state_dict())
    weights["8.weight"] = factor * weights["8.weight"]
    model = frozen_model(task, weights, mode="eval")
    bare = Problem(task=task, model=model, target={}, seeds=())
    gradient = bare.gradient(pictures(1), torch.tensor([1]))
    target = {name: value[None] for name, value in gradient.items()}
    return Problem(task=task, model=model, target=target, seeds=(0,), labels=torch.tensor([[1]]))


def test_the_shallow_share_is_that_of_a_random_images_gradient() -> None:
    problem = lopsided(partial(pooled), 1.0)
    deep = deep_parameters(problem)
    squares = {name: float(value.square().sum()) for name, value in random_gradient(problem).items()}
    expected = sum(value for name, value in squares.items() if name not in deep) / sum(squares.values())
    assert shallow_share(problem, deep) == pytest.approx(expected)
    assert shallow_share(problem, list(problem.target)) == pytest.approx(0)


def test_layers_have_a_cosine_each_where_the_shallow_would_drown_the_deep() -> None:
    mild, steep = (lopsided(partial(pooled), factor) for factor in (0.1, 100.0))
    deep = deep_parameters(steep)
    assert shallow_share(mild, deep) < SHALLOW < shallow_share(steep, deep)
    attack = InvertingGradients()
    assert (attack._alike(mild, deep), attack._alike(steep, deep)) == (False, True)
    assert InvertingGradients(weighting="layers")._alike(mild, deep)
    assert not InvertingGradients(weighting="length")._alike(steep, deep)
    assert not attack._alike(replace(steep, knowledge=Adaptive(noise_std=0.1)), deep)
    assert not attack._alike(replace(steep, slack=steep.target), deep)
    granted = {"1": (torch.zeros(1, 16), torch.ones(1, 16))}
    assert attack._alike(replace(steep, statistics=granted), deep)
    assert not attack._alike(replace(steep, statistics=granted, own_statistics=True), deep)


def test_a_cosine_a_layer_finds_the_image() -> None:
    problem = lopsided(partial(pooled), 100.0)
    options = [InvertingGradients(max_evaluations=100, weighting=how) for how in WEIGHTINGS]
    auto, layers = (attack.attack(problem).images[0].double() for attack in options)
    assert torch.equal(auto, layers)
    assert psnr(auto, pictures(1)) > 20
