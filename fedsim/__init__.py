"""fedsim: a Flower federation that you can attack.

Importing it costs nothing (no torch, no Flower): Flower's own tools import it to validate an app.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedsim.engines.quiet import keep_private

__version__ = "0.1.0"
__all__ = ["__version__", "attack", "run", "study", "thresholds"]

keep_private()

if TYPE_CHECKING:
    from fedsim.simulation.api import attack, run
    from fedsim.studies.api import study, thresholds


_API = {
    "run": "fedsim.simulation.api",
    "attack": "fedsim.simulation.api",
    "study": "fedsim.studies.api",
    "thresholds": "fedsim.studies.api",
}


def __getattr__(name: str) -> Any:
    """Load the Python API on first use."""
    if name in _API:
        return getattr(import_module(_API[name]), name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
