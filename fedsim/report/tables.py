"""The tables of the page: key figures, what leaked, what failed."""

from collections.abc import Iterable
from typing import Any

from fedsim.report.folder import Row, RunFolder
from fedsim.report.words import (
    ABSENT,
    OBSERVERS,
    attacker,
    count,
    interval,
    listed,
    number,
    ordered,
    percent,
    percent_interval,
    plural,
    strongest,
    title,
)

Cell = dict[str, str]


def leakage_rows(run: RunFolder) -> list[dict[str, Any]]:
    """Return the leakage table, naive and adaptive of one attack and defence next to each other."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in ordered(run.leakage):
        pairs.setdefault((row["attack"], row["defense"]), []).append(row)
    table = []
    for (attack, defense), members in pairs.items():
        cells = [_leakage_cells(row) for row in members]
        if defense != "none" and not any(row["adaptive"] for row in members):
            missing = cells[0]["note"] or "not tried"
            cells[0]["note"] = ""
            empty = {"privileges": "", "note": "", "warnings": []}
            cells.append({"attacker": attacker(True, defense), "none": missing, **empty})
        name = "no defence" if defense == "none" else defense
        table.append({"attack": title(attack), "defense": name, "rows": cells})
    return table


def _leakage_cells(row: Row) -> dict[str, Any]:
    ssim, affine, psnr = (row.get(key) or {} for key in ("ssim", "ssim_affine", "psnr"))
    leaked, identified = row.get("leaked") or {}, row.get("identified") or {}
    n = row.get("n") or 0
    return {
        "attacker": attacker(bool(row["adaptive"]), row["defense"]),
        "none": "",
        "n": f"{n:,}",
        "leaked": f"{count(row)} of {n}" if leaked.get("share") is not None else ABSENT,
        "leaked_interval": percent_interval(leaked),
        "any": count(row) > 0,
        "ssim": number(ssim.get("mean")),
        "ssim_interval": interval(ssim),
        "exact": percent((row.get("exact") or {}).get("share")),
        "exact_interval": percent_interval(row.get("exact")),
        "worst": number(ssim.get("worst")),
        "affine": number(affine.get("mean")),
        "affine_interval": interval(affine),
        "blind": number(row.get("blind_ssim_affine")),
        "psnr": number(psnr.get("mean"), 1),
        "psnr_interval": interval(psnr, 1),
        "identified": percent(identified.get("share")),
        "chance": percent(row.get("chance"), 1),
        "labels": percent((row.get("labels") or {}).get("share")),
        "snr": number(row.get("snr")),
        "equations": ABSENT if row.get("equations") is None else f"{row['equations']:,}",
        "unknowns": "" if row.get("unknowns") is None else f"{row['unknowns']:,}",
        "attempts": attempts(row),
        "warnings": row.get("warnings") or [],
        "privileges": listed(name.replace("_", " ") for name in row.get("privileges") or []) or ABSENT,
        "note": row.get("note") or "",
    }


def attempts(row: Row) -> str:
    """Return how many attempts did not converge, in words."""
    counted = [f"{row[key]} {key}" for key in ("diverged", "stalled", "failed") if row.get(key)]
    return ", ".join(counted) or "all converged"


def client_failures(run: RunFolder) -> list[tuple[int, str, str]]:
    """Return the replies that failed: round, client, reason."""
    return [
        (row["round"], str(failure.get("client", "?")), str(failure.get("reason", "")))
        for row in run.rounds
        for failure in row.get("failed") or []
    ]


def attack_failures(run: RunFolder) -> list[tuple[str, str, str]]:
    """Return the attacks that were refused or died: which, on what, why."""
    refused = [
        (title(row["attack"]), "refused", str(row["reason"])) for row in run.summary.get("refused") or []
    ]
    died = [
        (title(row["attack"]), str(row["capture"]), str(row.get("reason", "")))
        for row in run.scores
        if row.get("status") == "failed"
    ]
    return refused + died


def unfinished(run: RunFolder) -> list[tuple[str, int]]:
    """Return how many reconstructions ended in each state but `converged`."""
    return [(status, sum(_of_status(run.scores, status))) for status in ("stalled", "diverged", "failed")]


def _of_status(scores: Iterable[Row], status: str) -> Iterable[bool]:
    return (score.get("status") == status for score in scores)


def figures(run: RunFolder) -> list[Cell]:
    """Return the key figures: a value, what it is, and what stands behind it."""
    cells: list[Cell] = []
    last = next((row for row in reversed(run.rounds) if row.get("accuracy") is not None), {})
    accuracy = run.summary.get("accuracy", last.get("accuracy"))
    if accuracy is not None:
        rounds = int(run.summary.get("rounds") or last.get("round") or 0)
        cells.append(
            {
                "value": percent(accuracy, 1),
                "name": "test accuracy",
                "detail": f"after {plural(rounds, 'round')}",
                "tone": "",
            }
        )
    cells += _generative_figures(run) if accuracy is None else []
    rows = run.leakage
    defended = [row for row in rows if row["defense"] != "none"]
    candidates = [
        strongest([row for row in rows if row["defense"] == "none"]),
        strongest([row for row in defended if not row["adaptive"]]),
        strongest([row for row in defended if row["adaptive"]]),
    ]
    return cells + [_leak_figure(row) for row in candidates if row]


def _generative_figures(run: RunFolder) -> list[Cell]:
    """Return what stands for the accuracy of a model that draws images: its last loss and distance."""
    named = {"loss": ("held-out loss", 3), "sample_distance": ("distance of samples to held-out images", 2)}
    cells = []
    for key, (name, digits) in named.items():
        last = next((row for row in reversed(run.rounds) if row.get(key) is not None), None)
        if last is not None:
            detail = f"after {plural(int(last['round']), 'round')}"
            cells.append({"value": number(last[key], digits), "name": name, "detail": detail, "tone": ""})
    return cells


def _leak_figure(row: Row) -> Cell:
    plain = row["defense"] == "none"
    who = title(row["attack"]) + ("" if plain else f" that {attacker(bool(row['adaptive']), row['defense'])}")
    low_high = percent_interval(row.get("leaked")) or "unknown"
    return {
        "value": f"{count(row)} of {row['n']}",
        "name": "images leaked without a defence" if plain else f"leaked under {row['defense']}",
        "detail": f"{who}; 95% interval {low_high}",
        "tone": "plain" if plain else "adaptive" if row["adaptive"] else "naive",
    }


def promises(run: RunFolder) -> list[Cell]:
    """Return what the noise promises of differential privacy, of what and against whom, or why nothing."""
    return [
        {
            "epsilon": ABSENT if promise["epsilon"] is None else f"{promise['epsilon']:.3g}",
            "delta": f"{promise['delta']:g}",
            "protects": promise["protects"],
            "against": OBSERVERS.get(promise["against"], promise["against"]),
            "detail": promise.get("reason") or f"neighbours: {promise['adjacency']}",
        }
        for promise in run.summary.get("privacy") or []
    ]


def cohorts(run: RunFolder) -> list[tuple[str, list[int]]]:
    """Return the defence chains and the clients that use each; empty where all clients do the same."""
    members: dict[str, list[int]] = {}
    for client, chain in enumerate(run.clients.get("cohorts") or []):
        members.setdefault(str(chain), []).append(client)
    return list(members.items()) if len(members) > 1 else []
