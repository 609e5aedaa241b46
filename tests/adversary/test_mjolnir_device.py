"""That Mjolnir trains and denoises where the gradients are, told without a GPU.

Torch's device `meta` has shapes and no values, and refuses what mixes it with tensors of the CPU, as a GPU
does. Where the code asks for a value (a length to go by) it is given one.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Victim
from test_mjolnir import STRONG, mjolnir, noisy
from torch import Tensor

from adversary.mjolnir import denoisers, training
from adversary.problem import Problem
from fedsim.defenses.clipping import Clipping
from fedsim.defenses.masking import Masking


def elsewhere(problem: Problem) -> Problem:
    assert problem.labels is not None
    return replace(
        problem,
        model=copy.deepcopy(problem.model).to("meta"),
        target={name: value.to("meta") for name, value in problem.target.items()},
        present={name: mask.to("meta") for name, mask in problem.present.items()},
        labels=problem.labels.to("meta"),
    )


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give tensors of `meta` a value where one is asked for; no file is written of them or read."""
    known = {name: getattr(Tensor, name) for name in ("__float__", "__bool__", "tolist")}
    given = {"__float__": lambda _: 0.5, "__bool__": lambda _: True, "tolist": lambda one: [0.5] * len(one)}
    for name, value in given.items():
        monkeypatch.setattr(
            Tensor, name, lambda one, name=name, value=value: (value if one.is_meta else known[name])(one)
        )
    monkeypatch.setattr(denoisers, "content_key", lambda *_: "key")
    monkeypatch.setattr(denoisers, "remembered", lambda folder, key, make: make(folder / key))
    monkeypatch.setattr(training, "_keep", lambda *_: None)


@pytest.mark.parametrize(
    ("defenses", "options"),
    [
        ((STRONG,), {}),
        ((STRONG,), {"sampling": "ancestral"}),
        ((STRONG, Masking(p=0.5)), {"sampling": "ddim"}),
        ((Clipping(norm=0.5), STRONG), {}),
        ((Clipping(norm=0.5), STRONG), {"denoiser": "squares", "sampling": "mean"}),
        ((STRONG,), {"denoiser": "squares", "sampling": "ancestral"}),
        ((STRONG,), {"denoiser": "squares", "sampling": "ddim", "variant": "fixed"}),
        ((STRONG,), {"denoiser": "squares", "sampling": "ddim", "variant": "conditional"}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("values")
def test_it_trains_and_denoises_where_the_gradients_are(
    victim: Victim, tmp_path: Path, defenses: tuple[Any, ...], options: dict[str, Any]
) -> None:
    problem = elsewhere(noisy(victim, defenses))
    found = mjolnir(tmp_path, **options).clean(problem, torch.full((2,), 0.2, dtype=torch.float64))
    assert {name: value.shape for name, value in found.target.items()} == {
        name: value.shape for name, value in problem.target.items()
    }
    assert all(value.is_meta and value.dtype == torch.float64 for value in found.target.values())


def test_tensors_of_two_devices_do_not_mix() -> None:
    with pytest.raises(RuntimeError):
        torch.zeros(2) + torch.zeros(2, device="meta")
