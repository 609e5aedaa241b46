"""Attacks that need a victim of their own, against every defence, naive and adaptive: none breaks down."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import Victim, victim_of
from denoisers import drawn
from test_analytic import CASES as ANALYTIC_CASES
from test_attacks import ANALYTIC, CASES, DENOISING, NAMES, OTHER_TASK, OWN_MODEL, Case
from test_imprint import DEFENSES_READ as IMPRINT_CASES
from test_rgap import small, victim_of_model
from torch import nn

from adversary.attacks import ATTACKS
from adversary.attacks.gidm import GIDM
from adversary.attacks.gidm_plus import GIDMPlus
from adversary.attacks.rgap import RGAP
from adversary.attacks.spear import Spear
from adversary.captures import Capture
from adversary.evidence import build_problem
from adversary.problem import Problem
from adversary.reconstruct import Attack, reconstruct
from fedsim.defenses import DEFENSES
from fedsim.defenses.chain import Chain
from fedsim.defenses.upload import Defense, Upload

Known = Sequence[Defense] | None
"""What the attacker knows of, None for the naive one."""
Uploads = Callable[[Defense, Known], Problem]


def classifier(victim: Victim, batch: int, defense: Defense, known: Known) -> Problem:
    capture = victim.capture(victim.images[:batch], victim.labels[:batch], [defense])
    return victim.problem([capture], known, batch_size=batch)


def denoiser(granted: bool, defense: Defense, known: Known) -> Problem:
    found = drawn([[200]], channels=[8, 16])
    whole = found.problem
    sent = Chain((defense,)).apply(
        Upload({name: value[0].float() for name, value in whole.target.items()}),
        torch.Generator().manual_seed(0),
    )
    capture = Capture(round=1, client=0, node=1, upload="gradient", arrays=sent.values, present=sent.present)
    problem = build_problem(
        [capture],
        dict(whole.model.state_dict()),
        found.task,
        whole.model,
        learning_rate=1.0,
        batch_size=1,
        seeds=[0],
        defenses=known,
    )
    return replace(problem, timesteps=found.timesteps, noise=found.noise) if granted else problem


ATTACKED: dict[str, tuple[Any, Callable[[], Uploads]]] = {
    "rgap": (RGAP(), lambda: partial(classifier, victim_of_model(lambda: small(nn.Sigmoid())), 1)),
    "spear": (Spear(max_samples=20_000), lambda: partial(classifier, victim_of("mlp", hidden=(50, 20)), 2)),
    "gidm": (GIDM(phases="pixels", max_evaluations=8), lambda: partial(denoiser, True)),
    "gidm_plus": (GIDMPlus(max_evaluations=8, iterations=8, polish=4), lambda: partial(denoiser, False)),
}


def test_every_attack_meets_every_defense_somewhere() -> None:
    every = {entry.name for entry in DEFENSES}
    assert {entry.name for entry in ATTACKS} == {*NAMES, *ANALYTIC, *OWN_MODEL, *DENOISING, *OTHER_TASK}
    assert {*ATTACKED} == (ANALYTIC | OTHER_TASK) - {"analytic"}
    assert {case.name for case in CASES} == every
    assert {name for name, _, _ in ANALYTIC_CASES} == every
    assert {name for name, _, _ in IMPRINT_CASES} == every - {"none"}  # all its other tests


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ATTACKED)
def test_an_attack_with_its_own_victim_meets_each_defense(name: str, case: Case) -> None:
    attack: Attack
    attack, uploads = ATTACKED[name]
    of, defense = uploads(), case.defense()
    for known in (None, [defense]):
        problem = of(defense, known)
        (result,) = reconstruct(attack, problem)
        assert result.images.shape == (problem.batch_size, *problem.task.input_shape)
        assert torch.isfinite(result.images).all()
        assert result.loss >= 0
