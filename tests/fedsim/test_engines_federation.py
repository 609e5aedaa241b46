import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import prepare, rounds_of, run_in
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from adversary.captures import capture_paths, read_capture, read_weights
from fedsim.engines.app import EngineError
from fedsim.engines.processes import python_environment
from fedsim.errors import InputError
from fedsim.scenario.load import load_scenario
from fedsim.simulation.federate import federate
from fedsim.simulation.federation import (
    client_images,
    cohorts_of,
    federation_at,
    federation_of,
    task_of,
    truth_of,
)
from fedsim.simulation.journal import FederationStopped

BROKEN = {"name": "engine_helpers:Raises"}


def scenario(**tables: Any) -> Any:
    return load_scenario({"data": {"name": "fashion_mnist", "train_limit": 200, "test_limit": 50}, **tables})


@settings(max_examples=25, deadline=None)
@given(clients=st.integers(1, 60), share=st.floats(0.01, 1.0), seed=st.integers(0, 99))
def test_a_share_of_the_clients_is_exact(clients: int, share: float, seed: int) -> None:
    table = {"name": "masking", "p": 0.5, "share": share}
    cohorts = cohorts_of(scenario(seed=seed, partition={"clients": clients}, defenses=[table]))
    defended = [client for client in range(clients) if cohorts.defense_of(client)]
    assert len(defended) == round(share * clients)
    assert {cohorts.cohort_of(client) for client in defended} <= {"masking(p=0.5)"}


def test_cohorts_are_named_by_their_chain_and_drawn_one_by_one() -> None:
    tables = [{"name": "clipping", "norm": 1.0, "share": 0.5}, {"name": "noising", "std": 0.1, "share": 0.5}]
    cohorts = cohorts_of(scenario(partition={"clients": 40}, defenses=tables))
    names = [cohorts.cohort_of(client) for client in range(40)]
    assert set(names) == {
        "none",
        "clipping(norm=1.0)",
        "noising(std=0.1)",
        "clipping(norm=1.0) + noising(std=0.1)",
    }
    again = cohorts_of(scenario(partition={"clients": 40}, defenses=tables))
    assert names == [again.cohort_of(client) for client in range(40)]
    # Another defence beside it does not move the first one's draw.
    alone = cohorts_of(scenario(partition={"clients": 40}, defenses=tables[:1]))
    assert [bool(alone.defense_of(c)) for c in range(40)] == ["clipping" in name for name in names]


def test_a_defense_out_of_range_is_named() -> None:
    broken = scenario().model_copy(
        update={"defenses": scenario(defenses=[{"name": "masking", "p": 0.5}]).defenses}
    )
    table = broken.defenses[0].model_copy(update={"p": 1.5})
    with pytest.raises(InputError, match=r"defenses\.0\.p = 1\.5"):
        cohorts_of(broken.model_copy(update={"defenses": [table]}))


def test_a_device_that_is_not_there_is_named() -> None:
    asked = scenario(training={"device": "cuda:7"})
    with pytest.raises(InputError, match=r"training\.device = 'cuda:7': allowed: a device of this machine"):
        federation_of(asked)
    with pytest.raises(InputError, match=r"training\.device = 'gpu'"):
        scenario(training={"device": "gpu"})
    assert federation_of(scenario()).device == "cpu"


def test_a_federation_is_built_once_a_file(tmp_path: Path) -> None:
    prepare(tmp_path)
    path = tmp_path / "scenario.toml"
    assert federation_at(path) is federation_at(str(path))
    path.write_text(path.read_text().replace("batch_size = 8", "batch_size = 4"))
    assert federation_at(path).recipe.batch_size == 4
    assert federation_at(path, ("training.batch_size=2",)).recipe.batch_size == 2


