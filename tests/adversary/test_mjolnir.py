"""Mjolnir: gradients denoised by what a surrogate client teaches, then attacked."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Victim
from test_attacks import CASES, Case, captures_of

from adversary.attacks.idlg import IDLG
from adversary.attacks.mjolnir import Mjolnir
from adversary.labels import infer_labels
from adversary.mjolnir import unrolled
from adversary.mjolnir.squares import build_squares, squares_mean
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.unrolled import refine
from adversary.mjolnir.vectors import flatten
from adversary.precision import cast
from adversary.problem import Problem
from adversary.reconstruct import reconstruct
from fedsim.defenses.clipping import Clipping
from fedsim.defenses.masking import Masking
from fedsim.defenses.noising import Noising
from fedsim.defenses.upload import Adaptive
from fedsim.errors import InputError

STRONG = Noising(std=0.1)
"""Of an update; five times as much as a median entry of it."""


def mjolnir(folder: Path, **options: Any) -> Mjolnir:
    few = {"updates": 2, "images": 100, "then": "idlg", "options": {"max_evaluations": 20}, "chain": 3}
    return Mjolnir(**{**few, "cache": str(folder), **options})  # type: ignore[arg-type]


def noisy(victim: Victim, defenses: tuple[Any, ...] = (STRONG,), number: int = 2) -> Problem:
    problem = victim.problem(captures_of(victim, list(defenses), number), defenses)
    return Problem(**{**vars(problem), "labels": infer_labels(problem)})


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_under_each_defense(victim: Victim, tmp_path: Path, case: Case, adaptive: bool) -> None:
    """Where the attacker knows that there is no noise, its gradients are handed on as they are."""
    defense = case.defense()
    problem = victim.problem(captures_of(victim, [defense], 2), [defense] if adaptive else None)
    found = mjolnir(tmp_path).attack(problem)
    assert found.images.shape == (2, 1, 1, 28, 28)
    assert found.images.isfinite().all()
    assert found.parts["gradient"].shape == (2, 1, flatten(problem.target).shape[1])
    if adaptive and case.name != "noising":
        other = IDLG(max_evaluations=20).attack(problem)
        torch.testing.assert_close(found.images, other.images)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampling": "ddim"},
        {"sampling": "ancestral"},
        {"variant": "fixed"},
        {"level": "estimated"},
        {"denoiser": "squares"},
        {"denoiser": "squares", "sampling": "ancestral"},
        {"denoiser": "squares", "variant": "conditional", "sampling": "ddim"},
    ],
    ids=str,
)
def test_each_way_of_denoising_gives_the_same_alone_and_in_company(
    victim: Victim, tmp_path: Path, options: dict[str, Any]
) -> None:
    problem, attack = noisy(victim), mjolnir(tmp_path, **options)
    std = torch.full((2,), 0.2, dtype=torch.float64)
    both = flatten(attack.clean(problem, std).target)
    alone = flatten(attack.clean(problem.select([1]), std[:1]).target)
    assert both.isfinite().all()
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)


def test_a_clean_problem_has_nothing_left_of_the_defense(victim: Victim, tmp_path: Path) -> None:
    problem = noisy(victim, (STRONG, Masking(p=0.3)))
    clean = mjolnir(tmp_path).clean(problem, torch.full((2,), 0.2, dtype=torch.float64))
    assert problem.present
    assert not clean.present
    assert clean.knowledge is None
    assert {name: value.shape for name, value in clean.target.items()} == {
        name: value.shape for name, value in problem.target.items()
    }


@pytest.mark.parametrize("denoiser", ["unrolled", "squares"])
def test_a_length_that_tells_nothing_is_not_looked_at(victim: Victim, tmp_path: Path, denoiser: str) -> None:
    """DP-SGD scales each gradient by what nobody knows: the denoiser is shown it as long as it learnt it."""
    problem = replace(noisy(victim), knowledge=Adaptive(noise_std=STRONG.sigma, scale_free=True))
    std, attack = torch.full((2,), 0.2, dtype=torch.float64), mjolnir(tmp_path, denoiser=denoiser)
    whole = flatten(attack.clean(problem, std).target)
    shorter = replace(problem, target={name: 0.05 * value for name, value in problem.target.items()})
    torch.testing.assert_close(flatten(attack.clean(shorter, 0.05 * std).target), whole, rtol=1e-3, atol=1e-4)
    told = replace(problem, knowledge=Adaptive(noise_std=STRONG.sigma))
    assert Surrogate.of(told, torch.rand(9, 1, 28, 28)).at_length(told, std) == (told, std)


def test_joined_rounds_hide_less(victim: Victim, tmp_path: Path) -> None:
    problem, attack = noisy(victim), mjolnir(tmp_path)
    std = (
        0.5 * flatten(problem.target).norm(dim=1) / flatten(problem.target).shape[1] ** 0.5
    )  # a ratio of 1.7
    assert attack.is_noisy(problem, std).tolist() == [True, True]
    assert attack.is_noisy(replace(problem, rounds=(problem,) * 3), std).tolist() == [True, True]
    assert attack.is_noisy(replace(problem, rounds=(problem,) * 8), std).tolist() == [False, False]


def test_squares_leave_clipped_gradients_clipped(victim: Victim, tmp_path: Path) -> None:
    """The attack that follows is told; whole ones would have other lengths than the defence lets through."""
    problem = noisy(victim, (Clipping(norm=0.01), Noising(std=1e-4)))
    std = torch.full((2,), 2e-4, dtype=torch.float64)
    left = mjolnir(tmp_path, denoiser="squares").clean(problem, std).knowledge
    assert left is not None
    assert (left.scale_free, left.noise_std) == (True, 0.0)
    with pytest.raises(InputError, match="denoiser = 'squares': allowed: unrolled, for masked uploads"):
        mjolnir(tmp_path, denoiser="squares").clean(noisy(victim, (STRONG, Masking(p=0.3))), std)


def test_a_chains_states_are_clipped_as_what_was_sent(
    victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = noisy(victim, (Clipping(norm=0.01), Noising(std=1e-4)))
    lengths: list[float] = []

    def watched(network: Any, here: Problem, *options: Any) -> list[torch.Tensor]:
        lengths.append(float(flatten(here.target).norm(dim=1).max()))
        return refine(network, here, *options)

    monkeypatch.setattr(unrolled, "refine", watched)
    std = torch.full((2,), 2e-4, dtype=torch.float64)
    clean = mjolnir(tmp_path, sampling="ddim").clean(problem, std)
    trained, chain = lengths[:2], lengths[2:]
    assert len(trained) == 2
    assert len(chain) == 3
    assert max(chain) < 1.1 * lengths[2]  # 0.02 of a gradient, and noise
    assert float(flatten(clean.target).norm(dim=1).min()) > 10 * max(chain)


def test_bounds_that_few_gradients_feel_have_denoisers_of_their_own(victim: Victim, tmp_path: Path) -> None:
    std = torch.tensor([0.2], dtype=torch.float64)
    for norm in (0.5, 1.0, 1e4, 1e5):
        clipped = noisy(victim, (Clipping(norm=norm), STRONG), 1)
        mjolnir(tmp_path).clean(clipped, std)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3  # the last two clip nothing


def test_a_naive_attacker_finds_the_same_alone_and_in_company(victim: Victim, tmp_path: Path) -> None:
    """Though each capture's noise has to be read off its gradient, and some have less of it."""
    loud, quiet = (captures_of(victim, [Noising(std=std)], 3) for std in (0.2, 0.05))
    problem = victim.problem([loud[0], quiet[1], loud[2]])
    attack = mjolnir(tmp_path, mending=20)
    together = attack.attack(problem).images
    for row in range(3):
        alone = attack.attack(problem.select([row])).images
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-3, atol=1e-3)


