"""The commands over a real run: run, attack again, report, diagnose, and the estimate beforehand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.cli import main
from fedsim.cli.estimate import count_captures
from fedsim.scenario import load_scenario

TINY = """
[data]
test_limit = 50
train_limit = 200
[partition]
clients = 3
[training]
learning_rate = 1.0
[[defenses]]
name = "masking"
p = 0.5
share = 0.34
[strategy]
rounds = 1
[adversary]
workers = 0
capture.clients = 1
attacks = [{ name = "idlg", max_evaluations = 60 }]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scenario and its run."""
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("cli")
    (place / "tiny.toml").write_text(TINY)
    assert main(["run", str(place / "tiny.toml"), "--out", str(place / "run")]) == 0
    return place


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_attacks_that_all_fail_are_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "broken"
    attack = ["--attack", "test_simulation_api:Broken", "--set", "adversary.workers=0"]
    assert main(["attack", str(folder / "run"), *attack, "--out", str(out)]) == 1
    assert "no luck" in " ".join(capsys.readouterr().out.split())
    assert (out / "summary.json").is_file()


def test_a_run_leaves_its_resolved_scenario_and_a_report(folder: Path) -> None:
    run = folder / "run"
    assert load_scenario(run / "scenario.toml") == load_scenario(folder / "tiny.toml")
    assert (run / "report.html").is_file()
    rows = json.loads((run / "summary.json").read_text())["leakage"]
    assert [(row["defense"], row["adaptive"]) for row in rows] == [
        ("none", False),
        ("masking(p=0.5)", False),
        ("masking(p=0.5)", True),
    ]


def test_the_captures_of_a_run_are_attacked_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--set", "adversary.attacks.0.max_evaluations=20", "--out", folder / "again")
    summary = printed(capsys, "attack", folder / "run", "--attack", "dlg", *small)
    assert {row["attack"] for row in summary["leakage"]} == {"dlg"}
    assert main(["attack", str(folder / "run"), "--threat-model", "A", "--out", str(folder / "refused")]) == 0
    assert "refused: idlg: needs batch_size" in capsys.readouterr().out


def test_the_report_is_written_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "run" / "report.html"
    page.unlink()
    assert main(["report", str(folder / "run")]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.is_file()


def test_a_clean_capture_of_a_run_has_no_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohorts = json.loads((folder / "run" / "clients.json").read_text())["cohorts"]
    capture = folder / "run" / "captures" / f"round-0001-client-{cohorts.index('none'):05d}.safetensors"
    if not capture.is_file():
        capture = next(p for p in capture.parent.glob("round-*") if cohorts[int(p.stem[-5:])] == "none")
    found = printed(capsys, "diagnose", capture)
    assert {finding["verdict"] for finding in found} == {"ok"}
    assert any(finding["check"] == "recomputation" for finding in found)
    wrong = printed(capsys, "diagnose", capture, "--set", "training.learning_rate=0.25")
    assert [finding["check"] for finding in wrong if finding["verdict"] == "fault"] == ["scale"]
    assert main(["diagnose", str(capture), "--set", "training.learning_rate=0.25"]) == 0
    assert capsys.readouterr().out.startswith("fault: scale: the upload is 4 times what is claimed")


def test_a_foreign_capture_is_diagnosed_with_the_task_that_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "foreign_task_for_test.py").write_text(
        "from fedsim.tasks.classification import classification_task\n"
        "def task():\n    return classification_task('lenet', {}, (1, 28, 28), 10)\n"
    )
    monkeypatch.syspath_prepend(folder)
    source = sorted((folder / "run" / "captures").glob("round-*"))[0]
    captures = folder / "foreign" / "deep" / "captures"
    (captures / "weights").mkdir(parents=True)
    (captures / source.name).write_bytes(source.read_bytes())
    for weights in (source.parent / "weights").iterdir():
        (captures / "weights" / weights.name).write_bytes(weights.read_bytes())
    assert main(["diagnose", str(captures / source.name)]) == 2
    assert "allowed: --task module:function" in capsys.readouterr().err
    found = printed(capsys, "diagnose", captures / source.name, "--task", "foreign_task_for_test:task")
    assert found[0]["check"] == "names"
    assert found[0]["verdict"] == "ok"


def test_the_estimate_counts_what_the_run_then_makes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = printed(capsys, "check", folder / "tiny.toml")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert cost["captures"] == summary["federation"]["captures"]
    assert cost["parameters"] == summary["parameters"]
    size = sum(p.stat().st_size for p in (folder / "run" / "captures").rglob("*.safetensors")) / 1e9
    assert cost["gigabytes"] == pytest.approx(size, rel=0.25)
    assert 0 < cost["federation_minutes"] < 1
    assert 0 < cost["attack_minutes"] < 5
    assert main(["check", str(folder / "tiny.toml")]) == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'tiny.toml'}: right\nparameters  13,426\n")


def test_an_attack_that_cannot_take_the_batch_is_told_before_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("--set", "training.algorithm=fedavg", "--set", "training.batch_size=4")
    cost = printed(capsys, "check", folder / "tiny.toml", *changes)
    assert cost["attack_minutes"] == 0
    assert any("takes on at most 8 images" in note for note in cost["notes"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"none": 5}),
        ({"adversary.capture.rounds": "all"}, {"none": 50}),
        ({"adversary.capture.rounds": [1, 3, 3]}, {"none": 10}),
        ({"adversary.capture.clients": "all"}, {"none": 20}),
        ({"strategy.clients_per_round": 3}, {"none": 3}),
        ({"adversary.visibility": "aggregate", "adversary.capture.rounds": "all"}, {"aggregate": 10}),
        (
            {"defenses.0": {"name": "masking", "p": 0.5, "share": 0.25}, "strategy.clients_per_round": 8},
            {"none": 5, "masking(p=0.5)": 2},
        ),
    ],
)
def test_captures_are_counted_by_round_cohort_and_limit(
    changes: dict[str, Any], expected: dict[str, int]
) -> None:
    base = {"partition": {"clients": 20}, "adversary": {"capture": {"clients": 5}}}
    assert count_captures(load_scenario(base, changes)) == expected


def test_own_data_runs_from_an_npz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(60) % 3)
    changes = ["--set", f"data.path={tmp_path / 'images.npz'}", "--set", "strategy.rounds=1"]
    changes += ["--set", "adversary.attacks=[]", "--out", str(tmp_path / "run")]
    summary = printed(capsys, "run", "own_data", *changes)
    assert summary["federation"]["captures"] == 5
