"""Run the cells of a study side by side; what has finished is never run again."""

import json
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from adversary.workers import Workers, default_devices
from fedsim.errors import InputError
from fedsim.options import require
from fedsim.simulation.progress import Progress, Silent
from fedsim.studies.cells import Cell
from fedsim.studies.study import Keep

LOCK = ".lock"


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    keep: Keep = "pictures",
    jobs: int | None = None,
    devices: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Run every cell that has not finished, `jobs` at a time (default: one a device, or a core).

    A cell that fails leaves its reason and does not stop the others. Raises InputError where another process
    runs the study in the same folder.
    """
    progress = progress or Silent()
    _check(devices or ())
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out}: another study is running here; allowed: a folder of its own") from None
    try:
        _run([cell for cell in cells if not cell.finished], keep, jobs, devices, progress)
    finally:
        lock.release()


def _check(devices: Sequence[str]) -> None:
    """Raise InputError for a device that this machine does not have."""
    if not devices:
        return
    import torch

    known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    for name in devices:
        require(name in known, "devices", name, ", ".join(known))


def _run(
    waiting: Sequence[Cell],
    keep: Keep,
    jobs: int | None,
    devices: Sequence[str] | None,
    progress: Progress,
) -> None:
    if not waiting:
        return
    by_name = {cell.name: cell for cell in waiting}
    chosen = list(devices or default_devices())
    count = min(len(waiting), jobs or len(chosen))
    progress.start("cells", len(waiting))
    with Workers("fedsim.studies.worker:execute", workers=count, devices=chosen) as workers:
        for cell in waiting:
            table = cell.scenario.model_dump(mode="json", exclude_none=True)
            workers.submit(
                {"cell": cell.name, "scenario": table, "folder": str(cell.unfinished), "keep": keep}
            )
        for outcome in workers.outcomes():
            cell = by_name[outcome.job["cell"]]
            if outcome.failed is None:
                told = {"seconds": outcome.value["seconds"], "overrides": cell.overrides}
                (cell.unfinished / "cell.json").write_text(json.dumps(told), encoding="utf-8")
                cell.settle()
            else:
                cell.fail(outcome.failed)
            progress.advance("cells", note="" if outcome.failed is None else f"failed: {cell.name}")
    progress.finish("cells")
