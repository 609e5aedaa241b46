"""The table of a study, results.parquet: a row for each cell, attack and defence (docs/studies.md)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.studies.cells import SUMMARY, Cell, flat

RESULTS = "results.parquet"
MEASURED = ("ssim_affine", "ssim", "psnr", "mse")
"""Figures with a mean and its interval."""
SHARES = ("leaked", "success", "exact", "identified")
"""Figures that are shares, with Wilson's interval."""
_LEFT_OUT = (
    *("name", "output.", "engine."),
    *("adversary.workers", "adversary.cuda_graphs", "adversary.capture.max_gigabytes"),
)
ATTACKERS = ("naive", "adaptive")
Row = dict[str, Any]


def rows_of(cells: Sequence[Cell]) -> list[Row]:
    """Return the rows of all cells in order; one that has not finished has a row without figures."""
    return [row for cell in cells for row in _cell_rows(cell)]


def write_table(rows: Sequence[Row], folder: Path) -> Path:
    """Write the rows as Parquet, every column of one type; a column holds JSON where its values differ."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    path = folder / RESULTS
    partial = path.with_suffix(".partial")
    pq.write_table(pa.table(columns), partial)
    partial.replace(path)
    return path


def read_table(folder: Path) -> list[Row]:
    """Return the rows of a study's folder. Raises InputError for a file that is no Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Row] = pq.read_table(folder / RESULTS).to_pylist()
    except pa.ArrowInvalid:
        raise InputError(f"{folder / RESULTS}: is no Parquet; allowed: what `fedsim study` wrote") from None
    return rows


def single_step(row: Mapping[str, Any]) -> bool:
    """Return whether the cell's federation took one step in all: one round of FedSGD."""
    return row.get("training.algorithm") == "fedsgd" and row.get("rounds") == 1


def judged(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without accuracy and loss where a single step was taken.

    It has taught the model nothing yet, so that what a defence took from it would be chance.
    """
    return [row | {"accuracy": None, "loss": None} if single_step(row) else row for row in rows]


def _column(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1 or kinds & {list, dict}:
        return [_text(value) for value in values]
    return values


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _cell_rows(cell: Cell) -> Iterator[Row]:
    state = "finished" if cell.finished else "failed" if cell.failure else "waiting"
    settings = dict(flat(cell.scenario.model_dump(mode="json", exclude_none=True)))
    shared: Row = {
        "cell": cell.name,
        "status": state,
        "reason": cell.failure,
        **{key: value for key, value in settings.items() if not key.startswith(_LEFT_OUT)},
    }
    if not cell.finished:
        yield shared
        return
    summary = json.loads((cell.folder / SUMMARY).read_text(encoding="utf-8"))
    shared |= _run_figures(summary)
    groups: dict[tuple[str, str], dict[bool, Mapping[str, Any]]] = {}
    for entry in summary["leakage"]:
        groups.setdefault((entry["attack"], entry["defense"]), {})[entry["adaptive"]] = entry
    for (attack, defense), entries in groups.items():
        of_attack = {"attack": attack, **_options(attack, settings), "defense": defense}
        yield shared | of_attack | _leakage(entries)
    if not groups:
        yield shared


def _options(attack: str, settings: Mapping[str, Any]) -> Row:
    """Return the attack's own options as `attack.OPTION`: in the scenario they go by its place in a list."""
    places = [
        key.removesuffix("name")
        for key, value in settings.items()
        if key.startswith("adversary.attacks.") and key.endswith(".name") and value == attack
    ]
    own = [(key, key.removeprefix(place)) for place in places for key in settings if key.startswith(place)]
    return {f"attack.{option}": settings[key] for key, option in own if option != "name"}


def _run_figures(summary: Mapping[str, Any]) -> Row:
    privacy = summary.get("privacy")
    return {
        "accuracy": summary["accuracy"],
        "loss": summary["loss"],
        "rounds": summary["rounds"],
        "parameters": summary["parameters"],
        "seconds": summary["seconds"]["total"],
        "threat_model": summary["threat_model"]["name"],
        "privacy": json.dumps(privacy) if privacy else None,
        "blind_ssim_affine_p99": summary["baseline"]["ssim_affine_p99"] if summary["baseline"] else None,
        "refused": "; ".join(f"{row['attack']}: {row['reason']}" for row in summary["refused"]) or None,
        "versions": json.dumps(summary["versions"]),
    }


def _leakage(entries: Mapping[bool, Mapping[str, Any]]) -> Row:
    """Return the figures of both attackers; where there is nothing to adapt to they are the same one."""
    some = next(iter(entries.values()))
    row: Row = {
        "snr": some["snr"],
        "privileges": ", ".join(some["privileges"]),
        "chance": some["chance"],
        "blind_ssim_affine": some["blind_ssim_affine"],
        "equations": some["equations"],
        "unknowns": some["unknowns"],
    }
    both = {"naive": entries.get(False), "adaptive": entries.get(True)}
    if some["defense"] == "none":
        both = dict.fromkeys(both, some)
    for who, entry in both.items():
        if entry is not None:
            row |= {f"{who}_{key}": value for key, value in _attacker(entry).items()}
    return row


def _attacker(entry: Mapping[str, Any]) -> Row:
    row: Row = {"n": entry["n"], "captures": entry["captures"]}
    for name in MEASURED:
        row[name] = entry[name]["mean"]
        row |= {f"{name}_{end}": entry[name][end] for end in ("low", "high", "median", "worst")}
    for name in SHARES:
        row[name] = entry[name]["share"]
        row |= {f"{name}_{end}": entry[name][end] for end in ("low", "high")}
    row["labels"] = entry["labels"]["share"] if entry["labels"] else None
    row |= {name: entry[name] for name in ("stalled", "diverged", "failed")}
    return row | {"warnings": "; ".join([*entry["warnings"], entry["note"]]).strip("; ") or None}
