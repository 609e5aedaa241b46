"""What trackers are told: a scenario as flat parameters, a round and the leakage as flat numbers."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fedsim.scenario.schema import Scenario

ROUND = ("accuracy", "loss", "train_loss", "sample_distance")
"""Keys of rounds.jsonl that are tracked."""

Parameter = str | int | float | bool


def parameters_of(scenario: Scenario) -> dict[str, Parameter]:
    """Return the keys of the resolved scenario, dotted, such as `defenses.0.p`; a plain list is JSON text."""
    return dict(_flat("", scenario.model_dump()))


def measured_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what was measured in a round (a line of rounds.jsonl)."""
    return {key: float(row[key]) for key in ROUND if row.get(key) is not None}


def results_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the leakage of a run (summary.json), each figure with its size and interval.

    Named `leakage/ATTACK/DEFENCE/ATTACKER/FIGURE`: `leakage/idlg/masking_p_0.5/adaptive/ssim`.
    """
    found: dict[str, float] = {}
    for entry in summary.get("leakage") or []:
        attacker = "adaptive" if entry["adaptive"] else "naive"
        place = "/".join(("leakage", _name(entry["attack"]), _name(entry["defense"]), attacker))
        found[f"{place}/n"] = float(entry["n"])
        for figure, key in (("ssim", "mean"), ("ssim_affine", "mean"), ("leaked", "share")):
            estimate = entry.get(figure) or {}
            for suffix, part in (("", key), ("_low", "low"), ("_high", "high")):
                if estimate.get(part) is not None:
                    found[f"{place}/{figure}{suffix}"] = float(estimate[part])
    return found


def _flat(key: str, value: Any) -> Iterator[tuple[str, Parameter]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(f"{key}.{name}" if key else str(name), item)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from _flat(f"{key}.{place}", item)
    elif isinstance(value, bool | int | float | str):
        yield key, value
    elif value is not None:
        yield key, json.dumps(value, default=str)


def _name(text: str) -> str:
    """Return a name that every tracker takes: letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("_.") or "_"
