"""Every attack against every defence, naive and adaptive; and what each must do on a case that is known."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from conftest import Victim

from adversary.attacks import ATTACKS
from adversary.attacks.dlg import DLG
from adversary.attacks.idlg import IDLG
from adversary.attacks.match import match
from adversary.labels import class_scores, infer_labels
from adversary.metrics import ssim, ssim_affine
from adversary.problem import Problem
from adversary.reconstruct import reconstruct
from fedsim.defenses import DEFENSES
from fedsim.defenses.upload import Defense
from fedsim.options import build

OWN_MODEL = {"imprint"}
"""Attacks on a model that a malicious server changed: test_imprint runs them against the defences."""
ANALYTIC = {"analytic", "rgap", "spear"}
"""Attacks that solve and do not search: test_analytic and test_every_defense."""
DENOISING = {"mjolnir"}
"""Attacks that train a denoiser and hand on: test_mjolnir runs them against the defences."""
OTHER_TASK = {"gidm", "gidm_plus"}
"""Attacks on the gradients of denoisers: test_every_defense."""
NAMES = [entry.name for entry in ATTACKS if entry.name not in OWN_MODEL | ANALYTIC | OTHER_TASK | DENOISING]
REQUIRED: dict[str, dict[str, Any]] = {"generative": {"generator": "generators:fashion", "latent": (48,)}}
"""Options without a default."""
TO_THE_END: dict[str, dict[str, Any]] = {"generative": {"polish": 2000}}
"""Options with which an undefended upload is read exactly."""
APPROXIMATE = {"gradinversion"}
"""Attacks whose priors keep them from the exact image: test_gradinversion shows what they read."""


@dataclass(frozen=True)
class Case:
    """A defence where the two attackers part, and what each then sees (SSIM after the affine fit)."""

    name: str
    options: dict[str, Any]
    naive_below: float = 1.01
    adaptive_above: float = 0.9

    def defense(self) -> Defense:
        defense: Defense = build(DEFENSES.resolve(self.name), self.options, self.name)
        return defense

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.options.items())})"


CASES = [
    Case("none", {}),
    Case("masking", {"p": 0.5}, naive_below=0.4),
    Case("masking", {"p": 0.5, "fill": "zero"}, naive_below=0.4),
    Case("masking", {"p": 0.5, "fill": "zero", "rescale": True}, naive_below=0.4),
    Case("clipping", {"norm": 0.5}, naive_below=0.6),
    Case("clipping", {"norm": 0.2, "scope": "tensor"}, naive_below=0.6),
    Case("pruning", {"fraction": 0.9}, naive_below=0.6),
    Case("noising", {"std": 0.01}, naive_below=0.95, adaptive_above=0.7),
    Case("quantizing", {"dtype": "int8"}),
    Case("dpsgd", {"clip_norm": 1.0, "noise_multiplier": 0.0, "batch_size": 1}),
]


def built(attack: str, **options: Any) -> Any:
    return build(ATTACKS.resolve(attack), REQUIRED.get(attack, {}) | options, attack)


def seen(problem: Problem, victim: Victim, attack: str = "idlg", **options: Any) -> list[float]:
    chosen = built(attack, **options)
    results = reconstruct(chosen, problem)
    return [float(ssim_affine(r.images[0], x)) for r, x in zip(results, victim.images, strict=False)]


def captures_of(victim: Victim, defenses: list[Defense], number: int = 2) -> list[Any]:
    return [
        victim.capture(victim.images[i : i + 1], victim.labels[i : i + 1], defenses, client=i)
        for i in range(number)
    ]


def test_every_defense_has_a_case() -> None:
    assert {case.name for case in CASES} == {entry.name for entry in DEFENSES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_adaptive_attacker_sees_what_the_naive_one_does_not(victim: Victim, case: Case) -> None:
    defense = case.defense()
    captures = captures_of(victim, [defense])
    naive = seen(victim.problem(captures), victim, max_evaluations=200)
    adaptive = seen(victim.problem(captures, [defense]), victim, max_evaluations=400)
    assert max(naive) < case.naive_below
    assert min(adaptive) > case.adaptive_above
    assert min(adaptive) >= min(naive) - 0.02


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("attack", NAMES)
def test_each_attack_moves_the_image_and_lowers_its_loss_at_once(
    victim: Victim, attack: str, case: Case
) -> None:
    defense = case.defense()
    problem = victim.problem(captures_of(victim, [defense], 1), [defense])
    # Where entries are missing a prior is annealed in four stages: of those three evaluations each.
    first, third = (built(attack, max_evaluations=number).attack(problem) for number in (1, 12))
    assert (third.images - first.images).abs().max() > 0.01
    assert third.losses[0] < first.losses[0]


@pytest.mark.parametrize("attack", [name for name in NAMES if name not in APPROXIMATE])
def test_reads_image_and_label_of_an_undefended_upload(victim: Victim, attack: str) -> None:
    problem = victim.problem(captures_of(victim, [], 3))
    results = reconstruct(built(attack, **TO_THE_END.get(attack, {})), problem)
    for result, image, label in zip(results, victim.images, victim.labels, strict=False):
        assert result.status == "converged"
        assert result.labels.tolist() == [label]
        assert ssim(result.images[0], image) > 0.99


@pytest.mark.parametrize("upload", ["weights", "gradient"])
def test_every_kind_of_upload_is_the_same_problem(victim: Victim, upload: str) -> None:
    capture = victim.capture(victim.images[:1], victim.labels[:1])
    expected = victim.problem([capture]).target
    if upload == "weights":
        arrays = {name: victim.weights[name].double() + value for name, value in capture.arrays.items()}
    else:
        arrays = victim.gradient(victim.images[:1], victim.labels[:1])
    found = victim.problem([replace(capture, upload=upload, arrays=arrays)]).target
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_a_batch_is_reconstructed_with_its_labels(victim: Victim) -> None:
    pair = victim.images[:2], victim.labels[:2]
    assert len(set(pair[1].tolist())) == 2
    problem = victim.problem([victim.capture(*pair)], batch_size=2)
    (result,) = reconstruct(DLG(max_evaluations=6000), problem, restarts=2)
    assert sorted(result.labels.tolist()) == sorted(pair[1].tolist())
    best = [max(float(ssim(image, truth)) for image in result.images) for truth in pair[0]]
    assert min(best) > 0.9


@pytest.mark.parametrize("labels", [[3, 3], [0, 1, 2, 3], [5, 5, 5, 1], [7, 7, 2, 2, 9, 9, 9, 0]])
def test_labels_with_repeats_are_read_off_the_classifier(victim: Victim, labels: list[int]) -> None:
    images = victim.images[: len(labels)]
    capture = victim.capture(images, torch.tensor(labels))
    found = infer_labels(victim.problem([capture], batch_size=len(labels)))
    agree = sum(min(labels.count(c), found[0].tolist().count(c)) for c in range(10))
    # One image of a repeated label may be taken for another's: the impacts are only equal on average.
    assert agree >= len(labels) - (len(labels) > 4)


def test_class_scores_leave_absent_entries_out(victim: Victim) -> None:
    defense = build(DEFENSES.resolve("masking"), {"p": 0.9}, "masking")
    captures = captures_of(victim, [defense], 4)
    problem = victim.problem(captures, [defense])
    assert infer_labels(problem)[:, 0].tolist() == victim.labels[:4].tolist()
    assert class_scores(problem).shape == (4, 10)


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[4]], ids=str)
def test_a_capture_in_a_batch_gets_what_it_gets_alone(victim: Victim, case: Case) -> None:
    defense = case.defense()
    captures = captures_of(victim, [defense], 3)
    attack = IDLG(max_evaluations=40, precision="double")
    together = reconstruct(attack, victim.problem(captures, [defense]))
    for row, capture in enumerate(captures):
        (alone,) = reconstruct(attack, victim.problem([capture], [defense], seeds=[row]))
        torch.testing.assert_close(alone.images, together[row].images, rtol=1e-6, atol=1e-6)
        assert alone.loss == pytest.approx(together[row].loss, rel=1e-6)


def test_final_scores_do_not_depend_on_the_neighbours(victim: Victim) -> None:
    captures = captures_of(victim, [], 3)
    together = seen(victim.problem(captures), victim)
    alone = []
    for row, capture in enumerate(captures):
        (result,) = reconstruct(IDLG(), victim.problem([capture], seeds=[row]))
        alone.append(float(ssim_affine(result.images[0], victim.images[row])))
    assert together == pytest.approx(alone, abs=1e-3)


def test_restarts_keep_the_best_by_matching_loss_and_count(victim: Victim) -> None:
    problem = victim.problem(captures_of(victim, [], 2))
    tight = IDLG(max_evaluations=30)
    once = reconstruct(tight, problem)
    thrice = reconstruct(tight, problem, restarts=3)
    for one, three in zip(once, thrice, strict=True):
        assert three.loss <= one.loss
        assert three.restarts == 3
        assert three.evaluations > one.evaluations
        assert three.status != "converged"


def test_an_explained_gradient_is_not_attacked_again(victim: Victim) -> None:
    (result,) = reconstruct(IDLG(), victim.problem(captures_of(victim, [], 1)), restarts=5)
    assert (result.status, result.restarts) == ("converged", 1)


def test_matching_stops_within_its_budget(victim: Victim) -> None:
    defense = CASES[1].defense()
    problem = victim.problem(captures_of(victim, [defense], 2), [defense])
    shape = (1, *victim.task.input_shape)
    found = match(
        problem,
        problem.draw_images().flatten(1),
        infer_labels(problem),
        lambda x, y: (x.reshape(shape), y),
        max_evaluations=100,
    )
    assert (found.evaluations <= 110).all()
