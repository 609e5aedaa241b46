"""A finished study's folder without running anything: summaries, scores, rounds and tiny pictures."""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from sample_run import png, sample_images

from adversary.statistics import wilson
from fedsim.studies.cells import Cell, cells_of
from fedsim.studies.study import Study
from fedsim.studies.table import rows_of, write_table

P99, BLIND, IMAGES = 0.42, 0.2, 4
PRIVILEGES = ["updates", "model", "client_updates", "batch_size", "recipe", "defense"]
VERSIONS = {"fedsim": "0.1.0", "python": "3.11", "torch": "2.11"}
GRIDS: tuple[dict[str, list[Any]], ...] = (
    {"defenses": [[]]},
    {"defenses.0.name": ["masking"], "defenses.0.p": [0.1, 0.5, 0.9]},
    {"defenses.0.name": ["clipping"], "defenses.0.norm": [1.0, 0.1, 0.01]},
    {"defenses.0.name": ["noising"], "defenses.0.std": [0.01, 0.1, 1.0]},
)
TRUTHS = sample_images(IMAGES)
UNBOUNDED = "no norm is bounded"
WARNING = "attack not converged on 3 of 4 uploads"


@dataclass(frozen=True)
class Strength:
    """How a defence is taken to act: shares of leakage that are left, and of accuracy that is lost."""

    naive: float
    adaptive: float
    cost: float


def strength_of(defenses: Sequence[dict[str, Any]]) -> Strength:
    """Return what a chain does: masking fools the naive attacker alone, only noise keeps the images."""
    if not defenses:
        return Strength(1.0, 1.0, 0.0)
    first = defenses[0]
    if first["name"] == "masking":
        return Strength(0.2 - 0.15 * first["p"], 1 - 0.3 * first["p"] ** 4, 0.06 * first["p"])
    if first["name"] == "clipping":
        return Strength(0.12, 1.0, -0.05 * math.log10(first["norm"]))
    if first["name"] == "noising":
        power = math.log10(first["std"]) + 2
        return Strength(0.6 / 4**power, 1.0 / 2.6**power, 0.13 * power)
    return Strength(0.5, 0.8, 0.05)


def sample_study(**changes: Any) -> Study:
    """Return two data sets x two partitions x (no defence + three defences x three strengths) x two seeds."""
    scenario = {
        "partition": {"clients": 10},
        "training": {"algorithm": "fedsgd", "batch_size": 1},
        "strategy": {"name": "fedavg", "rounds": 20},
        "adversary": {
            "threat_model": "C",
            "capture": {"rounds": "first", "clients": IMAGES},
            "attacks": ["idlg"],
        },
    }
    axes = {
        "data.name": ["fashion_mnist", "mnist"],
        "partition": ["iid", {"name": "dirichlet", "alpha": 0.3}],
        "seed": [1, 2],
    }
    return Study(**{"name": "sample", "scenario": scenario, "axes": axes, "grids": GRIDS, **changes})


def small_study(**changes: Any) -> Study:
    """Return three cells of one data set: no defence, and masking at two strengths."""
    axes = {"data.name": ["fashion_mnist"], "seed": [1]}
    masking = {"defenses.0.name": ["masking"], "defenses.0.p": [0.1, 0.9]}
    return sample_study(**{"axes": axes, "grids": ({"defenses": [[]]}, masking), **changes})


def write_sample_study(
    out: Path,
    study: Study | None = None,
    *,
    attacks: Sequence[str] = ("idlg",),
    pictures: bool = True,
    fail: int = 0,
    privacy: bool = False,
) -> Path:
    """Write a folder as `fedsim study` leaves it, but for its page; the last `fail` cells have failed."""
    cells = cells_of(study or sample_study(), out)
    for cell in cells[: len(cells) - fail]:
        _write_cell(cell, attacks, pictures, privacy)
    for cell in cells[len(cells) - fail :]:
        cell.fail("worker died <twice>")
    write_table(rows_of(cells), out)
    return out


