"""The Python API: run a scenario, attack captures. The command line is a thin layer over it."""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from adversary.captures import capture_paths
from adversary.jobs import load_task
from fedsim.errors import InputError
from fedsim.scenario import Scenario, dump_scenario, load_scenario
from fedsim.scenario.overrides import parse_override
from fedsim.simulation.attacking import SCORES, Attacking
from fedsim.simulation.federate import SCENARIO, federate
from fedsim.simulation.federation import cohorts_of, dataset_of, federation_at
from fedsim.simulation.journal import ROUNDS
from fedsim.simulation.progress import Progress, Silent
from fedsim.simulation.public import require_strangers
from fedsim.simulation.server import CAPTURES, WEIGHTS
from fedsim.simulation.summary import SUMMARY, summarise_run, write_summary
from fedsim.simulation.targets import ForeignTarget, RunTarget, Target
from fedsim.simulation.trackers import Trackers, require_packages

Overrides = Sequence[str] | Mapping[str, Any]
CLIENTS = "clients.json"
SHOWN_CLIENTS = 10_000


@dataclass(frozen=True)
class Run:
    """A run folder, read as it is asked for."""

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Return summary.json."""
        table: dict[str, Any] = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
        return table

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        """Return scores.jsonl, one dict per reconstructed image."""
        return _lines(self.folder / SCORES)

    @cached_property
    def rounds(self) -> list[dict[str, Any]]:
        """Return rounds.jsonl, one dict per round."""
        return _lines(self.folder / ROUNDS)

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy after the last round, on the central test set."""
        accuracy: float | None = self.summary["accuracy"]
        return accuracy

    @property
    def leakage(self) -> list[dict[str, Any]]:
        """Return the summary's leakage entries, one per attack, defence and kind of attacker."""
        entries: list[dict[str, Any]] = self.summary["leakage"]
        return entries


