"""Studies run for real: side by side, resumed after a kill, past a cell that fails; their table."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import fedsim
from fedsim.cli.entry import main
from fedsim.errors import InputError
from fedsim.studies.api import StudyRun
from fedsim.studies.running import run_cells
from fedsim.studies.study import Study
from fedsim.studies.worker import visible

SCENARIO: dict[str, Any] = {
    "data": {"name": "fashion_mnist", "train_limit": 60, "test_limit": 30},
    "partition": {"clients": 3},
    "training": {"learning_rate": 0.5},
    "strategy": {"rounds": 1},
    "adversary": {
        "capture": {"clients": 2},
        "attacks": [{"name": "idlg", "max_evaluations": 20}],
    },
}
TOML = """
keep = "figures"
[scenario]
data = { name = "fashion_mnist", train_limit = 60, test_limit = 30 }
partition = { clients = 3 }
strategy = { rounds = 1 }
adversary = { attacks = [] }
[axes]
seed = [1, 2, 3, 4, 5, 6]
"""
MASKED = [{"name": "masking", "p": 0.5}]


def cell_folders(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "cells").glob("*") if "." not in path.name)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> StudyRun:
    axes = {"defenses": [[], MASKED, [{"name": "masking", "p": 0.9}]]}
    given = Study(name="three", scenario=SCENARIO, axes=axes)
    return fedsim.study(given, out=tmp_path_factory.mktemp("study"), jobs=2)


def test_the_table_has_a_row_for_each_cell_attack_and_defence(done: StudyRun) -> None:
    table = pq.read_table(done.folder / "results.parquet").to_pandas()
    assert list(table["defense"]) == ["none", "masking(p=0.5)", "masking(p=0.9)"]
    assert (table["status"] == "finished").all()
    assert table["accuracy"].between(0, 1).all()
    assert list(table["defenses.0.p"])[1:] == [0.5, 0.9]
    assert (table["strategy.rounds"] == 1).all()
    for cell, row in zip(table["cell"], table.to_dict("records"), strict=True):
        summary = json.loads((done.folder / "cells" / cell / "summary.json").read_text())
        entries = {entry["adaptive"]: entry for entry in summary["leakage"]}
        naive, adaptive = entries[False], entries.get(True, entries[False])
        assert row["naive_ssim_affine"] == naive["ssim_affine"]["mean"]
        assert row["adaptive_leaked_high"] == adaptive["leaked"]["high"]
        assert row["adaptive_n"] == 2
        assert row["privileges"].startswith("updates")


def test_pictures_stay_and_captures_go(done: StudyRun) -> None:
    for folder in cell_folders(done.folder):
        assert (folder / "report.html").is_file()
        assert list(folder.glob("reconstructions/**/*.png"))
        assert not (folder / "captures").exists()


def test_thresholds_of_a_study(done: StudyRun, capsys: pytest.CaptureFixture[str]) -> None:
    found = fedsim.thresholds(done.folder, bound=2.0)
    assert [(one.attacker, one.strength, one.images) for one in found] == [
        ("naive", 0.5, [2, 2]),
        ("adaptive", 0.5, [2, 2]),
    ]
    assert all(one.strength is None for one in fedsim.thresholds(done.folder, bound=-2.0))
    assert main(["threshold", str(done.folder), "--bound", "2"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert main(["threshold", str(done.folder), "--bound", "2", "--markdown"]) == 0
    table = capsys.readouterr().out.splitlines()
    few = "2 images cannot show that 90% of all stay below: that takes 29: all of them"
    assert text[3] == ""
    assert f"caution: {few}" in text
    assert f"- {few}" in table
    assert "p = 0.5" in text[1]
    assert "[0.5, 0.5]" in table[2]
    with pytest.raises(InputError, match=r"no results.parquet; allowed: a folder"):
        fedsim.thresholds(done.folder / "cells")


def test_nothing_is_run_twice(done: StudyRun) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in cell_folders(done.folder)}
    axes = {"defenses": [[], MASKED]}
    again = fedsim.study(Study(name="two", scenario=SCENARIO, axes=axes), out=done.folder)
    assert (again.cells, again.earlier, dict(again.failures)) == (2, 2, {})
    assert {path: path.stat().st_mtime_ns for path in cell_folders(done.folder)} == stamps


def test_a_killed_study_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "six.toml").write_text(TOML, encoding="utf-8")
    command = [sys.executable, "-m", "fedsim", "study", "six.toml", "--out", "out", "--jobs", "1"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while len(cell_folders(tmp_path / "out")) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in cell_folders(tmp_path / "out")}
    assert 2 <= len(before) < 6
    told = subprocess.run(
        [*command, "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    summary = json.loads(told.stdout)
    assert summary["cells"] == 6
    assert summary["earlier"] >= len(before)
    after = {path: path.stat().st_mtime_ns for path in cell_folders(tmp_path / "out")}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert not list((tmp_path / "out" / "cells").glob("*.partial"))
    assert pq.read_table(tmp_path / "out" / "results.parquet").num_rows == 6


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "mine.npz"
    data.write_bytes(b"no archive")
    (tmp_path / "study.toml").write_text(
        TOML.replace("seed = [1, 2, 3, 4, 5, 6]", '"data" = ["fashion_mnist", "BROKEN"]').replace(
            '"BROKEN"', f'{{ name = "npz", path = "{data}" }}'
        ),
        encoding="utf-8",
    )
    assert main(["study", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "2 cells: 1 run now, 0 before" in printed
    assert "mine.npz" in next(line for line in printed.splitlines() if line.startswith("failed"))
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert "mine.npz" in rows[1]["reason"]


def test_a_dry_run_counts_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "six.toml").write_text(TOML, encoding="utf-8")
    out = tmp_path / "out"
    assert main(["study", str(tmp_path / "six.toml"), "--out", str(out), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["cells"], told["finished"]) == (6, 0)
    assert told["federation_minutes"] > 0
    assert not out.exists()


def test_two_studies_do_not_share_a_folder(done: StudyRun) -> None:
    from filelock import FileLock

    with FileLock(done.folder / ".lock"), pytest.raises(InputError, match="another study is running here"):
        fedsim.study(Study(name="s", scenario=SCENARIO, axes={"seed": [9]}), out=done.folder)


def test_every_column_of_the_table_is_documented(done: StudyRun) -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    section = text.partition("## The table")[2].partition("## Thresholds")[0]
    for name in pq.read_table(done.folder / "results.parquet").column_names:
        short = re.sub(r"_(low|high|median|worst)$", "", re.sub(r"^(naive|adaptive)_", "*_", name))
        assert "." in name or f"`{short}`" in section, name


def test_a_worker_sees_its_device_under_the_users_own_mask() -> None:
    assert visible("cpu", "2,3") == ""
    assert visible("cuda:1", "2,3") == "3"
    assert visible("cuda:1", None) == "1"


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="devices = 'cuda:99': allowed: cpu"):
        run_cells([], tmp_path, devices=["cpu", "cuda:99"])
