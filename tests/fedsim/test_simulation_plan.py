"""Which jobs a plan makes of captures, and what their attackers know."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adversary.captures import Capture
from adversary.threat import parse
from fedsim.scenario.load import load_scenario
from fedsim.scenario.schema import Scenario
from fedsim.simulation.plan import plan
from fedsim.simulation.targets import Truth

PRIVATE: dict[str, Any] = {"name": "dpsgd", "clip_norm": 1.0, "noise_multiplier": 0.5}


@dataclass(frozen=True)
class Uploads:
    """Captures of which nobody knows the truth."""

    scenario: Scenario
    captures: Path = Path("captures")
    task: tuple[str, str | None] = ("module:task", None)

    def truth(self, capture: Capture) -> Truth | None:
        del capture
        return None

    def public(self) -> Tensor | None:
        return None


@pytest.mark.parametrize(
    ("training", "examples", "expected"),
    [
        ({"algorithm": "fedsgd", "batch_size": 8}, 5, (5, 1)),
        ({"algorithm": "fedavg", "steps": 4, "batch_size": 8}, 32, (8, 4)),
        ({"algorithm": "fedavg", "epochs": 2, "batch_size": 8}, 20, (8, 6)),
        ({"algorithm": "fedavg", "epochs": 3, "batch_size": 8}, 4, (4, 3)),
    ],
)
def test_an_attacker_knows_the_noise_of_the_steps_that_were_made(
    training: dict[str, Any], examples: int, expected: tuple[int, int]
) -> None:
    assert _known(training, examples, PRIVATE) == expected
    assert _known(training, examples, PRIVATE | {"steps": 2}) == (expected[0], 2)


def _known(training: dict[str, Any], examples: int, defense: dict[str, Any]) -> tuple[int, int]:
    """Return the batch size and the steps that the adaptive attacker of DP-SGD goes by."""
    scenario = load_scenario(
        {
            "data": {"name": "fashion_mnist", "train_limit": 200, "test_limit": 50},
            "defenses": [defense],
            "training": training,
            "adversary": {"attacks": [{"name": "auto"}]},
        }
    )
    capture = Capture(
        round=1,
        client=0,
        node=1,
        upload="update",
        arrays={"w": torch.zeros(2)},
        metrics={"num-examples": examples},
    )
    made = plan(Uploads(scenario), [capture], parse("C"), Path("out"))
    (table,) = next(job for job in made.jobs if job.adaptive).defenses
    return table["batch_size"], table["steps"]


@pytest.mark.parametrize("clients", [(), (0, 1, 2)])
def test_of_a_sum_is_said_that_its_defence_is_taken_for_one_clients(clients: tuple[int, ...]) -> None:
    scenario = load_scenario(
        {
            "data": {"name": "fashion_mnist", "train_limit": 200, "test_limit": 50},
            "defenses": [{"name": "masking", "p": 0.5}],
        }
    )
    capture = Capture(
        round=1,
        client=None if clients else 0,
        node=None if clients else 1,
        upload="update",
        arrays={"w": torch.zeros(2)},
        metrics={"num-examples": 1},
        clients=clients,
    )
    made = plan(Uploads(scenario), [capture], parse("C"), Path("out"))
    notes = " ".join(made.notes.values())
    assert ("the defence of 3 clients taken for that of one" in notes) == bool(clients)
    assert any(job.adaptive for job in made.jobs)
