"""Layers of very different lengths: each in units of its own, so that the shallow ones are heard."""

import torch
from torch import nn

from adversary.attacks.idlg import IDLG
from adversary.attacks.match import EXPLAINED
from adversary.attacks.outcome import judged
from adversary.balance import LOPSIDED, balance, layer_spreads, weighs_layers
from adversary.lockstep import matching_losses
from adversary.objectives import direction, layer_directions, layer_squares, relative_square, spread_squares
from adversary.problem import Evidence, Problem, frozen_model
from adversary.reconstruct import reconstruct
from fedsim.defenses.upload import Adaptive
from fedsim.tasks.classification import ClassificationTask


def deep_sigmoids() -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(16, 24), nn.Sigmoid()]
    for _ in range(8):
        layers += [nn.Linear(24, 24), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(24, 4))


def problem_of(factory: type | object, image: torch.Tensor) -> Problem:
    task = ClassificationTask(factory, (1, 4, 4), 4)  # type: ignore[arg-type]
    weights = dict(task.build(1).state_dict())
    model = frozen_model(task, weights)
    bare = Problem(task=task, model=model, target={}, seeds=())
    gradient = bare.gradient(image[None].double(), torch.tensor([2]))
    return Problem(
        task=task, model=model, target={name: value[None] for name, value in gradient.items()}, seeds=(5,)
    )


def image() -> torch.Tensor:
    return torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(3))


def test_layers_alike_does_not_care_for_the_length_of_a_layer() -> None:
    generator = torch.Generator().manual_seed(0)
    dummy = {name: torch.randn(5, generator=generator) for name in ("a.weight", "a.bias", "b.weight")}
    target = {name: torch.randn(5, generator=generator) for name in dummy}
    scaled = [
        {name: value * (1e-6 if name.startswith("a") else 1) for name, value in values.items()}
        for values in (dummy, target)
    ]
    before = layer_squares(dummy, Evidence(target, {}, {}))
    torch.testing.assert_close(layer_squares(scaled[0], Evidence(scaled[1], {}, {})), before)
    alone = {"b.weight": dummy["b.weight"]}, {"b.weight": target["b.weight"]}
    torch.testing.assert_close(
        layer_squares(alone[0], Evidence(alone[1], {}, {})),
        relative_square(alone[0], Evidence(alone[1], {}, {})),
    )


def test_directions_of_layers_are_those_of_each_alone_and_care_for_no_length() -> None:
    generator = torch.Generator().manual_seed(0)
    dummy = {name: torch.randn(5, generator=generator) for name in ("a.weight", "a.bias", "b.weight")}
    target = {name: torch.randn(5, generator=generator) for name in dummy}
    alone = [
        direction({n: dummy[n] for n in names}, Evidence({n: target[n] for n in names}, {}, {}))
        for names in (("a.weight", "a.bias"), ("b.weight",))
    ]
    found = layer_directions(dummy, Evidence(target, {}, {}))
    torch.testing.assert_close(found, torch.stack(alone).mean())
    scaled = {name: value * (1e-6 if name.startswith("a") else 3) for name, value in dummy.items()}
    torch.testing.assert_close(layer_directions(scaled, Evidence(target, {}, {})), found)
    masks = {"b.weight": torch.zeros(5, dtype=torch.bool)}
    hidden = layer_directions(dummy, Evidence(target, masks, {}))
    torch.testing.assert_close(hidden, alone[0] / 2)


def test_a_layer_that_shows_nothing_is_left_out() -> None:
    target = {"a.weight": torch.zeros(3), "b.weight": torch.ones(3)}
    dummy = {"a.weight": torch.ones(3), "b.weight": 2 * torch.ones(3)}
    torch.testing.assert_close(layer_squares(dummy, Evidence(target, {}, {})), torch.tensor(0.5))


def test_behind_sigmoids_the_gradients_of_images_lie_ever_closer() -> None:
    problem = problem_of(deep_sigmoids, image())
    spreads = layer_spreads(problem)
    lengths = {name.rpartition(".")[0]: 0.0 for name in problem.target}
    for name, value in problem.target.items():
        lengths[name.rpartition(".")[0]] += float(value.square().sum())
    relative = [spreads[layer] / lengths[layer] for layer in lengths]
    assert relative[0] > 0.01 > 1e-6 > relative[-1]


def test_in_units_of_the_spread_the_gradient_of_another_image_is_about_one_away() -> None:
    problem = problem_of(deep_sigmoids, image())
    other = problem.gradient(1 - image()[None].double(), torch.tensor([2]))
    (seen,) = problem.evidence(torch.tensor([0]))
    one = Evidence(*({name: value[0] for name, value in part.items()} for part in seen))
    far = spread_squares(layer_spreads(problem), 1.0)(other, one)
    assert 0.1 < far < 100
    assert layer_squares(other, one) < 0.1 * far
    assert spread_squares(layer_spreads(problem), 1.0)(one.target, one) == 0
    assert spread_squares(layer_spreads(problem), 0.1)(other, one) > 2 * far


def test_auto_weighs_layers_alike_in_deep_nets_of_sigmoids_only() -> None:
    deep = problem_of(deep_sigmoids, image())
    flat = problem_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), image())
    assert balance(deep) < LOPSIDED < balance(flat)
    assert weighs_layers(deep, "auto")
    assert not weighs_layers(flat, "auto")
    assert not weighs_layers(deep, "length")
    assert weighs_layers(flat, "layers")
    noisy = Problem(**{**vars(deep), "knowledge": Adaptive(noise_std=0.1)})
    assert not weighs_layers(noisy, "auto")


def test_the_image_behind_many_sigmoids_is_found_by_weighing_layers_alike() -> None:
    problem = problem_of(deep_sigmoids, image())
    (alike,) = reconstruct(IDLG(max_evaluations=1500), problem)
    (together,) = reconstruct(IDLG(max_evaluations=1500, weighting="length"), problem)
    assert (alike.images[0] - image()).abs().max() < 0.02
    assert (together.images[0] - image()).abs().max() > 0.2


def test_behind_many_sigmoids_other_attacks_are_judged_by_layers_too() -> None:
    problem = problem_of(deep_sigmoids, image())
    wrong, labels = torch.full((1, 1, 1, 4, 4), 0.5, dtype=torch.float64), torch.tensor([[2]])
    attempt = judged(problem, wrong, labels, torch.ones(1, dtype=torch.int64))
    assert matching_losses(problem, wrong, labels) < EXPLAINED  # the classifier's gradient drowns the rest
    assert not attempt.converged
    right = judged(problem, image()[None, None].double(), labels, torch.ones(1, dtype=torch.int64))
    assert right.converged
