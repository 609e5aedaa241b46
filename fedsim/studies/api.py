"""A study from its file to table and page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsim.simulation.progress import Progress
from fedsim.studies.cells import Cell, cells_of
from fedsim.studies.running import run_cells
from fedsim.studies.study import Study
from fedsim.studies.table import rows_of, write_table


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """What a study left."""

    folder: Path
    cells: int
    earlier: int
    """Cells that had finished before."""
    failures: Mapping[str, str]
    """Cell -> why it did not finish."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain tables."""
        return {**asdict(self), "folder": str(self.folder)}

    def text(self) -> str:
        """Return what is to be said in a few lines."""
        new = self.cells - self.earlier - len(self.failures)
        lines = [f"{self.folder}: {self.cells} cells: {new} run now, {self.earlier} before"]
        lines += [f"failed  {name}: {reason}" for name, reason in self.failures.items()]
        return "\n".join([*lines, f"table   {self.folder / 'results.parquet'}"])


def run_study(
    study: Study,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    devices: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> StudyRun:
    """Run the cells that have not finished, `jobs` at a time, then write results.parquet.

    The same call goes on where an earlier one was cut off. Raises InputError for a cell that is no scenario.
    """
    cells: list[Cell] = cells_of(study, out, overrides)
    earlier = sum(cell.finished for cell in cells)
    run_cells(cells, out, keep=study.keep, jobs=jobs, devices=devices, progress=progress)
    write_table(rows_of(cells), out)
    failures = {cell.name: cell.failure for cell in cells if cell.failure is not None}
    return StudyRun(folder=out, cells=len(cells), earlier=earlier, failures=failures)
