"""The commands: what they print, how they exit, how quickly they answer."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fedsim
from fedsim.cli import main
from fedsim.cli.progress import Bars
from fedsim.cli.summary import as_text, columns
from fedsim.scenario.plugins import REGISTRIES
from fedsim.simulation.progress import Progress, Silent

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["list"], ["attack"], ["report"], ["diagnose"]])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: fedsim")
    assert command == ["report"] or "examples:" in text
    assert max(map(len, text.splitlines())) <= 110


def test_attempts_that_failed_and_what_could_not_be_scored_are_said(tmp_path: Path) -> None:
    (tmp_path / "reconstructions").mkdir()
    (tmp_path / "reconstructions" / "a--idlg--naive.safetensors").touch()
    failed = {"capture": "b", "attack": "idlg", "reason": "out of memory"}
    text = as_text({"seed": 1, "leakage": [], "failures": [failed]}, tmp_path)
    assert "failed: 1 reconstruction; the first, idlg on b: out of memory" in text
    assert "not scored, without --truth: 1 reconstruction in" in text


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fedsim {fedsim.__version__}\n"


@pytest.mark.parametrize("kind", [*REGISTRIES, "scenarios", "studies"])
def test_list_names_everything_with_a_line(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind, "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)[kind]
    assert entries
    assert all(entry["name"] and entry["summary"] for entry in entries)
    assert main(["list", kind]) == 0
    text = capsys.readouterr().out
    assert all(entry["name"] in text for entry in entries)


def test_attacks_and_defenses_are_listed_with_their_papers(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "--json"])
    kinds = json.loads(capsys.readouterr().out)
    assert all(entry["paper"] for entry in kinds["attacks"])
    assert all(entry["paper"] for entry in kinds["defenses"] if entry["name"] != "none")


def test_listing_and_help_load_neither_torch_nor_flower() -> None:
    program = (
        "import sys; from fedsim.cli import main; main(['list']); main(['run', '--help']); "
        "heavy = {'torch', 'flwr', 'ray', 'pandas', 'scipy'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SUMMARY: dict[str, Any] = {
    "name": "quickstart",
    "seed": 1,
    "engine": "inline",
    "accuracy": 0.713,
    "rounds": 150,
    "parameters": 13426,
    "federation": {"clients": 100, "failed_replies": 1, "captures": 20, "capture_megabytes": 2.14},
    "threat_model": {"name": "C", "capabilities": ["updates", "model"], "visibility": "client"},
    "baseline": {"ssim_affine_p99": 0.41, "n": 500},
    "leakage": [
        {
            "attack": "idlg",
            "defense": "masking(p=0.5)",
            "adaptive": True,
            "n": 10,
            "captures": 10,
            "ssim": {"mean": 0.912, "low": 0.85, "high": 0.95},
            "leaked": {"share": 0.9, "low": 0.596, "high": 0.982},
            "exact": {"share": 0.5, "low": 0.237, "high": 0.763},
            "equations": 8134,
            "unknowns": 784,
            "warnings": ["private labels were granted", "attack not converged on 3 of 10 uploads"],
            "stalled": 1,
            "diverged": 2,
            "failed": 0,
            "note": "",
        },
        {
            "attack": "idlg",
            "defense": "none",
            "adaptive": False,
            "n": 0,
            "ssim": None,
            "leaked": None,
            "note": "x y",
        },
    ],
    "refused": [{"attack": "dlg", "reason": "needs labels"}],
    "seconds": {"total": 61.2},
}


def test_the_summary_prints_no_leak_score_without_size_interval_and_privileges(tmp_path: Path) -> None:
    text = as_text(SUMMARY, tmp_path)
    row = next(line for line in text.splitlines() if "adaptive" in line)
    for word in ("  10  ", "0.91 [0.85, 0.95]", "90 % [60, 98]", "50 % [24, 76]", "8,134 : 784"):
        assert word in row
    assert row.endswith("1 stalled, 2 diverged")
    assert "warning: private labels were granted (idlg on masking(p=0.5), adaptive)" in text
    assert "not converged" not in text  # the status has it
    assert "privileges: threat model C (updates, model)" in text
    assert "71.3 %" in text
    assert "1 reply" in text
    assert "refused: dlg: needs labels" in text
    assert "idlg on none: x y" in text
    assert text.endswith(f"run folder: {tmp_path}")
    (tmp_path / "report.html").write_text("")
    assert as_text(SUMMARY, tmp_path).endswith(f"report: {tmp_path / 'report.html'}")


def test_the_summary_of_an_attack_alone_needs_no_federation(tmp_path: Path) -> None:
    text = as_text({"name": "", "seed": 0, "leakage": [], "federation": None}, tmp_path)
    assert text.startswith("run: seed 0")


def test_columns_line_up() -> None:
    assert columns([("a", "bb"), ("ccc", "d")]) == "a    bb\n-------\nccc  d"


class FakeApi:
    """Stands in for the pipeline: the command line is what is tested here."""

    def __init__(self, outcome: BaseException | None = None) -> None:
        self.outcome = outcome
        self.calls: list[dict[str, Any]] = []

    def run(self, scenario: Any, *, out: Path | None, progress: Progress) -> Any:
        self.calls.append({"scenario": scenario, "out": out})
        folder = out or Path("runs/x")
        progress.opened(folder)
        progress.start("federation", 2)
        if self.outcome is not None:
            raise self.outcome
        progress.advance("federation", note="accuracy 0.5")
        progress.finish("federation")
        return SimpleNamespace(folder=folder, summary=SUMMARY)

    def attack(self, target: Path, **options: Any) -> Any:
        self.calls.append({"target": target, **options})
        return SimpleNamespace(folder=target, summary=SUMMARY)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApi:
    fake = FakeApi()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedsim.cli.commands.pipeline", lambda: fake)
    return fake


def test_run_hands_over_the_scenario_with_its_overrides(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "quickstart", "--engine", "ray", "--set", "seed=9", "--out", "there"]) == 0
    scenario = api.calls[0]["scenario"]
    assert (scenario.seed, scenario.engine.name, scenario.name) == (9, "ray", "quickstart")
    assert api.calls[0]["out"] == Path("there")
    assert "71.3 %" in capsys.readouterr().out


def test_json_is_the_summary_and_nothing_else(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "quickstart", "--json"]) == 0
    printed, complained = capsys.readouterr()
    assert json.loads(printed) == SUMMARY
    assert complained == ""


def test_an_interrupt_says_where_the_unfinished_run_is(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.outcome = KeyboardInterrupt()
    assert main(["run", "quickstart", "--out", "there"]) == 130
    assert capsys.readouterr().err == "fedsim: interrupted; the unfinished run is in there\n"


def test_a_defect_keeps_its_traceback(api: FakeApi) -> None:
    api.outcome = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        main(["run", "quickstart"])


def test_a_federation_that_stops_says_why_in_one_line(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedsim.engines.app import EngineError

    api.outcome = EngineError("a SuperNode died\nwith a long story")
    assert main(["run", "quickstart"]) == 1
    assert capsys.readouterr().err == "fedsim: a SuperNode died with a long story\n"


def test_attack_hands_over_its_options(api: FakeApi) -> None:
    assert main(["attack", "old", "--attack", "dlg", "--set", "seed=2", "--threat-model", "C,labels"]) == 0
    call = api.calls[0]
    assert call["target"] == Path("old")
    assert (call["attack"], call["overrides"], call["threat_model"]) == ("dlg", ["seed=2"], ["C", "labels"])
    assert (call["task"], call["truth"], call["out"]) == (None, None, None)


def test_progress_is_quiet_where_nobody_watches(capfd: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.start("federation", 3)
    bars.advance("federation", note="accuracy 0.5")
    bars.finish("federation")
    bars.advance("federation")
    assert capfd.readouterr() == ("", "")


def test_a_bar_appears_after_two_seconds_at_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("fedsim.cli.progress._DELAY", 0.0)
    bars = Bars()
    bars.start("federation", 3)
    bars.advance("federation", 2, note="accuracy 0.5")
    bars.close()
    shown = capsys.readouterr().err
    assert "federation" in shown
    assert "2/3" in shown


@pytest.mark.parametrize("watcher", [Silent(), Bars(quiet=True)], ids=["silent", "bars"])
def test_watchers_take_every_call(watcher: Progress) -> None:
    watcher.opened(Path("x"))
    watcher.start("attacks", 1)
    watcher.advance("attacks", 1, note="n")
    watcher.finish("attacks")
    watcher.finish("attacks")
