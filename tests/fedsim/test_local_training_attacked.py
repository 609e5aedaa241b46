"""Federated averaging with several local steps, attacked end to end."""

import json
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.simulation.api import Run

SCENARIO: dict[str, Any] = {
    "name": "steps",
    "seed": 3,
    "data": {"name": "fashion_mnist", "train_limit": 10, "test_limit": 60},
    "partition": {"name": "iid", "clients": 5},
    "model": {"name": "lenet"},
    "training": {
        "algorithm": "fedavg",
        "epochs": 2,
        "batch_size": 1,
        "learning_rate": 0.03,
        "upload": "weights",
    },
    "strategy": {"name": "fedavg", "rounds": 1},
    "adversary": {
        "threat_model": ["C", "labels"],
        "capture": {"rounds": [1], "clients": 1},
        "attacks": [
            {"name": "local_steps", "max_evaluations": 300},
            {"name": "idlg", "max_evaluations": 150},
        ],
        "workers": 0,
    },
    "output": {"report": False},
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fedsim.run(json.loads(json.dumps(SCENARIO)), out=tmp_path_factory.mktemp("run") / "steps")


def test_unrolling_sees_what_one_gradient_does_not(done: Run) -> None:
    entries = {entry["attack"]: entry for entry in done.leakage}
    assert entries["local_steps"]["n"] == 2
    assert entries["local_steps"]["ssim"]["mean"] > entries["idlg"]["ssim"]["mean"] + 0.2
    assert entries["idlg"]["note"] == "4 local steps matched as one"
    assert not entries["local_steps"]["note"]


def test_steps_of_another_optimizer_are_refused(tmp_path: Path) -> None:
    scenario = json.loads(json.dumps(SCENARIO))
    scenario["training"] |= {"optimizer": "adam", "learning_rate": 0.001}
    scenario["adversary"]["attacks"] = [{"name": "local_steps"}]
    run = fedsim.run(scenario, out=tmp_path / "adam")
    assert run.summary["refused"] == [
        {"attack": "local_steps", "reason": "unrolls steps of SGD; these clients train with adam"}
    ]
