"""Local training unrolled: equal to what the client does, and inverted exactly where it is small."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Victim
from local_clients import EXAMPLES, IMAGES, LABELS, SHAPE, error, problem_of, trained

from adversary.attacks.epoch_invariant import EpochInvariant, average, spread
from adversary.attacks.local_steps import LocalSteps, drawn_orders
from adversary.attacks.sme import SME, surrogate_gradient
from adversary.matching import match
from adversary.metrics import psnr
from adversary.objectives import direction, matching
from adversary.reconstruct import reconstruct
from adversary.unroll import batches_of, number_of_epochs, unrolled, unrolled_update
from fedsim.defenses import DEFENSES
from fedsim.errors import InputError
from fedsim.options import build
from fedsim.training import Recipe
from fedsim.training.batches import draw_batches, number_of_batches


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(algorithm="fedsgd", batch_size=4, learning_rate=0.5),
        Recipe(batch_size=4, epochs=3, learning_rate=0.5),
        Recipe(batch_size=2, epochs=2, learning_rate=0.5, momentum=0.9, weight_decay=0.01),
        Recipe(batch_size=3, epochs=2, learning_rate=0.1, momentum=0.5),
        Recipe(batch_size=3, steps=3, learning_rate=0.1, weight_decay=0.1),
    ],
)
def test_the_unrolled_update_is_the_clients_own(recipe: Recipe) -> None:
    batches = batches_of(recipe, IMAGES, LABELS, EXAMPLES)
    rows = [[int((image == IMAGES).flatten(1).all(1).nonzero()) for image in batch] for batch, _ in batches]
    expected = trained(recipe, rows).update
    found = unrolled_update(problem_of(recipe), recipe, batches)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)
    drawn = [len(batch) for batch in draw_batches(recipe, np.arange(EXAMPLES), 0, 0, 1)]
    assert [len(row) for row in rows] == drawn


@pytest.mark.parametrize("upload", ["update", "weights", "gradient"])
def test_the_true_batches_explain_every_kind_of_upload(upload: str) -> None:
    recipe = Recipe(batch_size=2, epochs=2, learning_rate=0.5, momentum=0.5)
    problem = problem_of(recipe, upload=upload)
    order = np.concatenate(list(draw_batches(recipe, np.arange(EXAMPLES), 0, 0, 1)))
    (evidence,) = problem.evidence()
    seen = type(evidence)(*({name: value[0] for name, value in part.items()} for part in evidence))
    loss = matching(problem, unrolled)(IMAGES[order], LABELS[order], (seen,))
    assert loss < 1e-12
    assert matching(problem)(IMAGES, LABELS, (seen,)) > 1e-3


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(batch_size=2, epochs=1, learning_rate=0.5),
        Recipe(batch_size=4, epochs=2, learning_rate=0.5, momentum=0.9, weight_decay=0.01),
        Recipe(batch_size=2, epochs=2, learning_rate=0.1),
    ],
    ids=["E1B2", "E2B4", "E2B2"],
)
def test_local_steps_are_inverted_exactly(recipe: Recipe) -> None:
    (result,) = reconstruct(LocalSteps(), problem_of(recipe), restarts=4)
    assert result.status == "converged"
    assert error(result.images) < 0.01


def test_signed_adam_on_the_direction_stays_in_the_box_and_nears_the_images() -> None:
    problem = problem_of(Recipe(batch_size=4, epochs=2, learning_rate=0.5))
    attack = LocalSteps(optimizer="adam", objective="cosine", max_evaluations=300)
    attempt = attack.attack(problem)
    assert 0 <= attempt.images.min() <= attempt.images.max() <= 1
    assert attempt.losses[0] < 1e-3
    assert attempt.evaluations[0] == 300
    found = attempt.images[0].float()
    ordered = torch.stack([found[pair] for pair in match(found, IMAGES.float()) if pair is not None])
    assert psnr(ordered, IMAGES.float()).min() > 15


def test_what_a_capture_gets_does_not_depend_on_its_neighbours() -> None:
    recipe, attack = Recipe(batch_size=2, epochs=1, learning_rate=0.5), LocalSteps(max_evaluations=60)
    together = reconstruct(attack, problem_of(recipe, seeds=(0, 1)))
    for seed, expected in enumerate(together):
        (alone,) = reconstruct(attack, problem_of(recipe, seeds=(seed,)))
        torch.testing.assert_close(alone.images, expected.images, rtol=1e-6, atol=1e-6)


def test_the_unrolling_attacker_knows_the_defense() -> None:
    defense = build(DEFENSES.resolve("masking"), {"p": 0.3}, "masking")
    recipe = Recipe(batch_size=4, epochs=2, learning_rate=0.5)
    (result,) = reconstruct(LocalSteps(max_evaluations=600), problem_of(recipe, defense=defense))
    assert error(result.images) < 0.1


def test_an_order_for_each_epoch_is_drawn_by_seed() -> None:
    recipe = Recipe(batch_size=1, epochs=2)
    orders = drawn_orders(problem_of(recipe, seeds=(0, 1)))
    assert torch.equal(orders.sort(dim=2).values, torch.arange(EXAMPLES).expand(2, 2, EXAMPLES))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[1], drawn_orders(problem_of(recipe, seeds=(1,)))[0])


def test_the_invariant_prior_ignores_the_order_of_an_epoch() -> None:
    sets = torch.stack([IMAGES, IMAGES[[2, 0, 3, 1]]])
    other = torch.stack([IMAGES, IMAGES.flip(-1)])
    for statistic in ("mean", "max"):
        assert spread(sets, statistic) < 1e-15
        means = other.mean(dim=1) if statistic == "mean" else other.amax(dim=1)
        by_pairs = torch.stack([(a - b).square().mean() for a in means for b in means]).mean()
        assert spread(other, statistic) == pytest.approx(float(by_pairs))


def test_epochs_are_averaged_image_by_image_of_a_label() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    sets = torch.stack([IMAGES + 0.01, IMAGES[[2, 0, 1, 3]] - 0.01])
    torch.testing.assert_close(average(sets, labels), IMAGES)


def test_epoch_invariant_recovers_images_and_is_local_steps_for_one_epoch() -> None:
    recipe = Recipe(batch_size=4, epochs=2, learning_rate=0.5)
    attack = EpochInvariant(max_evaluations=600, channels=4)
    problem = problem_of(recipe)
    assert number_of_epochs(recipe, EXAMPLES) == 2
    (result,) = reconstruct(attack, problem)
    assert error(result.images) < 0.2
    one = problem_of(replace(recipe, epochs=1))
    (apart,), (shared,) = (
        reconstruct(kind, one)
        for kind in (EpochInvariant(max_evaluations=40), LocalSteps(max_evaluations=40))
    )
    torch.testing.assert_close(apart.images, shared.images)


def test_sme_after_one_step_is_plain_matching_of_the_direction() -> None:
    recipe = Recipe(algorithm="fedsgd", batch_size=4, learning_rate=0.5)
    problem = problem_of(recipe)
    (evidence,) = problem.evidence(torch.tensor([0]))
    seen = type(evidence)(*({name: value[0] for name, value in part.items()} for part in evidence))
    dummies = torch.rand(EXAMPLES, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    surrogate = surrogate_gradient(problem, dummies, LABELS, seen, torch.tensor(1.0))
    for name, value in problem.gradient(dummies, LABELS).items():
        torch.testing.assert_close(surrogate[name], value)
    attempt = SME(max_evaluations=50).attack(problem)
    plain = matching(problem, compare=direction)(attempt.images[0], attempt.labels[0], (seen,))
    assert attempt.losses[0] == pytest.approx(float(plain))
    (result,) = reconstruct(SME(max_evaluations=1000), problem)
    assert result.loss < 1e-6


def test_sme_explains_several_steps_better_than_the_global_weights_do() -> None:
    recipe = Recipe(batch_size=4, epochs=4, learning_rate=0.1)
    problem = problem_of(recipe)
    (evidence,) = problem.evidence()
    seen = type(evidence)(*({name: value[0] for name, value in part.items()} for part in evidence))
    losses = {
        share: float(direction(surrogate_gradient(problem, IMAGES, LABELS, seen, torch.tensor(share)), seen))
        for share in (0.0, 0.5, 1.0)
    }
    assert losses[0.5] < 0.01 * min(losses[0.0], losses[1.0])


def test_steps_of_adam_are_refused() -> None:
    recipe = Recipe(batch_size=4, optimizer="adam", learning_rate=0.1)
    problem = replace(problem_of(replace(recipe, optimizer="sgd")), recipe=recipe)
    with pytest.raises(ValueError, match="only steps of SGD can be unrolled"):
        LocalSteps().attack(problem)


@pytest.mark.parametrize(
    ("options", "key"), [({"batches": "guessed"}, "batches"), ({"smoothness": -1.0}, "smoothness")]
)
def test_options_out_of_range_are_named(options: dict[str, object], key: str) -> None:
    with pytest.raises(InputError, match=key):
        build(LocalSteps, options, "local_steps")


def test_a_single_step_is_the_plain_gradient(victim: Victim) -> None:
    problem = victim.problem([victim.capture(victim.images[:1], victim.labels[:1])])
    images, labels = victim.images[:1].double(), victim.labels[:1]
    (evidence,) = problem.evidence()
    for name, value in unrolled(problem, images, labels, evidence).items():
        torch.testing.assert_close(value, problem.gradient(images, labels)[name])


@pytest.mark.parametrize("upload", ["update", "gradient"])
def test_the_noise_of_private_steps_adds_in_quadrature(upload: str) -> None:
    recipe = Recipe(batch_size=4, epochs=3, learning_rate=0.5)
    steps = number_of_batches(recipe, EXAMPLES)
    private = build(
        DEFENSES.resolve("dpsgd"),
        {"clip_norm": 2.0, "noise_multiplier": 0.1, "batch_size": 4, "steps": steps},
        "dpsgd",
    )
    knowledge = problem_of(recipe, defense=private, upload=upload).knowledge
    rate = recipe.learning_rate if upload == "update" else 1.0
    assert knowledge is not None
    assert steps > 1
    assert knowledge.noise_std == pytest.approx(rate * 0.1 * 2.0 / 4 * steps**0.5)
