"""The Python API of studies: from a file to table and page, and thresholds read off them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import InputError
from fedsim.simulation.progress import Progress
from fedsim.studies.cells import Cell, cells_of
from fedsim.studies.running import run_cells
from fedsim.studies.study import Study, find_study, read_study, with_axes
from fedsim.studies.table import RESULTS, Row, judged, read_table, rows_of, write_table
from fedsim.studies.threshold import QUANTILE, Threshold
from fedsim.studies.threshold import thresholds as _thresholds


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """What a study left."""

    folder: Path
    cells: int
    earlier: int
    """Cells that had finished before."""
    failures: Mapping[str, str]
    """Cell -> why it did not finish."""

    @property
    def rows(self) -> list[Row]:
        """Return results.parquet, a dict for each cell, attack and defence."""
        return read_table(self.folder)

    def as_dict(self) -> dict[str, Any]:
        """Return plain tables."""
        return {**asdict(self), "folder": str(self.folder)}

    def text(self) -> str:
        """Return what is to be said in a few lines."""
        new = self.cells - self.earlier - len(self.failures)
        lines = [f"{self.folder}: {self.cells} cells: {new} run now, {self.earlier} before"]
        lines += [f"failed  {name}: {reason}" for name, reason in self.failures.items()]
        lines.append(f"table   {self.folder / 'results.parquet'}")
        return "\n".join([*lines, f"page    {self.folder / 'study.html'}"])


def study(
    source: Study | str | Path,
    *,
    out: Path | str | None = None,
    axes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    devices: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> StudyRun:
    """Run a study from a file, or a bundled one, in `out` (default: runs/studies/NAME); see `run_study`.

    `axes` (`KEY=[VALUE, ...]`) add axes or replace their values, `overrides` change what does not vary.
    """
    ready = with_axes(source if isinstance(source, Study) else read_study(find_study(str(source))), axes)
    folder = Path(out) if out is not None else Path("runs/studies") / ready.name
    return run_study(ready, folder, overrides=overrides, jobs=jobs, devices=devices, progress=progress)


def thresholds(
    folder: Path | str,
    *,
    bound: float | None = None,
    metric: str = "ssim_affine",
    quantile: float = QUANTILE,
    seed: int = 1,
) -> list[Threshold]:
    """Return the smallest strength of each defence that keeps leakage below the bound, for each attacker.

    Raises InputError where the folder holds no table of a study, or no defence of two strengths.
    """
    place = Path(folder)
    if not (place / RESULTS).is_file():
        raise InputError(f"{folder}: no {RESULTS}; allowed: a folder that `fedsim study` wrote")
    rows = judged(read_table(place))
    found = _thresholds(rows, place, bound=bound, metric=metric, quantile=quantile, seed=seed)
    if not found:
        raise InputError(f"{folder}: no defence with two strengths or more that was attacked")
    return found


def run_study(
    study: Study,
    out: Path,
    *,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    devices: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> StudyRun:
    """Run the cells that have not finished, `jobs` at a time, then write results.parquet and study.html.

    The same call goes on where an earlier one was cut off. Raises InputError for a cell that is no scenario.
    """
    from fedsim.studies.page import write_page  # Altair takes a second

    cells: list[Cell] = cells_of(study, out, overrides)
    earlier = sum(cell.finished for cell in cells)
    run_cells(cells, out, keep=study.keep, jobs=jobs, devices=devices, progress=progress)
    write_table(rows_of(cells), out)
    write_page(out, name=study.name, about=study.about)
    failures = {cell.name: cell.failure for cell in cells if cell.failure is not None}
    return StudyRun(folder=out, cells=len(cells), earlier=earlier, failures=failures)