def test_the_task_needs_no_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    monkeypatch.setattr("fedsim.simulation.federation.partition_clients", None)
    task = task_of(str(tmp_path / "scenario.toml"))
    assert (task.input_shape, task.num_classes) == ((1, 28, 28), 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    defenses = [{"name": "masking", "p": 0.5, "share": 0.5}]
    run_in(folder, defenses=defenses, adversary={"capture": {"rounds": [1, 3], "clients": 1}})
    return folder


def test_rounds_say_what_happened(run: Path) -> None:
    rounds = rounds_of(run)
    assert [row["round"] for row in rounds] == [0, 1, 2, 3]
    assert set(rounds[0]) == {
        *("round", "accuracy", "loss", "train_loss", "clients", "failed", "seconds", "captured")
    }
    assert rounds[0]["clients"] == []
    for row in rounds[1:]:
        assert len(row["clients"]) == 4
        assert set(row["clients"]) <= set(range(6))
        assert row["train_loss"] > 0
        assert 0 <= row["accuracy"] <= 1
        assert row["failed"] == []
        assert row["seconds"] > 0
    # One capture per round and cohort, in the rounds that the policy names.
    assert [row["captured"] for row in rounds] == [0, 2, 0, 2]
    assert len(list(capture_paths(run / "captures"))) == 4


def test_the_central_test_set_is_evaluated(run: Path) -> None:
    federation = federation_at(run / "scenario.toml")
    model = federation.task.build(3)
    model.load_state_dict(load_file(run / "weights.safetensors"))
    images, labels = federation.dataset.test.batch(np.arange(100))
    with torch.no_grad():
        logits = model.eval()(images)
    last = rounds_of(run)[-1]
    assert last["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert last["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)


def test_the_truth_is_what_made_the_upload(run: Path) -> None:
    """The captured update is -lr times the gradient of the recomputed batch at the captured weights."""
    path = str(run / "scenario.toml")
    cohorts = cohorts_of(load_scenario(Path(path)))
    checked = 0
    for capture in map(read_capture, capture_paths(run / "captures")):
        assert capture.client is not None
        if cohorts.cohort_of(capture.client) != "none":
            continue
        images, labels = truth_of(path, capture.client, capture.round)
        assert images.shape == (8, 1, 28, 28)
        task = task_of(path)
        model = task.build(0)
        model.load_state_dict(read_weights(run / "captures", capture.weights))
        loss = task.loss(model, images, labels)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        for (name, _), expected in zip(model.named_parameters(), gradient, strict=True):
            torch.testing.assert_close(capture.arrays[name], -0.2 * expected, rtol=1e-4, atol=1e-6)
        held, _ = client_images(path, capture.client)
        assert all((held == image).flatten(1).all(1).any() for image in images)
        checked += 1
    assert checked == 2


def test_a_client_that_raises_costs_its_reply(tmp_path: Path) -> None:
    rounds = run_in(tmp_path, defenses=[BROKEN | {"share": 0.5}])
    broken = {
        client
        for client in range(6)
        if cohorts_of(load_scenario(tmp_path / "scenario.toml")).defense_of(client)
    }
    assert len(broken) == 3
    for row in rounds[1:]:
        expected = sorted(broken & set(row["clients"]))
        assert row["failed"] == [
            {"client": c, "reason": "ValueError: this client is broken"} for c in expected
        ]
    assert any(row["failed"] for row in rounds)
    assert (tmp_path / "weights.safetensors").is_file()


def test_a_round_without_a_valid_reply_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(
        FederationStopped, match=r"round 1: no valid reply from 4 clients; client \d: ValueError: this"
    ):
        run_in(tmp_path, defenses=[BROKEN])
    first, last = rounds_of(tmp_path)
    assert (first["round"], last["round"]) == (0, 1)
    assert last["accuracy"] is None
    assert "no valid reply" in last["stopped"]
    assert len(last["failed"]) == 4
    assert not (tmp_path / "weights.safetensors").exists()


def test_rounds_are_evaluated_as_often_as_asked_and_at_the_end(tmp_path: Path) -> None:
    rounds = run_in(tmp_path, strategy={"rounds": 5, "evaluate_every": 3})
    assert [row["accuracy"] is not None for row in rounds] == [True, False, False, True, False, True]


def test_the_same_scenario_gives_the_same_bits(tmp_path: Path) -> None:
    tables: dict[str, Any] = {
        "strategy": {"name": "fedadam", "rounds": 2, "clients_per_round": 3},
        "defenses": [{"name": "noising", "std": 0.01}],
    }
    torch.manual_seed(0)
    run_in(tmp_path / "a", **tables)
    torch.manual_seed(1)  # the global generators are nobody's
    np.random.seed(7)  # noqa: NPY002
    run_in(tmp_path / "b", **tables)
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in "ab")
    assert one == two
    run_in(tmp_path / "c", **tables, seed=4)
    assert (tmp_path / "c" / "weights.safetensors").read_bytes() != one


def test_rounds_of_another_process_are_passed_on_once(tmp_path: Path) -> None:
    engine = {"name": "engine_helpers:Elsewhere", "stopped": True}
    seen: list[Any] = []
    with pytest.raises(FederationStopped, match="round 1: nothing came"):
        federate(prepare(tmp_path, engine=engine), tmp_path, on_round=seen.append)
    assert [row["round"] for row in seen] == [0, 1]
    other = tmp_path / "other"
    with pytest.raises(EngineError, match="finished:failed"):
        federate(prepare(other, engine=engine | {"stopped": False}), other)


def test_engine_options_are_checked(tmp_path: Path) -> None:
    right = prepare(tmp_path)
    wrong = right.model_copy(update={"engine": right.engine.model_copy(update={"threads": 0})})
    with pytest.raises(InputError, match=r"engine\.threads = 0: allowed: at least 1"):
        federate(wrong, tmp_path)


def test_ten_thousand_clients_are_no_burden(tmp_path: Path) -> None:
    rounds = run_in(tmp_path, partition={"clients": 10_000}, strategy={"rounds": 3, "clients_per_round": 5})
    assert rounds[2]["seconds"] < 1.0
    assert len({client for row in rounds for client in row["clients"]}) > 10


@pytest.mark.parametrize("shadow", ["clients/__init__.py", "strategies.py"])
def test_a_users_own_package_that_hides_ours_is_named(tmp_path: Path, shadow: str) -> None:
    theirs = tmp_path / shadow
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("")
    script = (
        "from fedsim.errors import InputError\n"
        "try:\n import fedsim.simulation\nexcept InputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=python_environment(), capture_output=True, text=True
    )
    hidden = shadow.split("/")[0].removesuffix(".py")
    named = theirs.parent if "/" in shadow else theirs
    assert done.stdout.strip() == f"{named}: hides fedsim's {hidden!r}; allowed: any other name", done.stderr


def test_federation_of_reads_every_table() -> None:
    federation = federation_of(
        scenario(
            seed=5,
            partition={"name": "iid", "clients": 4},
            model="mlp",
            training={"algorithm": "fedavg", "epochs": 2, "batch_size": 16, "upload": "weights"},
        )
    )
    assert (federation.partition.clients, federation.upload, federation.seed) == (4, "weights", 5)
    assert (federation.recipe.epochs, federation.recipe.batch_size) == (2, 16)
    assert sorted(np.concatenate([federation.partition.indices(c) for c in range(4)])) == list(range(200))
