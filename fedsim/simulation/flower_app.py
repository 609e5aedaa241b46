"""The Flower app: what `flwr run .` and the deployment engine run, told by run-config.

    scenario    a file, or the name of a bundled scenario; relative to the app, then to the current folder
    out         the run folder; where it is empty, `<output.folder>/<name>-<time>` in the current folder
    overrides   `key=value key=value`, as with `fedsim run --set`

The bundle (FAB) carries code and scenarios; the embedded data comes from the installed distribution.
"""

import shlex
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedsim.engines.polling import PollingGrid
from fedsim.errors import InputError
from fedsim.options import path_of
from fedsim.scenario.load import dump_scenario, find_scenario, load_scenario
from fedsim.scenario.schema import Scenario
from fedsim.simulation.apps import Source, scenario_client
from fedsim.simulation.federation import federation_at
from fedsim.simulation.server import PATIENCE
from fedsim.simulation.server import server_app as scenario_server

APP = Path(__file__).resolve().parents[2]
"""The app's folder: the checkout, the unpacked bundle, or where the package is installed."""


def _source(context: Context) -> Source:
    """Return the scenario's file and what overrides it, from a run-config."""
    return str(_find(_text(context, "scenario"))), tuple(shlex.split(_text(context, "overrides")))


server_app = ServerApp()
client_app = scenario_client(_source)


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario's federation into the run folder, and say where that is."""
    path, overrides = _source(context)
    scenario = load_scenario(Path(path), overrides)
    folder = run_folder(scenario, _text(context, "out"))
    (folder / "scenario.toml").write_text(dump_scenario(scenario), encoding="utf-8")
    print(f"fedsim: {scenario.name or 'scenario'} into {folder}", flush=True)
    patience = float(context.run_config.get("patience", PATIENCE))
    run = scenario_server(scenario, federation_at(path, overrides), folder, _say, patience=patience)
    run(PollingGrid(grid, interval=0.2), context)
    print(f"fedsim: done; attack and report: fedsim attack {shlex.quote(str(folder))}", flush=True)


def run_folder(scenario: Scenario, out: str) -> Path:
    """Create the run folder and return its absolute path; raises InputError if `out` holds a run already."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = Path(scenario.output.folder) / f"{scenario.name or 'scenario'}-{stamp}"
    folder = (path_of("out", out) if out else default).resolve()
    if (folder / "rounds.jsonl").exists():
        raise InputError(f"out = {str(folder)!r}: holds a run already; allowed: a new or empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _say(row: dict[str, object]) -> None:
    accuracy, failed = row["accuracy"], row["failed"]
    words = "" if not isinstance(accuracy, float) else f": accuracy {accuracy:.3f}"
    words += f", {len(failed)} clients failed" if isinstance(failed, list) and failed else ""
    print(f"fedsim: round {row['round']}{words}", flush=True)


def _text(context: Context, key: str) -> str:
    return str(context.run_config.get(key, ""))


def _find(name: str) -> Path:
    """Return the scenario's file: as it stands, or in the app's folder, or among the bundled ones."""
    if not name:
        raise InputError("scenario is empty; allowed: a file, or the name of a bundled scenario")
    inside = APP / name
    return (
        inside if inside.is_file() else find_scenario(Path(name) if Path(name).is_file() else Path(name).stem)
    )
