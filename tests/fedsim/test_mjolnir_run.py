"""Mjolnir through a scenario: what the run folder and the report say of the gradients."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.errors import InputError
from fedsim.scenario.load import bundled_scenarios, load_scenario
from fedsim.simulation.federation import dataset_of
from fedsim.simulation.gradients import SIDE, gradient_pictures
from fedsim.simulation.public import require_strangers


def test_pictures_of_gradients_share_a_scale_and_stay_small() -> None:
    clean = torch.linspace(-1, 1, 20_000)
    found = gradient_pictures(clean, 0.5 * clean, torch.zeros(20_000))
    assert {picture.shape for picture in found.values()} == {(1, SIDE, SIDE)}
    assert float(found["clean"].max()) > 0.99
    assert 0.7 < float(found["sent"].max()) < 0.8
    assert bool((found["found"] == 0.5).all())
    assert gradient_pictures(*[torch.ones(10)] * 3)["clean"].shape == (1, 4, 4)


def test_the_run_shows_gradients_before_and_after(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (path,) = [path for path in bundled_scenarios() if path.stem == "mjolnir"]
    cache = tmp_path / "cache"
    few = {"then": "idlg", "updates": 40, "options": {"max_evaluations": 30}, "cache": str(cache)}
    overrides = {
        "adversary.capture.clients": 2,
        "adversary.workers": 0,
        "adversary.attacks": [{"name": "mjolnir", "split": "test", **few}],
        "data.test_limit": 200,
    }
    run = fedsim.run(path, overrides=overrides, out=tmp_path / "run")
    lines = (run.folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    scores = [json.loads(line) for line in lines]
    assert sorted(row["adaptive"] for row in scores) == [False, False, True, True]
    for row in scores:
        assert row["gradient_cosine"] > row["sent_cosine"] > 0.3
        assert set(row["gradient_pictures"]) == {"clean", "sent", "found"}
        assert all((run.folder / name).is_file() for name in row["gradient_pictures"].values())
    naive, adaptive = (next(row for row in scores if row["adaptive"] is known) for known in (False, True))
    assert naive["gradient_cosine"] == pytest.approx(adaptive["gradient_cosine"], abs=0.02)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "stands its cosine with the clean one" in page
    assert page.count(">Gradient, clean<") == 1
    assert page.count(">Gradient, as sent<") == 1
    assert page.count(">Gradient, denoised<") == 2
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_the_surrogate_does_not_hold_the_clients_images() -> None:
    line = "adversary.attacks.0.split = 'train': allowed: 'test' with surrogate = 'fashion_mnist'"
    with pytest.raises(InputError, match=line):
        load_scenario({"adversary": {"attacks": ["mjolnir"]}})
    load_scenario({"adversary": {"attacks": [{"name": "mjolnir", "split": "test"}]}})


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Return a file of pictures that are divided by the scenario's seed."""
    drawn = np.random.default_rng(0).integers(0, 256, (400, 28, 28), dtype=np.uint8)
    path = tmp_path / "digits.npz"
    np.savez(path, x=drawn, y=np.arange(400) % 10)
    return path


def brings(path: Path, **options: Any) -> dict[str, Any]:
    """Return a scenario whose attacker brings images of the clients' own file."""
    attack = {
        "name": "mjolnir",
        "surrogate": "npz",
        "surrogate_options": {"path": str(path)},
        "split": "test",
    }
    return {
        "seed": 1,
        "data": {"name": "npz", "path": str(path)},
        "adversary": {"attacks": [attack | options]},
    }


def test_a_split_by_another_seed_holds_clients_images(tmp_path: Path, digits: Path) -> None:
    line = (
        "adversary.attacks.0.surrogate: [78][0-9]% of its images are the clients' own; .*surrogate_seed = 1"
    )
    with pytest.raises(InputError, match=line):
        fedsim.run(brings(digits), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fair = load_scenario(brings(digits, surrogate_seed=1))
    require_strangers(fair, dataset_of(fair).train)


def test_public_images_that_are_not_there_are_told_before_the_federation(digits: Path) -> None:
    for options, line in (
        ({"surrogate_options": {"path": "nowhere.npz"}}, r"attacks\.0\.surrogate: data.path = 'nowhere.npz'"),
        ({"surrogate": "fashion"}, r"attacks\.0\.surrogate: data.name = 'fashion'"),
    ):
        scenario = load_scenario(brings(digits, **options))
        with pytest.raises(InputError, match=line):
            require_strangers(scenario, dataset_of(scenario).train)


def test_other_files_under_the_same_name_are_other_images(tmp_path: Path, digits: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros((40, 28, 28), dtype=np.uint8), y=np.arange(40) % 10)
    with pytest.raises(InputError, match="split = 'train': allowed: 'test' with surrogate = 'npz'"):
        load_scenario(brings(digits, split="train"))
    scenario = load_scenario(brings(digits, split="train", surrogate_options={"path": str(other)}))
    require_strangers(scenario, dataset_of(scenario).train)
