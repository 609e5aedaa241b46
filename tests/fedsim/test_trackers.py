"""TensorBoard, MLflow and Weights & Biases: a run is read back from disk with each one's own reader."""

import json
import logging
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_simulation_api import scenario

import fedsim
from fedsim.errors import InputError
from fedsim.scenario import load_scenario
from fedsim.simulation import trackers
from fedsim.simulation.api import Run
from fedsim.simulation.trackers import Trackers, require_packages
from fedsim.simulation.trackers.figures import measured_of, parameters_of, results_of

SHORT = {"attacks": [{"name": "idlg", "max_evaluations": 5}], "workers": 0, "capture": {"rounds": [2]}}
PLACE = "leakage/idlg/masking_p_0.5/adaptive"
OFFLINE = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT")


def tracked(*names: str) -> dict[str, Any]:
    return scenario(adversary=SHORT, output={"trackers": list(names)})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        for name in OFFLINE:
            patch.delenv(name, raising=False)
        out = tmp_path_factory.mktemp("tracked") / "run"
        return fedsim.run(tracked("tensorboard", "mlflow", "wandb"), out=out)


def measured(run: Run, key: str) -> list[tuple[int, float]]:
    return [(row["round"], row[key]) for row in run.rounds if row[key] is not None]


def leaked(run: Run) -> dict[str, float]:
    entry = next(row for row in run.leakage if row["defense"] != "none" and row["adaptive"])
    return {
        f"{PLACE}/n": entry["n"],
        f"{PLACE}/ssim": entry["ssim"]["mean"],
        f"{PLACE}/ssim_affine": entry["ssim_affine"]["mean"],
        f"{PLACE}/leaked": entry["leaked"]["share"],
        f"{PLACE}/leaked_high": entry["leaked"]["high"],
    }


def test_tensorboard_has_the_rounds_the_leakage_and_the_parameters(done: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(done.folder / "trackers" / "tensorboard")).Reload()
    for key in ("accuracy", "loss", "train_loss"):
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in measured(done, key)]
    for name, value in leaked(done).items():
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6)
    content = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    known = HParamsPluginData.FromString(content).session_start_info.hparams
    assert known["training.learning_rate"].number_value == 0.5
    assert known["defenses.0.name"].string_value == "masking"


def test_mlflow_has_the_rounds_the_leakage_and_the_parameters(done: Run) -> None:
    from mlflow.tracking import MlflowClient

    folder = done.folder / "trackers" / "mlflow"
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("fedsim")
    assert experiment is not None
    assert experiment.artifact_location == (folder / "artifacts").as_uri()
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    for key in ("accuracy", "loss", "train_loss"):
        history = client.get_metric_history(run.info.run_id, key)
        assert sorted((metric.step, metric.value) for metric in history) == measured(done, key)
    assert leaked(done).items() <= run.data.metrics.items()
    assert run.data.params["training.learning_rate"] == "0.5"
    assert run.data.params["adversary.attacks.0.name"] == "idlg"


def records(path: Path) -> Iterator[Any]:
    """Read an offline run of W&B: LevelDB's log format after 7 bytes, each record W&B's own protobuf."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(whole)
            whole = b""


def values(items: Iterable[Any]) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def test_wandb_has_the_rounds_the_leakage_and_the_parameters(done: Run) -> None:
    folder = done.folder / "trackers" / "wandb"
    (path,) = folder.glob("offline-run-*/run-*.wandb")
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            history.append(values(record.history.item))
        elif kind == "summary":
            summary |= values(record.summary.update)
        elif kind == "run":
            config |= values(record.run.config.update)
    for key in ("accuracy", "loss", "train_loss"):
        assert [(row["_step"], row[key]) for row in history if key in row] == measured(done, key)
    assert leaked(done).items() <= summary.items()
    assert config["training.learning_rate"] == 0.5
    assert config["strategy.name"] == "fedavg"


def test_nothing_of_the_trackers_lies_outside_of_their_folder(done: Run) -> None:
    assert {path.name for path in (done.folder / "trackers").iterdir()} == {"tensorboard", "mlflow", "wandb"}
    assert not (done.folder / "mlruns").exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_one_line_before_the_run_begins(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    line = rf"^output\.trackers = '{name}': {name} is not installed: pip install 'fedsim\[{name}\]'$"
    with pytest.raises(InputError, match=line):
        fedsim.run(tracked(name), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_no_package_is_looked_for_without_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_ERROR_REPORTING", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    require_packages([])


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(InputError, match=r"output\.trackers\.0 = 'wand': .*; did you mean 'wandb'\?"):
        load_scenario(tracked("wand"))


class Memory:
    """A tracker that keeps what it is told, and fails where it is told to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.steps: list[int] = []
        self.results: list[Mapping[str, float] | None] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.fails == "log" and step == 1:
            raise ConnectionError("no such\nhost")
        self.steps.append(step)

    def close(self, results: Mapping[str, float] | None) -> None:
        self.results.append(results)
        if self.fails == "close":
            raise ConnectionError("no such host")