@dataclass(frozen=True, kw_only=True)
class Halved:
    """A denoiser of the user's own."""

    factor: float = 0.5

    def clean(self, problem: Problem, std: torch.Tensor) -> Problem:
        target = {name: self.factor * value for name, value in problem.target.items()}
        return replace(problem, target=target, knowledge=None)


def test_a_denoiser_of_ones_own_composes_with_an_attack(victim: Victim, tmp_path: Path) -> None:
    problem = noisy(victim)
    attack = mjolnir(tmp_path, denoiser="test_mjolnir:Halved", denoiser_options={"factor": 0.25})
    given = flatten(problem.target)[:, None] / 4
    torch.testing.assert_close(attack.attack(problem).parts["gradient"], given)
    assert not list(tmp_path.iterdir())


def test_losses_are_those_of_the_observed_gradients(victim: Victim, tmp_path: Path) -> None:
    """Under noise of a known level the truth's own is about sigma^2 d / ||g*||^2, and explains the upload."""
    problem = noisy(victim)
    (one, _) = reconstruct(mjolnir(tmp_path, updates=30, options={"max_evaluations": 80}), problem)
    length = float(flatten(problem.target)[0].square().sum())
    floor = 0.2**2 * flatten(problem.target).shape[1] / length
    assert 0.9 * floor < one.loss < 2 * floor


def test_noise_that_was_estimated_counts_as_explained(victim: Victim, tmp_path: Path) -> None:
    problem = noisy(victim)
    attack = mjolnir(tmp_path, updates=30, options={"max_evaluations": 80})
    for known in (problem, replace(problem, knowledge=None)):
        assert attack.attack(known).converged.tolist() == [True, True]