def _write_cell(cell: Cell, attacks: Sequence[str], pictures: bool, privacy: bool) -> None:
    cell.folder.mkdir(parents=True)
    scenario = cell.scenario.model_dump(mode="json", exclude_none=True)
    (cell.folder / "scenario.toml").write_text(tomli_w.dumps(scenario), encoding="utf-8")
    generator = np.random.default_rng(zlib.crc32(cell.name.encode()))
    strength = strength_of(scenario["defenses"])
    skew = 0.06 * (scenario["partition"]["name"] != "iid")
    accuracy = (0.9 if scenario["data"]["name"] == "mnist" else 0.8) - skew - strength.cost
    accuracy += float(generator.normal(0, 0.006))
    rounds = [_round(number, accuracy) for number in range(0, 21, 2)]
    _lines(cell.folder / "rounds.jsonl", rounds)
    scores = [
        score
        for attack in attacks
        for adaptive in ((False, True) if scenario["defenses"] else (False,))
        for score in _scores(cell.folder, scenario, attack, adaptive, strength, pictures, generator)
    ]
    _lines(cell.folder / "scores.jsonl", scores)
    summary = _summary(scenario, accuracy, scores, privacy)
    (cell.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _round(number: int, accuracy: float) -> dict[str, Any]:
    value = 0.1 + (accuracy - 0.1) * (1 - math.exp(-number / 5))
    return {"round": number, "accuracy": value if number < 20 else accuracy, "loss": 2 - value, "captured": 0}


def defense_of(scenario: dict[str, Any]) -> str:
    """Return the chain as scores name it."""
    told = [
        f"{d['name']}({', '.join(f'{k}={v}' for k, v in d.items() if k not in ('name', 'share'))})"
        for d in scenario["defenses"]
    ]
    return " + ".join(told) or "none"


def _scores(
    folder: Path,
    scenario: dict[str, Any],
    attack: str,
    adaptive: bool,
    strength: Strength,
    pictures: bool,
    generator: np.random.Generator,
) -> list[dict[str, Any]]:
    left = (strength.adaptive if adaptive else strength.naive) * (1.0 if attack == "idlg" else 0.8)
    found = []
    for client, truth in enumerate(TRUTHS):
        value = float(np.clip(left + generator.normal(0, 0.04 * (left < 0.99)), -0.05, 1))
        stem = f"reconstructions/round-0001-client-{client:05d}"
        names = {
            "picture": f"{stem}--{attack}--{'adaptive' if adaptive else 'naive'}-0.png",
            "truth_picture": f"{stem}--truth-0.png",
        }
        if pictures:
            _draw(folder, names, truth, max(value, 0.0), generator)
        found.append(
            {
                "capture": f"round-0001-client-{client:05d}",
                "round": 1,
                "client": client,
                "index": 0,
                "attack": attack,
                "defense": defense_of(scenario),
                "adaptive": adaptive,
                "ssim": value,
                "ssim_affine": value,
                "psnr": 10 + 30 * value,
                "mse": 0.1 * (1 - value),
                "identified": value > 0.3,
                "leaked": value > P99,
                "status": "converged",
                **names,
            }
        )
    return found


def _draw(
    folder: Path, names: dict[str, str], truth: np.ndarray, share: float, generator: np.random.Generator
) -> None:
    (folder / "reconstructions").mkdir(exist_ok=True)
    grain = generator.integers(0, 256, truth.shape)
    guess = (share * truth + (1 - share) * grain).astype(np.uint8)
    (folder / names["picture"]).write_bytes(png(guess))
    (folder / names["truth_picture"]).write_bytes(png(truth))


def _summary(
    scenario: dict[str, Any], accuracy: float, scores: Sequence[dict[str, Any]], privacy: bool
) -> dict[str, Any]:
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for score in scores:
        groups.setdefault((score["attack"], score["adaptive"]), []).append(score)
    noisy = any(defense["name"] == "noising" for defense in scenario["defenses"])
    promise = {"against": "server", "protects": "client", "delta": 1e-5, "epsilon": None, "reason": UNBOUNDED}
    promises = [promise, {**promise, "epsilon": 8.25, "against": "models", "reason": ""}]
    return {
        "seed": scenario["seed"], "versions": VERSIONS, "accuracy": accuracy, "loss": 2 - accuracy,
        "rounds": 20, "parameters": 13426, "seconds": {"total": 3.0},
        "threat_model": {"name": "C", "capabilities": PRIVILEGES, "visibility": "client"},
        "baseline": {"ssim_affine_p99": P99, "ssim_affine_median": BLIND, "n": 300},
        "privacy": promises if privacy and noisy else None,
        "leakage": [_entry(attack, adaptive, of) for (attack, adaptive), of in groups.items()],
        "refused": [],
    }  # fmt: skip


def _entry(attack: str, adaptive: bool, scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    n = len(scores)
    shares = {
        "leaked": [score["leaked"] for score in scores],
        "success": [score["ssim"] > 0.9 for score in scores],
        "exact": [score["mse"] < 0.001 for score in scores],
        "identified": [score["identified"] for score in scores],
    }
    fools = scores[0]["defense"].startswith("masking") and not adaptive
    return {
        "attack": attack, "defense": scores[0]["defense"], "adaptive": adaptive, "privileges": PRIVILEGES,
        "n": n, "captures": n, **{name: wilson(sum(found), n) for name, found in shares.items()},
        **{name: _mean([score[name] for score in scores]) for name in ("ssim", "ssim_affine", "psnr", "mse")},
        "equations": 8000, "unknowns": 784, "chance": 0.01, "labels": {"share": 1.0},
        "blind_ssim_affine": BLIND, "diverged": 0, "stalled": 0, "failed": 0, "snr": None, "note": "",
        "warnings": [WARNING] if fools else [],
    }  # fmt: skip


def _mean(values: Sequence[float]) -> dict[str, float]:
    mean, half = float(np.mean(values)), 2 * float(np.std(values)) / math.sqrt(len(values))
    found = {"mean": mean, "low": mean - half, "high": mean + half}
    return {**found, "median": float(np.median(values)), "worst": max(values)}


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