def remember(monkeypatch: pytest.MonkeyPatch, **memories: Memory) -> None:
    def factory(target: str) -> Any:
        return lambda folder, name, parameters: memories[target.partition("to_")[2].partition(":")[0]]

    monkeypatch.setattr(trackers, "import_object", factory)


def test_a_tracker_that_fails_in_mid_run_is_off_and_the_run_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, worse, good = Memory("log"), Memory("close"), Memory()
    remember(monkeypatch, tensorboard=bad, mlflow=worse, wandb=good)
    with caplog.at_level(logging.WARNING, logger="fedsim"):
        run = fedsim.run(tracked("tensorboard", "mlflow", "wandb"), out=tmp_path / "run")
    assert [record.getMessage() for record in caplog.records if record.name == "fedsim"] == [
        "output.trackers: tensorboard is off: ConnectionError: no such host",
        "output.trackers: mlflow is off: ConnectionError: no such host",
    ]
    assert (bad.steps, good.steps) == ([0], [0, 1, 2])
    assert [len(memory.results) for memory in (bad, worse, good)] == [0, 1, 1]
    assert [row["round"] for row in run.rounds] == [0, 1, 2]
    assert run.summary["leakage"]


def test_a_run_that_does_not_end_closes_its_trackers_without_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    remember(monkeypatch, wandb=memory)
    ready = load_scenario(tracked("wandb", "wandb"))
    with Trackers(ready, tmp_path) as opened:
        opened.round({"round": 0, "accuracy": 0.1})
    assert (memory.steps, memory.results) == ([0], [None])
    opened.round({"round": 1})
    assert memory.steps == [0]


def test_a_tracker_that_cannot_be_opened_is_one_line_and_closes_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory()
    remember(monkeypatch, wandb=memory)
    with pytest.raises(InputError, match=r"^output\.trackers = 'mlflow': cannot be opened \(KeyError: .*\)$"):
        Trackers(load_scenario(tracked("wandb", "mlflow")), tmp_path)
    assert memory.results == [None]


def test_parameters_are_flat_and_none_is_left_out() -> None:
    ready = load_scenario(
        scenario(strategy={"rounds": 2}, adversary={"capture": {"rounds": [1, 2]}}, defenses=[])
    )
    flat = parameters_of(ready)
    assert flat["adversary.capture.rounds"] == "[1, 2]"
    assert flat["adversary.join_rounds"] is False
    assert flat["adversary.capture.clients"] == 10
    assert flat["defenses"] == "[]"
    assert "training.steps" not in flat


def test_figures_that_are_not_there_are_left_out() -> None:
    assert measured_of({"round": 1, "accuracy": None, "loss": 0.5, "seconds": 1.0}) == {"loss": 0.5}
    entry = {"attack": "my.module:Own", "defense": "none", "adaptive": False, "n": 0, "ssim": None}
    assert results_of({"leakage": [entry]}) == {"leakage/my.module_Own/none/naive/n": 0.0}
    assert results_of({}) == {}
