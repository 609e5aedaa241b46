"""Every bundled scenario really runs, cut short: what it names exists and fits together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.scenario import load_scenario
from fedsim.scenario.load import bundled_scenarios

SCENARIOS = {path.stem: path for path in bundled_scenarios()}
PROCESSES = {"ray", "deployment"}
"""Engines with processes of their own have tests of their own: here their scenarios run inline."""
SHORT = {
    "data.train_limit": 400,
    "data.test_limit": 40,
    "strategy.rounds": 1,
    "adversary.capture.clients": 1,
    "adversary.workers": 0,
    "output.report": False,
}
FEWER = {"partition.clients": 20, "strategy.clients_per_round": 4}
FEW_SAMPLES = {"task.samples": 2, "task.sample_steps": 2}
LITTLE = {"max_evaluations": 2, "iterations": 2, "polish": 2}
"""Of the options of an attack, where it has them."""


def shortened(path: Path, folder: Path) -> dict[str, Any]:
    """Return overrides after which the scenario takes seconds, and asks for the same things."""
    full = load_scenario(path, {"data": "fashion_mnist"})
    changed: dict[str, Any] = dict(SHORT)
    if full.partition.clients > FEWER["partition.clients"]:
        changed["partition.clients"] = FEWER["partition.clients"]
    if full.strategy.clients_per_round:
        changed["strategy.clients_per_round"] = FEWER["strategy.clients_per_round"]
    if isinstance(full.adversary.capture.rounds, list):
        changed["adversary.capture.rounds"] = [1]
    if full.engine.name in PROCESSES:
        changed["engine"] = "inline"
    if path.stem == "own_data":
        images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
        np.savez(folder / "images.npz", x=images, y=np.arange(60) % 3)
        changed["data.path"] = str(folder / "images.npz")
    if path.stem == "gidm_128":
        changed |= {"data.size": 16, "data.crops": 4}
    if full.training.steps:
        changed["training.steps"] = 2
    if full.task.name == "diffusion":
        changed |= FEW_SAMPLES
    for number, attack in enumerate(full.adversary.attacks):
        changed[f"adversary.attacks.{number}.restarts"] = 1
        for option in LITTLE.keys() & options_of(attack.name):
            changed[f"adversary.attacks.{number}.{option}"] = LITTLE[option]
        if "updates" in options_of(attack.name):
            changed[f"adversary.attacks.{number}.updates"] = 2
            changed[f"adversary.attacks.{number}.options"] = {"max_evaluations": 2}
            changed[f"adversary.attacks.{number}.cache"] = str(folder)
    return changed


def options_of(attack: str) -> set[str]:
    """Return the names of an attack's options."""
    from adversary.attacks import ATTACKS
    from fedsim.options import option_names

    return set(option_names(ATTACKS.resolve(attack)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_runs(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    path = SCENARIOS[name]
    run = fedsim.run(path, overrides=shortened(path, tmp_path), out=tmp_path / "run")
    scenario = load_scenario(run.folder / "scenario.toml")
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    if scenario.task.name == "classification":
        assert 0 <= summary["accuracy"] <= 1
    assert summary["loss"] > 0
    assert summary["federation"]["captures"] >= 1
    assert summary["federation"]["failed_replies"] == 0
    assert summary["failures"] == []
    attacked = {row["attack"] for row in summary["leakage"]}
    refused = {row["attack"] for row in summary["refused"]}
    assert attacked | refused == {attack.name for attack in scenario.adversary.attacks}
    if scenario.defenses and scenario.adversary.attacks:
        assert any(row["adaptive"] or "adaptive: none" in row["note"] for row in summary["leakage"])


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_scenario_says_what_it_shows_and_what_to_expect(name: str) -> None:
    text = SCENARIOS[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "Expect" in text.partition("\nseed")[0] or "data.path" in text