def test_the_papers_noise_starts_at_the_papers_step() -> None:
    """Epsilon 1, 5, 10 of the released code: steps 24, 3 and 1 of 1000, counted from one."""
    network = build_squares(13_426, conditional=False, seed=0)
    found = network.timestep(torch.tensor([0.0869, 0.0174, 0.00869]))
    assert (found + 1).tolist() == [24, 3, 1]
    kept = network.alphas[found]
    assert bool((kept <= 1 / (1 + torch.tensor([0.0869, 0.0174, 0.00869]).square())).all())


def test_a_denoiser_that_knows_the_noise_takes_it_away(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state handed to the network is sqrt(abar) g + sqrt(1 - abar) z; with z predicted, g is left."""
    problem = cast(noisy(victim), torch.float32)
    truth = flatten(victim.problem(captures_of(victim, [], 2)).target).float()
    sent, std = flatten(problem.target), torch.full((2,), 0.2)
    network = build_squares(sent.shape[1], conditional=False, seed=0)
    kept = (1 / (1 + std[0] ** 2)).sqrt()

    def known(states: torch.Tensor, timesteps: torch.Tensor, uploads: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(states, kept * network.square(sent), rtol=1e-4, atol=1e-5)
        return network.square((sent - truth) / 0.2)

    monkeypatch.setattr(network, "noise", known)
    torch.testing.assert_close(squares_mean(network, problem)(sent, std), truth, rtol=1e-3, atol=1e-4)


def test_weak_noise_is_left_to_the_prior(victim: Victim, tmp_path: Path) -> None:
    """As the adaptive attacker has it, though the naive one has to read the level off the gradient."""
    weak = Noising(std=0.01)
    captures = captures_of(victim, [weak], 1)
    attack = mjolnir(tmp_path, options={"max_evaluations": 100})
    naive, adaptive = (attack.attack(victim.problem(captures, known)) for known in (None, [weak]))
    assert not list(tmp_path.iterdir())  # nothing was trained
    plain = IDLG(max_evaluations=100).attack(victim.problem(captures, [weak]))
    torch.testing.assert_close(adaptive.images, plain.images)
    assert float((naive.images - adaptive.images).abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"then": "mjolnir"}, "then = 'mjolnir': allowed: another attack"),
        ({"variant": "conditional", "sampling": "ddim"}, "denoiser = 'squares' for the conditional"),
        ({"denoiser": "squares", "variant": "conditional"}, "ddim or ancestral"),
        ({"updates": 0}, "updates = 0: allowed: at least 1"),
        ({"cache": "pyproject.toml/x"}, "cache = 'pyproject.toml/x': allowed: a folder that can be written"),
        ({"denoiser": "square"}, "denoiser = 'square': allowed: unrolled, squares, or module:name"),
        ({"denoiser": "conftest:Victims"}, "denoiser = 'conftest:Victims': cannot be imported"),
        (
            {"denoiser": "test_mjolnir:Halved", "denoiser_options": {"f": 1}},
            "denoiser_options.f = 1: unknown",
        ),
        ({"denoiser": "adversary.attacks.idlg:IDLG"}, "allowed: a GradientDenoiser"),
        ({"then": "imprint"}, "then = 'imprint': allowed: an attack that needs no more than batch_size"),
        ({"then": "gidm_plus"}, "then = 'gidm_plus': allowed: an attack on classifiers"),
        ({"then": "dgl"}, "then = 'dgl': no such attack; did you mean 'dlg'"),
        ({"options": {"max_evaluation": 3}}, "options.max_evaluation = 3: unknown key"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        mjolnir(tmp_path, **options)


def test_a_level_that_nobody_declared(victim: Victim, tmp_path: Path) -> None:
    problem = victim.problem(captures_of(victim, [STRONG], 1))
    with pytest.raises(InputError, match="level = 'declared': allowed: estimated"):
        mjolnir(tmp_path, level="declared").attack(problem)


def test_a_false_declaration_does_not_matter_where_the_level_is_estimated(
    victim: Victim, tmp_path: Path
) -> None:
    problem = noisy(victim, number=1)
    assert problem.knowledge is not None
    little = replace(problem.knowledge, noise_std=problem.knowledge.noise_std / 10)
    attack = mjolnir(tmp_path, level="estimated", mending=20)
    told, misled = attack.attack(problem), attack.attack(replace(problem, knowledge=little))
    torch.testing.assert_close(misled.images, told.images, rtol=0, atol=0)
    believing = mjolnir(tmp_path, mending=20).attack(replace(problem, knowledge=little))
    assert float((believing.images - told.images).abs().mean()) > 0.05
