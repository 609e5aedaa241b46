"""The search around an image that is known to be near."""

import torch
from conftest import Victim
from test_attacks import captures_of

from adversary.attacks.idlg import IDLG
from adversary.labels import infer_labels
from adversary.lockstep import matching_losses
from adversary.metrics import mse
from adversary.mjolnir.around import mended, search_around
from adversary.problem import Problem
from fedsim.defenses.noising import Noising


def noisy(victim: Victim, std: float, number: int = 3) -> Problem:
    defense = Noising(std=std)
    problem = victim.problem(captures_of(victim, [defense], number), [defense])
    return Problem(**{**vars(problem), "labels": infer_labels(problem)})


def test_around_grey_it_is_map(victim: Victim) -> None:
    problem = noisy(victim, 0.02)
    assert problem.labels is not None
    grey = problem.like.new_full((3, 1, 1, 28, 28), 0.5)
    found, evaluations = search_around(problem, grey, problem.labels, max_evaluations=600)
    other = IDLG(max_evaluations=1000).attack(problem)
    assert int(evaluations.max()) <= 600
    assert float((found - other.images).abs().mean()) < 0.02


def test_around_the_truth_it_stays_nearer_than_map(victim: Victim) -> None:
    """Where the centre is right the noise moves nothing; where it is wrong the gradient mends it."""
    problem = noisy(victim, 0.05)
    truth = victim.images[:3].to(problem.like)[:, None]
    assert problem.labels is not None
    found, _ = search_around(problem, truth, problem.labels, max_evaluations=200)
    other = IDLG(max_evaluations=400).attack(problem)
    assert bool((mse(found[:, 0], truth[:, 0]) < 0.5 * mse(other.images[:, 0], truth[:, 0])).all())
    wrong = truth.clone()
    wrong[..., 8:20, 8:20] = 1 - wrong[..., 8:20, 8:20]
    mended, _ = search_around(problem, wrong, problem.labels, max_evaluations=200)
    assert bool((mse(mended[:, 0], truth[:, 0]) < 0.5 * mse(wrong[:, 0], truth[:, 0])).all())


def test_a_capture_is_searched_as_if_it_were_alone(victim: Victim) -> None:
    problem = noisy(victim, 0.05)
    assert problem.labels is not None
    centre = problem.like.new_full((3, 1, 1, 28, 28), 0.3)
    both, _ = search_around(problem, centre, problem.labels, max_evaluations=25)
    alone, _ = search_around(problem.select([2]), centre[2:], problem.labels[2:], max_evaluations=25)
    torch.testing.assert_close(both[2:], alone, rtol=1e-3, atol=1e-3)


def test_images_are_mended_only_where_the_upload_says_more_than_noise(victim: Victim) -> None:
    """The truth explains all but the noise and stays, though the search finds images that explain more."""
    problem = noisy(victim, 0.05)
    truth = victim.images[:3].to(problem.like)[:, None]
    assert problem.labels is not None
    wrong = truth.clone()
    wrong[1, ..., 8:20, 8:20] = 1 - wrong[1, ..., 8:20, 8:20]
    found, _ = search_around(problem, truth, problem.labels, max_evaluations=100)
    losses = [matching_losses(problem, one, problem.labels) for one in (truth, found)]
    assert bool((losses[1] < losses[0]).all())
    kept, evaluations = mended(problem, wrong, problem.labels, max_evaluations=100)
    assert [torch.equal(one, other) for one, other in zip(kept, wrong, strict=True)] == [True, False, True]
    assert bool((evaluations > 0).all())
