"""`auto` beside the attacks that it chooses from: on the same captures, each with the same budget."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import markdown, mean, show

Entry = Mapping[str, Any]
AUTO = "auto"


def table(entries: Sequence[Entry]) -> str:
    """Return the Markdown table: a row a case, a column an attack, and what choosing costs or gains.

    The best candidate is the one whose mean SSIM is highest in hindsight; the paired difference to it has a
    bootstrap interval over captures.
    """
    cases: dict[tuple[str, str], dict[str, Entry]] = {}
    for entry in entries:
        cases.setdefault((entry["data"]["name"], entry["name"]), {})[entry["attack"]] = entry
    names = list(dict.fromkeys(entry["attack"] for entry in entries))
    columns = ["data", "case", "n", *names, "best candidate", "auto's SSIM less its", "evaluations of auto"]
    return markdown(columns, [_row(key, mine, names) for key, mine in cases.items()])


def _row(key: tuple[str, str], mine: Mapping[str, Entry], names: Sequence[str]) -> list[str]:
    others = [name for name in mine if name != AUTO]
    best = max(others, key=lambda name: mine[name]["single"]["mean_ssim"]["mean"])
    return [
        *key,
        str(mine[AUTO]["single"]["captures"]),
        *(_quality(mine[name]["single"]) if name in mine else "-" for name in names),
        best,
        show(gain(mine[AUTO], mine[best]), 2),
        show(mine[AUTO]["single"]["median_evaluations"], 4),
    ]


def _quality(found: Mapping[str, Any]) -> str:
    return f"{show(found['mean_ssim'], 2)} / {found['ssim_above']['0.9']['share']:.0%}"


def gain(auto: Entry, other: Entry) -> Mapping[str, Any]:
    """Return the mean difference of SSIM, image by image, with its interval over captures."""
    pairs = list(zip(auto["rows"]["single"], other["rows"]["single"], strict=True))
    return mean([ours["ssim"] - its["ssim"] for ours, its in pairs], [ours["capture"] for ours, _ in pairs])
