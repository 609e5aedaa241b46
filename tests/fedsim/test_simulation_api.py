"""The pipeline end to end: federation, captures, attacks, scores, summary; and captures attacked again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedsim
from adversary.captures import capture_paths, read_capture
from adversary.problem import Attempt, Problem
from fedsim.errors import InputError
from fedsim.simulation.api import Run

SCENARIO: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "data": {"name": "fashion_mnist", "train_limit": 200, "test_limit": 100},
    "partition": {"name": "iid", "clients": 6},
    "training": {"algorithm": "fedsgd", "batch_size": 1, "learning_rate": 0.5, "upload": "update"},
    "strategy": {"name": "fedavg", "rounds": 2},
    "defenses": [{"name": "masking", "p": 0.5, "share": 0.5}],
    "adversary": {
        "capture": {"rounds": [2], "clients": 1},
        "attacks": [{"name": "idlg", "max_evaluations": 150}],
        "workers": 0,
    },
    "output": {"report": False},
}


def scenario(**changes: Any) -> dict[str, Any]:
    merged = json.loads(json.dumps(SCENARIO))
    for key, value in changes.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return dict(merged)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fedsim.run(scenario(), out=tmp_path_factory.mktemp("run") / "small")


def test_a_run_leaves_what_its_documentation_says(done: Run) -> None:
    left = {path.name for path in done.folder.iterdir()}
    assert left >= {
        *("scenario.toml", "rounds.jsonl", "captures", "weights.safetensors"),
        *("reconstructions", "scores.jsonl", "summary.json", "clients.json"),
    }
    assert [row["round"] for row in done.rounds] == [0, 1, 2]
    assert len(list(capture_paths(done.folder / "captures"))) == 2
    for row in done.scores:
        assert (done.folder / row["picture"]).is_file()
        assert (done.folder / row["truth_picture"]).is_file()


def test_each_defense_has_its_row_naive_and_adaptive(done: Run) -> None:
    rows = [(row["attack"], row["defense"], row["adaptive"], row["n"]) for row in done.leakage]
    masked = "masking(p=0.5)"
    assert rows == [("idlg", "none", False, 1), ("idlg", masked, False, 1), ("idlg", masked, True, 1)]
    for row in done.leakage:
        assert row["privileges"] == done.summary["threat_model"]["capabilities"]
        assert row["leaked"]["low"] <= row["leaked"]["share"] <= row["leaked"]["high"]
    assert done.leakage[1]["snr"] == pytest.approx(1.4, abs=0.3)
    assert done.leakage[0]["ssim"]["mean"] > 0.9
    assert done.leakage[1]["ssim"]["mean"] < 0.5 < done.leakage[2]["ssim"]["mean"]


def test_a_capture_holds_nothing_of_the_truth(done: Run) -> None:
    for path in capture_paths(done.folder / "captures"):
        capture = read_capture(path)
        assert set(capture.metrics) == {"num-examples", "train-loss"}
        assert not {"labels", "images", "seed"} & set(capture.config)


def untimed(run: Run) -> list[dict[str, Any]]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in run.scores]
    return sorted(rows, key=str)


def test_the_same_scenario_gives_the_same_numbers_in_a_worker(done: Run, tmp_path: Path) -> None:
    in_a_process = {"adversary.workers": 1}
    again = fedsim.run(done.folder / "scenario.toml", overrides=in_a_process, out=tmp_path / "again")
    assert (again.folder / "weights.safetensors").read_bytes() == (
        done.folder / "weights.safetensors"
    ).read_bytes()
    untimed = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in run.scores] for run in (done, again)
    ]
    assert sorted(untimed[0], key=str) == sorted(untimed[1], key=str)


def test_captures_are_attacked_again_without_the_federation(done: Run, tmp_path: Path) -> None:
    again = fedsim.attack(done.folder, out=tmp_path / "again")
    before = {(row["capture"], row["adaptive"]): row["ssim"] for row in done.scores}
    assert {(row["capture"], row["adaptive"]): row["ssim"] for row in again.scores} == before
    assert again.summary["accuracy"] is None


def test_another_attack_and_threat_model_on_the_same_captures(done: Run, tmp_path: Path) -> None:
    other = fedsim.attack(
        done.folder,
        attack="dlg",
        overrides={"adversary.attacks.0.max_evaluations": 20},
        threat_model=["C", "labels"],
        out=tmp_path / "dlg",
    )
    assert {row["attack"] for row in other.leakage} == {"dlg"}
    assert "labels" in other.leakage[0]["privileges"]


def test_an_attack_beyond_the_threat_model_is_refused_with_the_reason(done: Run, tmp_path: Path) -> None:
    other = fedsim.attack(done.folder, threat_model="A", out=tmp_path / "refused")
    assert other.leakage == []
    assert "batch_size" in other.summary["refused"][0]["reason"]


def test_without_the_defense_privilege_only_the_naive_attacker_is_run(done: Run, tmp_path: Path) -> None:
    other = fedsim.attack(
        done.folder,
        threat_model=["batch_size", "recipe"],
        overrides={"adversary.attacks.0.max_evaluations": 10},
        out=tmp_path / "naive",
    )
    assert [row["adaptive"] for row in other.leakage] == [False, False]
    assert "does not grant defense" in other.leakage[1]["note"]


def test_a_batch_too_large_for_the_attack_is_refused(tmp_path: Path) -> None:
    run = fedsim.run(
        scenario(
            training={"batch_size": 16}, strategy={"rounds": 1}, adversary={"capture": {"rounds": "first"}}
        ),
        out=tmp_path / "run",
    )
    assert run.leakage == []
    assert "at most 8 images" in run.summary["refused"][0]["reason"]


def test_every_upload_is_captured_again_where_the_scenario_says_all(done: Run, tmp_path: Path) -> None:
    from fedsim.scenario import dump_scenario, load_scenario

    (tmp_path / "captures").symlink_to(done.folder / "captures")
    overrides = {"adversary.capture.clients": "all", "adversary.capture.max_gigabytes": 2}
    kept = load_scenario(done.folder / "scenario.toml", overrides)
    (tmp_path / "scenario.toml").write_text(dump_scenario(kept))
    again = fedsim.attack(tmp_path, threat_model="A", overrides=["seed=5"], out=tmp_path / "out")
    resolved = load_scenario(again.folder / "scenario.toml")
    assert resolved.adversary.capture.clients is None
    assert (resolved.seed, resolved.adversary.threat_model) == (5, "A")


def test_a_masks_zeros_count_as_absent_where_nobody_marked_them(done: Run, tmp_path: Path) -> None:
    """As from a Flower app whose server does not say that it leaves absent entries out."""
    from dataclasses import replace

    from adversary.captures import read_weights, write_capture, write_weights

    captures = tmp_path / "captures"
    for path in capture_paths(done.folder / "captures"):
        capture = read_capture(path)
        write_capture(captures, replace(capture, present={}))
        write_weights(captures, read_weights(done.folder / "captures", capture.weights), capture.weights)
    (tmp_path / "scenario.toml").write_bytes((done.folder / "scenario.toml").read_bytes())
    run = fedsim.attack(tmp_path, out=tmp_path / "out")
    found = {(row["defense"], row["adaptive"]): row["ssim"]["mean"] for row in run.leakage}
    assert found["masking(p=0.5)", False] < 0.5
    assert found["masking(p=0.5)", True] > 0.9


def test_a_task_or_truth_that_cannot_be_had_is_refused_at_once(done: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere:task.*cannot be imported"):
        fedsim.attack(done.folder / "captures", task="nowhere:task", out=tmp_path / "out")
    task, truth = "test_simulation_api:foreign_task", tmp_path / "no.npz"
    with pytest.raises(InputError, match=r"--truth .*no.npz: cannot be read"):
        fedsim.attack(done.folder / "captures", task=task, truth=truth, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_attack_that_was_cut_off_goes_on(done: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = {"adversary.attacks.0.max_evaluations": 10}
    first = fedsim.attack(done.folder, overrides=few, out=out)
    made = sorted((out / "reconstructions").glob("*.safetensors"))
    assert len(made) > 1
    (out / "summary.json").unlink()
    made[0].unlink()
    kept = {path: path.stat().st_mtime_ns for path in made[1:]}
    again = fedsim.attack(done.folder, overrides=few, out=out)
    assert {path: path.stat().st_mtime_ns for path in made[1:]} == kept
    assert made[0].is_file()
    assert again.leakage == first.leakage
    scores = (out / "scores.jsonl").read_text().splitlines()
    assert len(scores) == len(set(scores)) == len(first.scores)
    (out / "summary.json").unlink()
    with pytest.raises(InputError, match="not empty"):
        fedsim.attack(done.folder, attack="dlg", out=out)


class Broken:
    """An attack that always raises: it must be counted, not dropped."""

    needs = frozenset({"updates"})
    max_images = 8

    def attack(self, problem: Problem) -> Attempt:
        raise RuntimeError("no luck")


def test_an_attack_that_dies_is_counted_as_failed(done: Run, tmp_path: Path) -> None:
    run = fedsim.attack(
        done.folder,
        attack="test_simulation_api:Broken",
        out=tmp_path / "broken",
    )
    assert all(row["failed"] == row["captures"] for row in run.leakage)
    assert all(row["leaked"]["share"] == 0 for row in run.leakage)
    assert "no luck" in run.summary["failures"][0]["reason"]


def test_under_secure_aggregation_only_the_mean_is_attacked(tmp_path: Path) -> None:
    run = fedsim.run(
        scenario(
            defenses=[],
            partition={"clients": 2},
            strategy={"rounds": 1},
            adversary={"visibility": "aggregate", "capture": {"rounds": "first"}},
        ),
        out=tmp_path / "run",
    )
    (path,) = capture_paths(run.folder / "captures")
    assert read_capture(path).clients == (0, 1)
    assert run.leakage[0]["n"] == 2
    assert "client_updates" not in run.leakage[0]["privileges"]


def foreign_task() -> Any:
    """Return the task of the run above, as a foreign app would hand it over."""
    from fedsim.tasks.classification import classification_task

    return classification_task("lenet", {}, (1, 28, 28), 10)


def test_a_foreign_apps_captures_need_a_task_and_are_scored_with_its_truth(done: Run, tmp_path: Path) -> None:
    from fedsim.scenario import load_scenario
    from fedsim.simulation.targets import RunTarget

    captures = tmp_path / "captures"
    captures.symlink_to(done.folder / "captures")
    with pytest.raises(InputError, match="--task"):
        fedsim.attack(captures)
    target = RunTarget(load_scenario(done.folder / "scenario.toml"), done.folder)
    names, truths = [], []
    for path in capture_paths(captures):
        names.append(path.stem)
        truths.append(target.truth(read_capture(path)))
    np.savez(
        tmp_path / "truth.npz",
        x=np.stack([(t.images[0, 0].numpy() * 255).round().astype(np.uint8) for t in truths]),
        y=np.array([int(t.labels[0]) for t in truths]),
        capture=np.array(names),
    )
    short = {"adversary.attacks.0.max_evaluations": 5, "adversary.workers": 0}
    task = "test_simulation_api:foreign_task"
    blind = fedsim.attack(captures, task=task, overrides=short, out=tmp_path / "blind")
    assert blind.leakage == []
    assert {(row["capture"], row["ssim"], row["leaked"]) for row in blind.scores} == {
        (name, None, None) for name in names
    }
    assert all((blind.folder / row["picture"]).is_file() for row in blind.scores)
    page = (blind.folder / "report.html").read_text(encoding="utf-8")
    assert "without the truth beside them none could be scored" in page
    assert page.count("<img") == len(names)
    run = fedsim.attack(
        captures,
        task=task,
        truth=tmp_path / "truth.npz",
        overrides={"adversary.attacks.0.max_evaluations": 150, "adversary.workers": 0},
        out=tmp_path / "out",
    )
    known = {row["capture"]: row["ssim"] for row in done.scores if row["defense"] == "none"}
    found = {row["capture"]: row["ssim"] for row in run.scores}
    for name, value in known.items():
        assert found[name] == pytest.approx(value, abs=0.03)  # another seed, another start


def test_fresh_masks_over_rounds_reveal_what_one_round_hides(tmp_path: Path) -> None:
    base = scenario(
        data={"train_limit": 10},
        partition={"clients": 10},  # one image each: the batch is the same in every round
        strategy={"rounds": 3},
        adversary={
            "capture": {"rounds": "all", "clients": 1},
            "attacks": [{"name": "idlg", "max_evaluations": 150}],
        },
    )
    base["defenses"] = [{"name": "masking", "p": 0.985}]
    run = fedsim.run(base, out=tmp_path / "run")
    alone = run.leakage[1]
    assert (alone["adaptive"], alone["n"]) == (True, 3)
    joined = fedsim.attack(run.folder, overrides={"adversary.join_rounds": True}, out=tmp_path / "joined")
    together = joined.leakage[1]
    assert (together["adaptive"], together["n"]) == (True, 1)
    assert "3 rounds of the same batch joined" in joined.leakage[0]["note"]
    assert together["equations"] > 2 * alone["equations"]
    assert together["ssim"]["mean"] > alone["ssim"]["mean"] + 0.1
