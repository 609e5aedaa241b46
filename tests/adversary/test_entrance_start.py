"""The start at a fully connected entrance: exact where it can be, searched from where it is not."""

from dataclasses import replace

import pytest
import torch
from conftest import Victim, victim_of

from adversary.attacks.dlg import DLG
from adversary.attacks.idlg import IDLG
from adversary.problem import Problem
from adversary.starts import draw_start
from fedsim.defenses.masking import Masking

ATTACKS = [DLG, IDLG]
WEIGHT, BIAS = "1.1.weight", "1.1.bias"


@pytest.fixture(scope="module")
def mlp() -> Victim:
    return victim_of("mlp", hidden=(32,), activation="sigmoid", mean=(0.3,), std=(0.35,))


def captures_of(mlp: Victim, count: int) -> Problem:
    images = zip(mlp.images[:count], mlp.labels[:count], strict=True)
    return mlp.problem([mlp.capture(image[None], label[None]) for image, label in images])


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_start_explains_needs_no_search(mlp: Victim, attack: type[DLG | IDLG]) -> None:
    found = attack(start="entrance").attack(captures_of(mlp, 3))
    assert found.converged.all()
    assert found.evaluations.tolist() == [1, 1, 1]
    assert (found.images[:, 0] - mlp.images[:3]).abs().max() < 1e-4
    assert found.labels[:, 0].tolist() == mlp.labels[:3].tolist()


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_captures_that_are_not_explained_are_searched(mlp: Victim, attack: type[DLG | IDLG]) -> None:
    exact = captures_of(mlp, 3)
    target = {name: value.clone() for name, value in exact.target.items()}
    target[WEIGHT][1] *= torch.linspace(0.9, 1.1, 32)[:, None]
    problem = replace(exact, target=target)
    ours = attack(start="entrance", max_evaluations=20)
    found, alone = ours.attack(problem), ours.attack(problem.select([1]))
    assert found.converged.tolist() == [True, False, True]
    assert found.evaluations[0] == found.evaluations[2] == 1 < found.evaluations[1]
    assert (found.images[2, 0] - mlp.images[2]).abs().max() < 1e-4
    torch.testing.assert_close(found.images[1], alone.images[0])
    assert found.losses[1] < 1.1 * alone.losses[0]


def test_absent_entries_are_left_out(mlp: Victim) -> None:
    defense = Masking(p=0.7)
    capture = mlp.capture(mlp.images[:1], mlp.labels[:1], [defense])
    problem = mlp.problem([capture], [defense])
    told = (problem.present[WEIGHT] & problem.present[BIAS][..., None]).any(dim=1)
    error = (draw_start(problem, "entrance")[0, 0] - mlp.images[0]).abs().flatten()
    assert error[told[0]].max() < 1e-4
    blind = replace(problem, present={**problem.present, BIAS: torch.zeros(1, 32, dtype=torch.bool)})
    assert (draw_start(blind, "entrance") == 0.5).all()
    assert IDLG(start="entrance", max_evaluations=50).attack(problem).evaluations[0] > 1


def test_other_models_and_batches_start_naturally(mlp: Victim) -> None:
    two = replace(captures_of(mlp, 1), batch_size=2)
    torch.testing.assert_close(draw_start(two, "entrance"), draw_start(two, "natural"))
    lenet = captures_of(victim_of("lenet"), 1)
    torch.testing.assert_close(draw_start(lenet, "entrance"), draw_start(lenet, "natural"))
