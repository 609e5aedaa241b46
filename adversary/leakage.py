"""Sum scores up: leakage by attack and defence, with n, intervals and warnings. Rules: docs/metrics.md."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from adversary.scoring import Row
from adversary.statistics import bca, wilson
from fedsim.seeds import derive

SUCCESS = 0.9
"""SSIM above which an image counts as reconstructed."""
EXACT = 1e-3
"""MSE below which it counts as recovered pixel by pixel (iDLG's fidelity threshold)."""
NO_SIGNAL = 1e-8
"""Length of a gradient below which there is nothing to read."""
NOTHING = {"mse": 1.0, "psnr": 0.0, "ssim": 0.0, "ssim_affine": 0.0}
"""The score of an attack that died: nothing leaked. It stays in every mean."""


def summarise(
    rows: Iterable[Row],
    *,
    privileges: Sequence[str],
    seed: int,
    snr: Mapping[str, float | None] | None = None,
    notes: Mapping[tuple[str, str, bool], str] | None = None,
) -> list[dict[str, Any]]:
    """Return the `leakage` entries of `summary.json`: one for each attack, defence and kind of attacker.

    `snr` is by defence, `notes` by (attack, defence, adaptive). Every row counts in every figure: a failed
    one as NOTHING. Shares carry Wilson's interval, means BCa's over clients (seeded by `seed` and the entry).
    """
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["attack"], row["defense"], row["adaptive"]), []).append(row)
    entries = []
    for (attack, defense, adaptive), members in groups.items():
        entry = {"attack": attack, "defense": defense, "adaptive": adaptive, "privileges": list(privileges)}
        entry |= _figures(members, derive(seed, "intervals", attack, defense, int(adaptive)))
        entry["snr"] = (snr or {}).get(defense)
        entry["note"] = (notes or {}).get((attack, defense, adaptive), "")
        entries.append(entry)
    everyone = [row for members in groups.values() for row in members]
    for entry, found in zip(entries, _all_warnings(entries, everyone), strict=True):
        entry["warnings"] = found
    return entries


def _figures(rows: list[Row], seed: int) -> dict[str, Any]:
    n = len(rows)
    clusters = [row["capture"] if row["client"] is None else row["client"] for row in rows]
    figures: dict[str, Any] = {"n": n, "captures": len({row["capture"] for row in rows})}
    for name, worst in (("ssim", max), ("psnr", max), ("ssim_affine", max), ("mse", min)):
        figures[name] = _measure(_values(rows, name), clusters, worst, derive(seed, name))
    for name, hit in _HITS.items():
        figures[name] = wilson(sum(hit(row) for row in rows), n)
    for name in ("equations", "unknowns"):
        figures[name] = _median([row[name] for row in rows if row[name] is not None])
    figures["chance"] = sum(row["chance"] for row in rows) / n
    # Of an attack that always died it is not known whether it looks for labels: it found none.
    died = all(row["status"] == "failed" for row in rows)
    sought = died or any(row["label_found"] is not None for row in rows)
    figures["labels"] = wilson(_label_hits(rows), n) if sought else None
    blind = [row["blind"] for row in rows if row["blind"] is not None]
    figures["blind_ssim_affine"] = sum(blind) / len(blind) if blind else None
    figures["worst_client"] = _worst_client(rows)
    for status in ("diverged", "stalled", "failed"):
        figures[status] = len({row["capture"] for row in rows if row["status"] == status})
    return figures


_HITS: dict[str, Callable[[Row], bool]] = {
    "success": lambda row: row["ssim"] is not None and row["ssim"] > SUCCESS,
    "exact": lambda row: row["mse"] is not None and row["mse"] < EXACT,
    "leaked": lambda row: bool(row["leaked"]),
    "identified": lambda row: bool(row["identified"]),
}


def _values(rows: list[Row], name: str) -> list[float]:
    return [NOTHING[name] if row[name] is None else row[name] for row in rows]


def _measure(
    values: list[float], clusters: list[Any], worst: Callable[[list[float]], float], seed: int
) -> dict[str, Any]:
    mean = bca(values, clusters, seed=seed)
    median = float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
    return {
        "mean": mean["mean"],
        "low": mean["low"],
        "high": mean["high"],
        "median": median,
        "worst": worst(values),
    }


def _median(values: list[int]) -> int | None:
    return sorted(values)[len(values) // 2] if values else None


def _all_warnings(entries: Sequence[Mapping[str, Any]], rows: Iterable[Row]) -> list[list[str]]:
    """Return for each leakage entry why its figures should not be trusted, after AutoAttack's flags.

    No gradient signal; attack not converged on most uploads; private labels granted; an adaptive attacker who
    sees less than the naive one (then the adaptive attack is not the strongest).
    """
    members: dict[tuple[str, str, bool], list[Row]] = {}
    for row in rows:
        members.setdefault((row["attack"], row["defense"], row["adaptive"]), []).append(row)
    naive = {(e["attack"], e["defense"]): e["ssim"]["mean"] for e in entries if not e["adaptive"]}
    return [
        _warnings(entry, members[entry["attack"], entry["defense"], entry["adaptive"]], naive)
        for entry in entries
    ]


def _warnings(entry: Mapping[str, Any], rows: list[Row], naive: Mapping[tuple[str, str], float]) -> list[str]:
    found = []
    silent = sum((row["signal"] or 0) < NO_SIGNAL for row in rows if row["status"] != "failed")
    if silent:
        found.append(f"no gradient signal in {silent} of {len(rows)} images' uploads")
    stuck = entry["stalled"] + entry["diverged"] + entry["failed"]
    if 2 * stuck > entry["captures"]:
        found.append(f"attack not converged on {stuck} of {entry['captures']} uploads")
    if "labels" in entry["privileges"]:
        found.append("private labels were granted")
    if (
        entry["adaptive"]
        and entry["ssim"]["mean"] < naive.get((entry["attack"], entry["defense"]), -1) - 0.05
    ):
        found.append("the adaptive attacker sees less than the naive one")
    return found


def _label_hits(rows: list[Row]) -> int:
    """Count labels found, batch by batch as multisets: a batch has no order."""
    batches: dict[str, list[Row]] = {}
    for row in rows:
        batches.setdefault(row["capture"], []).append(row)
    return sum(
        (Counter(row["label"] for row in batch) & Counter(row["label_found"] for row in batch)).total()
        for batch in batches.values()
    )


def _worst_client(rows: list[Row]) -> dict[str, Any] | None:
    """Return the client whose images have the highest mean SSIM; None where clients are not told apart."""
    scores: dict[int, list[float]] = {}
    for row, value in zip(rows, _values(rows, "ssim"), strict=True):
        if row["client"] is not None:
            scores.setdefault(row["client"], []).append(value)
    if not scores:
        return None
    means = {client: sum(values) / len(values) for client, values in scores.items()}
    worst = max(means, key=lambda client: means[client])
    return {"client": worst, "ssim": means[worst]}
