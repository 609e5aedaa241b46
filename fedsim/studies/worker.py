"""What a worker process does with a cell: the run, and away with what is not kept."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from fedsim.scenario import load_scenario
from fedsim.simulation.api import run

_WEIGHT = {
    "figures": ("captures", "weights.safetensors", "reconstructions", "samples", "report.html"),
    "pictures": ("captures", "weights.safetensors"),
    "everything": (),
}
"""What is removed of a finished cell."""


_MASK = os.environ.get("CUDA_VISIBLE_DEVICES")
"""What the user lets this process see, as it was when the process began."""


def visible(device: str, mask: str | None) -> str:
    """Return the CUDA devices that a process is to see which works on `device`, under the user's own mask."""
    if device == "cpu":
        return ""
    number = int(device.rpartition(":")[2])
    return mask.split(",")[number] if mask else str(number)


def execute(job: dict[str, Any], device: str) -> dict[str, Any]:
    """Run the scenario of a job in its folder, and return the seconds that it took.

    Attacks run in this process: cells are what is parallel. Raises InputError.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = visible(device, _MASK)
    folder = Path(job["folder"])
    shutil.rmtree(folder, ignore_errors=True)
    scenario = load_scenario(
        job["scenario"], {"adversary.workers": 0, "output.report": job["keep"] != "figures"}
    )
    begun = time.perf_counter()
    run(scenario, out=folder)
    for name in _WEIGHT[job["keep"]]:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return {"seconds": round(time.perf_counter() - begun, 3)}
