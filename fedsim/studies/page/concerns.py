"""What failed in a study, and which of its figures should be read with care."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedsim.studies.page.layout import Layout
from fedsim.studies.page.look import WHO
from fedsim.studies.page.series import NO_DEFENSE, Defences

Row = Mapping[str, Any]


def unfinished(rows: Sequence[Row], layout: Layout, defences: Defences) -> list[tuple[str, str, str]]:
    """Return the cells without figures: what they are, whether they failed or wait, and why."""
    found = {}
    for row in rows:
        if row["status"] != "finished":
            defended = defences.of(row)
            what = [layout.place(row).title, defended.series, defended.strength, f"seed {row['seed']}"]
            told = ", ".join(part for part in what if part)
            found[row["cell"]] = (told, str(row["status"]), str(row.get("reason") or ""))
    return list(found.values())


def cautions(rows: Sequence[Row], defences: Defences) -> list[tuple[str, list[str]]]:
    """Return each warning with the cells that it is about."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for attacker, who in WHO.items():
            for text in str(row.get(f"{attacker}_warnings") or "").split("; "):
                if text:
                    defended = defences.of(row)
                    name = " ".join(part for part in (defended.series, defended.strength) if part)
                    told = name if defended.series == NO_DEFENSE else f"{name}, attacker {who}"
                    found.setdefault(text, {})[told] = None
        if row.get("refused"):
            found.setdefault(f"refused: {row['refused']}", {})[defences.of(row).series] = None
    return [(text, list(cells)) for text, cells in found.items()]
