"""How Mjolnir's denoisers are trained, and kept."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Victim
from test_attacks import captures_of
from test_mjolnir import STRONG, mjolnir, noisy
from torch import Tensor, nn

from adversary.mjolnir import denoisers, unrolled
from adversary.mjolnir.store import content_key, folder_of, remembered
from adversary.mjolnir.surrogate import Surrogate
from adversary.mjolnir.training import train
from adversary.mjolnir.unrolled import build_refiner, pixel_unit, refine, refiner_loss
from adversary.mjolnir.vectors import cosine, flatten
from adversary.precision import cast
from adversary.problem import Problem
from fedsim.defenses.masking import Masking
from fedsim.errors import InputError


def _line() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(3, 1)


def _loss_of(network: nn.Module, stop_at: int | None = None) -> object:
    calls = 0

    def loss(generator: torch.Generator, _: float) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(8, 3, generator=generator)
        value: Tensor = (network(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return value

    return loss


def test_training_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, cut, file = _line(), _line(), tmp_path / "denoiser.checkpoint"
    told: list[int] = []
    plan = {"updates": 250, "rate": 0.02, "seed": 4}
    train(whole, _loss_of(whole), **plan, progress=lambda done, _all, _loss: told.append(done))  # type: ignore[arg-type]
    assert told == [100, 200, 250]
    with pytest.raises(KeyboardInterrupt):
        train(cut, _loss_of(cut, stop_at=180), **plan, checkpoint=file)  # type: ignore[arg-type]
    fresh = _line()
    train(fresh, _loss_of(fresh), **plan, checkpoint=file)  # type: ignore[arg-type]
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=0, atol=0)
    assert float((whole.state_dict()["weight"] - 1).abs().max()) < 0.1


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    file = tmp_path / "denoiser.checkpoint"
    file.write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"denoiser\.checkpoint: a damaged checkpoint .*: delete it"):
        train(_line(), _loss_of(_line()), updates=1, rate=0.1, seed=0, checkpoint=file)


def test_a_folder_to_be_made_will_do_but_no_file(tmp_path: Path) -> None:
    assert folder_of(str(tmp_path / "not" / "there")) == tmp_path / "not" / "there"
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(InputError, match=f"cache = '{path}': allowed: a folder that can be written"):
            folder_of(path)
    with pytest.raises(InputError, match=r"cache = '~no-such-user/x': allowed: a path \(Could not"):
        folder_of("~no-such-user/x")


def test_denoisers_are_found_by_what_they_were_made_of(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(checkpoint: Path) -> dict[str, Tensor]:
        made.append(checkpoint)
        checkpoint.touch()
        return {"weight": torch.ones(2)}

    keys = {
        content_key({"updates": 1}, {"a": torch.zeros(2)}),
        content_key({"updates": 2}, {"a": torch.zeros(2)}),
        content_key({"updates": 1}, {"a": torch.ones(2)}),
        content_key({"updates": 1}, {"b": torch.zeros(2)}),
        content_key({"updates": 1}, {"a": torch.zeros(1, 2)}),
    }
    assert len(keys) == 5
    key = keys.pop()
    for _ in range(2):
        assert torch.equal(remembered(tmp_path, key, make)["weight"], torch.ones(2))
    assert len(made) == 1
    assert not made[0].exists()


def test_of_two_that_need_a_denoiser_one_makes_it(tmp_path: Path) -> None:
    made: list[int] = []

    def make(_: Path) -> dict[str, Tensor]:
        made.append(1)
        time.sleep(0.3)
        return {"weight": torch.ones(2)}

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: remembered(tmp_path, "key", make), range(2)))
    assert len(made) == 1
    assert all(torch.equal(one["weight"], torch.ones(2)) for one in found)


def test_the_loss_falls_and_absent_entries_do_not_matter(victim: Victim) -> None:
    problem = cast(noisy(victim, (STRONG, Masking(p=0.5))), torch.float32)
    surrogate = Surrogate.of(problem, victim.images)
    network, unit = build_refiner(problem, 0), pixel_unit(surrogate)
    loss = refiner_loss(network, surrogate, unit, steps=3, batch=8)
    before = float(loss(torch.Generator().manual_seed(1), 1.0).detach())
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for number in range(40):
        optimizer.zero_grad()
        loss(torch.Generator().manual_seed(100 + number), number / 40).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss(torch.Generator().manual_seed(1), 1.0).detach()) < 0.7 * before
    changed = {
        name: value + 9.0 * ~problem.present[name] if name in problem.present else value
        for name, value in problem.target.items()
    }
    std, other = torch.full((2,), 0.2), Problem(**{**vars(problem), "target": changed})
    with torch.no_grad():
        images = [refine(network, one, std, unit, 3)[-1] for one in (problem, other)]
    torch.testing.assert_close(*images, rtol=1e-4, atol=1e-5)


def test_training_begins_with_searches_of_half_as_many_steps(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = cast(noisy(victim), torch.float32)
    surrogate, taken = Surrogate.of(problem, victim.images), []

    def watched(*given: Any) -> list[torch.Tensor]:
        taken.append(given[-1])
        return refine(*given)

    monkeypatch.setattr(unrolled, "refine", watched)
    loss = refiner_loss(build_refiner(problem, 0), surrogate, 1.0, steps=5, batch=2, short=0.6)
    for done in (0.0, 0.59, 0.6, 0.99):
        loss(torch.Generator().manual_seed(1), done)
    assert taken == [3, 3, 5, 5]


def test_captures_masked_at_one_rate_share_a_denoiser(victim: Victim, tmp_path: Path) -> None:
    problem = noisy(victim, (STRONG, Masking(p=0.3)))
    shares = [float(flatten(problem.select([row]).present).double().mean()) for row in range(2)]
    assert shares[0] != shares[1]
    for row, masked in ((0, problem), (1, problem), (0, noisy(victim, (STRONG, Masking(p=0.7))))):
        mjolnir(tmp_path).clean(masked.select([row]), torch.tensor([0.2], dtype=torch.float64))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    units = {pixel_unit(Surrogate.of(problem.select([row]), victim.images)) for row in range(2)}
    assert len(units) == 1  # it does not depend on which of them it was trained for


def test_a_little_training_brings_the_gradient_nearer(victim: Victim, tmp_path: Path) -> None:
    """Nearer than it was sent, and than the gradient of the grey image that an untrained network returns."""
    problem = noisy(victim, number=4)
    truth = flatten(victim.problem(captures_of(victim, [], 4)).target)
    std = torch.full((4,), 0.2, dtype=torch.float64)
    near = [
        cosine(flatten(mjolnir(tmp_path, updates=updates).clean(problem, std).target), truth).mean()
        for updates in (1, 30)
    ]
    assert near[1] > near[0] > cosine(flatten(problem.target), truth).mean()


def test_a_trained_denoiser_is_not_trained_again(
    victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, attack = noisy(victim), mjolnir(tmp_path)
    first = attack.attack(problem)
    monkeypatch.setattr(denoisers, "train", lambda *_, **__: pytest.fail("trained again"))
    torch.testing.assert_close(attack.attack(problem).images, first.images)
    with pytest.raises(pytest.fail.Exception):
        mjolnir(tmp_path, updates=3).attack(problem)
