"""summary.json: the figures of a run, with versions, seeds and privileges (docs/run-folder.md)."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import safe_open

import fedsim
from fedsim.scenario.schema import Scenario
from fedsim.simulation.accounting import account, as_rows
from fedsim.simulation.attacking import Leakage
from fedsim.simulation.federate import SCENARIO
from fedsim.simulation.federation import federation_at

SUMMARY = "summary.json"
PACKAGES = (
    "torch",
    "torchvision",
    "flwr",
    "flwr-datasets",
    "opacus",
    "numpy",
    "scipy",
    "scikit-image",
    "diffusers",
)


def summarise_run(
    scenario: Scenario,
    captures: Path,
    rounds: Sequence[dict[str, Any]],
    leakage: Leakage,
    seconds: dict[str, float],
    weights: Path,
) -> dict[str, Any]:
    """Return the summary of a run; `rounds` is empty where only captures were attacked."""
    return {
        "format": "fedsim.summary",
        "version": 1,
        "name": scenario.name,
        "seed": scenario.seed,
        "engine": scenario.engine.name if rounds else None,
        "versions": _versions(),
        "accuracy": _last(rounds, "accuracy"),
        "loss": _last(rounds, "loss"),
        "sample_distance": _last(rounds, "sample_distance"),
        "rounds": max((row["round"] for row in rounds), default=0),
        "parameters": _parameters(weights),
        "federation": _federation(scenario, captures, rounds),
        "privacy": _privacy(scenario, captures, rounds),
        "threat_model": {
            "name": leakage.threat.name,
            "capabilities": leakage.threat.privileges,
            "visibility": scenario.adversary.visibility,
        },
        "baseline": leakage.baseline,
        "leakage": leakage.entries,
        "refused": leakage.refused,
        "failures": leakage.failures,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _last(rounds: Sequence[dict[str, Any]], key: str) -> float | None:
    """Return the last value that was measured; None where none was."""
    return next((row[key] for row in reversed(rounds) if row.get(key) is not None), None)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Write summary.json in one go."""
    partial = folder / f"{SUMMARY}.partial"
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / SUMMARY)


def _versions() -> dict[str, str]:
    found = {"fedsim": fedsim.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _federation(scenario: Scenario, captures: Path, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    files = list(captures.rglob("*.safetensors")) if captures.is_dir() else []
    return {
        "clients": scenario.partition.clients if rounds else None,
        "failed_replies": _failed(rounds),
        "captures": sum(path.name.startswith("round-") for path in files),
        "capture_megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 3),
    }


def _privacy(
    scenario: Scenario, captures: Path, rounds: Sequence[dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """Return what the run's noise promises; None for no noise, or where only captures were attacked."""
    if not rounds or not scenario.defenses:
        return None
    federation = federation_at(captures.parent / SCENARIO)  # remembered from the run
    return as_rows(account(scenario, federation=federation, failed=_failed(rounds)))


def _failed(rounds: Sequence[dict[str, Any]]) -> int:
    return sum(len(row.get("failed") or []) for row in rounds)


def _parameters(weights: Path) -> int | None:
    if not weights.is_file():
        return None
    with safe_open(weights, framework="pt") as file:
        return sum(_size(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