def run(
    scenario: Scenario | str | Path | Mapping[str, Any],
    *,
    overrides: Overrides = (),
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Run a scenario from the federation to the report, and return its folder.

    `out` is a new or empty folder; by default one under the scenario's `output.folder`. Attack workers start
    while the federation is still running, which does not wait for them. What was finished survives a crash.
    Raises InputError for a scenario that is not right, FederationStopped for a round without a valid reply.
    """
    ready = scenario if isinstance(scenario, Scenario) else load_scenario(scenario, overrides)
    progress = progress or Silent()
    begun = time.perf_counter()
    require_packages(ready.output.trackers)
    folder = _folder(out, Path(ready.output.folder), ready.name or "run")
    _prepare(ready, folder)
    progress.opened(folder)
    target = RunTarget(ready, folder)
    seconds: dict[str, float] = {}
    with Trackers(ready, folder) as trackers:
        with Attacking(target, folder) as attacking:
            _federate(ready, folder, attacking, trackers, progress)
            seconds["federation"] = time.perf_counter() - begun
            attacking.feed()
            leakage = attacking.finish(progress)
        seconds |= leakage.seconds
        rounds = [row for row in _lines(folder / ROUNDS) if "stopped" not in row]
        summary = summarise_run(ready, target.captures, rounds, leakage, seconds, folder / WEIGHTS)
        trackers.finish(summary)
    return _close(folder, summary, ready.output.report, begun, progress)


def attack(
    target: Path | str,
    *,
    attack: str | None = None,
    overrides: Overrides = (),
    task: str | None = None,
    truth: Path | None = None,
    threat_model: str | Sequence[str] | None = None,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Attack captures again, without the federation: those of a run, or a folder of a foreign app's.

    `overrides` are keys of the scenario (`adversary.attacks.0.restarts=3`); for a foreign app also what the
    attacker knows of it (`training.learning_rate`, `training.batch_size`, `defenses`). Results go to `out`,
    by default a new folder under `attacks/` beside the captures. The folder of the same attack, cut off, goes
    on: what it has reconstructed is not attacked again. Raises InputError.
    """
    progress = progress or Silent()
    begun = time.perf_counter()
    chosen = _attack_overrides(attack, threat_model)
    victim = _victim(Path(target), [chosen, overrides], task, truth)
    name = attack or victim.scenario.adversary.attacks[0].name
    resolved = dump_scenario(victim.scenario)
    if out is not None and _cut_off(Path(out), resolved):
        folder = Path(out)
        (folder / SCORES).unlink(missing_ok=True)  # what is there already is scored again
    else:
        folder = _folder(out, victim.captures.parent / "attacks", name.replace(":", "."))
    progress.opened(folder)
    (folder / SCENARIO).write_text(resolved, encoding="utf-8")
    known = victim.captures.parent / CLIENTS
    if known.is_file():
        shutil.copy(known, folder / CLIENTS)
    with Attacking(victim, folder) as attacking:
        attacking.feed()
        leakage = attacking.finish(progress)
    weights = next((victim.captures / "weights").glob("*.safetensors"), Path())
    summary = summarise_run(victim.scenario, victim.captures, [], leakage, leakage.seconds, weights)
    return _close(folder, summary, victim.scenario.output.report, begun, progress)


def _federate(
    scenario: Scenario, folder: Path, attacking: Attacking, trackers: Trackers, progress: Progress
) -> None:
    progress.start("federation", scenario.strategy.rounds)

    def on_round(row: dict[str, Any]) -> None:
        if row["round"] > 0:
            known = [key for key in ("accuracy", "loss") if row.get(key) is not None]
            progress.advance("federation", note=f"{known[0]} {row[known[0]]:.3f}" if known else "")
        trackers.round(row)
        attacking.feed(before_round=row["round"])

    federate(scenario, folder, on_round=on_round)
    progress.finish("federation")


def _close(folder: Path, summary: dict[str, Any], report: bool, begun: float, progress: Progress) -> Run:
    """Write summary and report; the summary is there even if the report fails."""
    summary["seconds"]["total"] = round(time.perf_counter() - begun, 3)
    write_summary(folder, summary)
    if report:
        from fedsim.report import write_report

        started = time.perf_counter()
        progress.start("report", 1)
        write_report(folder)
        progress.finish("report")
        summary["seconds"]["report"] = round(time.perf_counter() - started, 3)
        summary["seconds"]["total"] = round(time.perf_counter() - begun, 3)
        write_summary(folder, summary)
    return Run(folder)


def _victim(target: Path, overrides: Sequence[Overrides], task: str | None, truth: Path | None) -> Target:
    run_folder = next((f for f in (target, target.parent) if (f / SCENARIO).is_file()), None)
    folder = target / CAPTURES if (target / CAPTURES).is_dir() else target
    if not folder.is_dir() or next(capture_paths(folder), None) is None:
        what = "a file" if target.is_file() else "no captures here" if target.exists() else "no such folder"
        raise InputError(f"{target}: {what}; allowed: a run folder, or a folder of captures")
    if run_folder is not None and task is None:
        scenario = _overridden(run_folder / SCENARIO, overrides)
        require_strangers(scenario, dataset_of(scenario).train)
        return RunTarget(scenario, run_folder.resolve())
    if task is None:
        raise InputError(
            f"{target}: no scenario.toml here; allowed: --task module:function for a foreign app's captures"
        )
    load_task(task)
    foreign = ForeignTarget(_overridden({}, overrides), folder.resolve(), task, truth)
    foreign.public()  # reads the truth
    return foreign


def _overridden(source: Path | Mapping[str, Any], overrides: Sequence[Overrides]) -> Scenario:
    """Return the scenario with all overrides, the later ones on top."""
    merged: dict[str, Any] = {}
    for some in overrides:
        for key, value in some.items() if isinstance(some, Mapping) else map(parse_override, some):
            merged.pop(key, None)
            merged[key] = value
    return load_scenario(source, merged)


def _attack_overrides(attack: str | None, threat_model: str | Sequence[str] | None) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    if attack is not None:
        chosen["adversary.attacks"] = [{"name": attack}]
    if threat_model is not None:
        given = threat_model if isinstance(threat_model, str) else list(threat_model)
        chosen["adversary.threat_model"] = given
    return chosen


def _cut_off(folder: Path, resolved: str) -> bool:
    """Return whether the folder is that of an attack by the same scenario, which has not finished."""
    scenario = folder / SCENARIO
    if (folder / SUMMARY).exists() or not scenario.is_file():
        return False
    return scenario.read_text(encoding="utf-8") == resolved and not (folder / "captures").exists()


def _folder(out: Path | str | None, parent: Path, name: str) -> Path:
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InputError(f"out = {str(out)!r}: not empty; allowed: a new or empty folder")
        return folder
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = parent / f"{name}-{stamp}{'' if number == 1 else f'-{number}'}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(
                f"output.folder = {str(parent)!r}: cannot be written ({error.strerror})"
            ) from None
        return folder
    raise InputError(f"output.folder = {str(parent)!r}: no free name for a run folder")


def _prepare(scenario: Scenario, folder: Path) -> None:
    """Load the data and write what is known before the first round; if that cannot be, leave no folder."""
    try:
        (folder / SCENARIO).write_text(dump_scenario(scenario), encoding="utf-8")
        _write_clients(scenario, folder)
    except BaseException:
        for name in (SCENARIO, CLIENTS):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise


def _write_clients(scenario: Scenario, folder: Path) -> None:
    """Write clients.json: who holds how many of which label, and who defends how."""
    federation = federation_at(folder / SCENARIO)
    require_strangers(scenario, federation.dataset.train)
    cohorts = cohorts_of(scenario)
    clients = range(min(scenario.partition.clients, SHOWN_CLIENTS))
    partition: Any = federation.partition
    table = {
        "classes": list(federation.dataset.classes),
        "counts": [partition.label_counts(client).tolist() for client in clients],
        "note": partition.note,
        "cohorts": [cohorts.cohort_of(client) for client in clients],
    }
    (folder / CLIENTS).write_text(json.dumps(table), encoding="utf-8")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
