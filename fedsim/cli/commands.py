"""What each command does. Heavy imports are inside: `fedsim list` and `--help` answer at once."""

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fedsim.cli.progress import Bars
from fedsim.cli.studying import study, threshold
from fedsim.errors import InputError
from fedsim.scenario import Scenario, load_scenario

if TYPE_CHECKING:
    from fedsim.simulation.api import Run

__all__ = ["attack", "check", "diagnose", "list_plugins", "report", "run", "study", "threshold"]


def run(options: Namespace) -> int:
    """Run a scenario, and print its summary."""
    scenario = _scenario(options)
    out = _new_folder(options.out)
    with _watched(options) as bars, _in_file(options.file):
        result = pipeline().run(scenario, out=out, progress=bars)
    return _finished(result, options)


def check(options: Namespace) -> int:
    """Check a scenario, and print what it will cost."""
    scenario = _scenario(options)
    from fedsim.cli.estimate import estimate

    with _in_file(options.file):
        cost = estimate(scenario)
    print(json.dumps(cost.as_dict(), indent=2) if options.json else f"{options.file}: right\n{cost.text()}")
    return 0


def list_plugins(options: Namespace) -> int:
    """Print what a scenario can name."""
    from fedsim.cli.listing import as_json, as_text, listing

    kinds = listing(options.kind)
    print(as_json(kinds) if options.json else as_text(kinds))
    return 0


def attack(options: Namespace) -> int:
    """Attack captures again, and print the summary; 1 where every attempt failed."""
    goes_on = options.out is not None and _holds_an_unfinished_attack(Path(options.out))
    out = Path(options.out) if goes_on else _new_folder(options.out)
    threat = options.threat_model and options.threat_model.split(",")
    with _watched(options) as bars:
        result = pipeline().attack(
            Path(options.target),
            attack=options.attack,
            overrides=options.set,
            task=options.task,
            truth=Path(options.truth) if options.truth else None,
            threat_model=threat[0] if threat and len(threat) == 1 else threat,
            out=out,
            progress=bars,
        )
    rows = result.summary["leakage"]
    nothing = bool(rows) and all(row.get("failed") and row["failed"] == row["captures"] for row in rows)
    return _finished(result, options) or int(nothing)


def report(options: Namespace) -> int:
    """Write the report of a run, or the page of a study, again."""
    folder = Path(options.run)
    if (folder / "results.parquet").is_file():
        from fedsim.studies.page import write_page

        print(write_page(folder))
        return 0
    if not (folder / "scenario.toml").is_file():
        raise InputError(f"{folder}: no scenario.toml; allowed: a folder that `fedsim run` wrote")
    from fedsim.report import write_report

    print(write_report(folder))
    return 0


def diagnose(options: Namespace) -> int:
    """Print why an attack on a capture would fail."""
    from fedsim.cli.diagnosis import as_json, as_text, findings

    truth = Path(options.truth) if options.truth else None
    found = findings(Path(options.capture), task=options.task, overrides=options.set, truth=truth)
    print(as_json(found) if options.json else as_text(found))
    return 0


def pipeline() -> ModuleType:
    """Import the pipeline, and with it torch and Flower."""
    from fedsim.simulation import api

    return api


def _scenario(options: Namespace) -> Scenario:
    # A bare name replaces the whole table: the options of the engine in the file are another engine's.
    engine = [f"engine={options.engine}"] if options.engine else []
    return load_scenario(options.file, [*engine, *options.set])


def _holds_an_unfinished_attack(folder: Path) -> bool:
    """Return whether an attack may go on there; whether it is the same one the pipeline tells."""
    return (folder / "scenario.toml").is_file() and not (folder / "summary.json").exists()


def _new_folder(name: str | None) -> Path | None:
    """Return the folder of `--out`, made; raises InputError if it is in use or cannot be written."""
    if name is None:
        return None
    folder = Path(name)
    new = "a new or empty folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            what = "holds a finished run" if (folder / "summary.json").exists() else "is not empty"
            raise InputError(f"--out {name}: {what}; allowed: {new}")
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"--out {name}: cannot be written ({error.strerror}); allowed: {new}") from None
    return folder


@contextmanager
def _in_file(name: str) -> Iterator[None]:
    """Name the scenario's file in what only shows once data and model are there."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


@contextmanager
def _watched(options: Namespace) -> Iterator[Bars]:
    """Yield the progress bars; an interrupt is passed on with the folder that it left unfinished."""
    bars = Bars(quiet=options.json)
    try:
        yield bars
    except KeyboardInterrupt:
        bars.close()
        where = f"; the unfinished run is in {bars.folder}" if bars.folder else ""
        raise KeyboardInterrupt(f"interrupted{where}") from None
    finally:
        bars.close()


def _finished(result: "Run", options: Namespace) -> int:
    from fedsim.cli.summary import as_text

    print(json.dumps(result.summary, indent=2) if options.json else as_text(result.summary, result.folder))
    return 0
