"""The deep layers first: which they are, what they cost, and that they alone find an image."""

from dataclasses import replace
from functools import partial

import torch
from conftest import victim_of
from torch import Tensor, nn

from adversary.attacks.inverting import InvertingGradients
from adversary.balance import Weighting
from adversary.depth import deep_parameters, observed_gradient, restricted, shallow_share
from adversary.metrics import psnr
from adversary.optimizers.adam import adam, shifted, step_decay
from adversary.problem import Problem, frozen_model
from fedsim.defenses.masking import Masking
from fedsim.defenses.noising import Noising
from fedsim.defenses.pruning import Pruning
from fedsim.defenses.upload import Adaptive, Defense
from fedsim.tasks.classification import ClassificationTask

SHAPE = (1, 8, 8)
WEIGHTINGS: tuple[Weighting, ...] = ("length", "layers")


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


def test_defences_that_leave_a_dummy_alone_leave_the_deep_layers_to_match() -> None:
    victim = victim_of("convnet", 1, width=8)
    known: list[tuple[Defense, ...]] = [
        (),
        (Masking(p=0.01),),
        (Noising(std=0.01),),
        (Pruning(fraction=0.1),),
    ]
    for defenses in known:
        problem = victim.problem([victim.capture(victim.images[:1], victim.labels[:1], defenses)], defenses)
        assert 0 < len(deep_parameters(problem)) < len(problem.target)


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
        return attack._evaluator(problem, problem, problem.labels, alike=False)(point, rows)

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


def lopsided(factors: list[float]) -> Problem:
    """Captures of which the gradient of the two shallow layers is scaled."""
    problem = problem_of(partial(pooled), pictures(len(factors)), [1] * len(factors))
    deep, by = deep_parameters(problem), torch.tensor(factors, dtype=torch.float64)
    target = {
        name: value if name in deep else torch.einsum("p,p...->p...", by, value)
        for name, value in problem.target.items()
    }
    return replace(problem, target=target)


def test_the_shallow_share_is_that_of_each_observed_gradient() -> None:
    problem = lopsided([1.0, 3.0])
    deep = deep_parameters(problem)
    rest = [name for name in problem.target if name not in deep]
    for row, share in enumerate(shallow_share(problem, deep)):
        parts = [sum(problem.target[n][row].square().sum() for n in names) for names in (deep, rest)]
        torch.testing.assert_close(share, parts[1] / (parts[0] + parts[1]))
    assert shallow_share(problem, list(problem.target)).tolist() == [0, 0]


def test_layers_have_a_cosine_each_where_the_shallow_would_drown_the_deep() -> None:
    problem = lopsided([0.1, 100.0])
    deep = deep_parameters(problem)

    def alike(changed: Problem, weighting: Weighting = "auto") -> list[bool]:
        return InvertingGradients(weighting=weighting)._alike(changed, deep).tolist()  # type: ignore[no-any-return]

    assert alike(problem) == [False, True]
    assert alike(problem, "layers") == [True, True]
    assert alike(problem, "length") == [False, False]
    assert alike(replace(problem, knowledge=Adaptive(noise_std=0.1))) == [False, False]
    assert alike(replace(problem, slack=problem.target)) == [False, False]
    granted = {"1": (torch.zeros(2, 16), torch.ones(2, 16))}
    assert alike(replace(problem, statistics=granted)) == [False, True]
    assert alike(replace(problem, statistics=granted, own_statistics=True)) == [False, False]


def test_captures_of_both_kinds_get_what_they_get_alone() -> None:
    images = pictures(2)
    problem = lopsided([0.1, 100.0])
    found = InvertingGradients(max_evaluations=100).attack(problem)
    assert found.evaluations.tolist() == [100, 100]
    assert (psnr(found.images[:, 0].double(), images) > 20).all()
    for row, weighting in enumerate(WEIGHTINGS):
        alone = InvertingGradients(max_evaluations=100, weighting=weighting).attack(problem.select([row]))
        torch.testing.assert_close(alone.images[0], found.images[row], rtol=1e-3, atol=1e-3)
