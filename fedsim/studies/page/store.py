"""The run folders of a study's cells, each read once, and the scores of their images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.report.folder import RunFolder, read_run
from fedsim.studies.cells import CELLS

Row = Mapping[str, Any]


class Store:
    """The cells in a study's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runs: dict[str, RunFolder] = {}

    def run(self, cell: str) -> RunFolder:
        """Return the run folder of a finished cell; raises InputError if it is gone or broken."""
        if cell not in self._runs:
            self._runs[cell] = read_run(self.folder / CELLS / cell)
        return self._runs[cell]

    def scores(self, row: Row, attacker: str) -> list[dict[str, Any]]:
        """Return the lines of scores.jsonl that a row's figures of one attacker stand on."""
        # Without a defence there is nothing to know: both attackers are the one that was run.
        adaptive = attacker == "adaptive" and row["defense"] != "none"
        wanted = row["attack"], row["defense"], adaptive
        return [
            line
            for line in self.run(row["cell"]).scores
            if (line["attack"], line["defense"], line["adaptive"]) == wanted
        ]

    def values(self, row: Row, attacker: str, metric: str = "ssim_affine") -> dict[Any, list[float]]:
        """Return the images' scores by client; a failed attack scores 0."""
        clients: dict[Any, list[float]] = {}
        for line in self.scores(row, attacker):
            client = line["capture"] if line["client"] is None else line["client"]
            clients.setdefault((row["cell"], client), []).append(line[metric] or 0.0)
        return clients
