"""Why would an attack on a capture fail? Each cause is said in a line, with the mend: docs/diagnose.md."""

from collections.abc import Mapping

from torch import Tensor

from adversary.captures import Capture
from adversary.diagnose.data import check_labels, check_normalization, check_scale
from adversary.diagnose.finding import CHECKS, Finding, cannot_tell
from adversary.diagnose.reading import Mode, Reading
from adversary.diagnose.recompute import explain
from adversary.diagnose.state import (
    UNUSABLE,
    check_buffers,
    check_cancellation,
    check_mode,
    check_names,
    check_values,
)
from adversary.diagnose.verdicts import from_truth
from fedsim.errors import InputError
from fedsim.tasks.task import DrawingTask, Task
from fedsim.training import Recipe

__all__ = ["CHECKS", "Finding", "diagnose", "faults"]


def diagnose(
    capture: Capture,
    weights: Mapping[str, Tensor],
    task: Task,
    *,
    recipe: Recipe | None = None,
    batch_size: int | None = None,
    truth: tuple[Tensor, Tensor] | None = None,
    mode: Mode = "train",
) -> list[Finding]:
    """Return a finding for each check, in the order of CHECKS (`recomputation` only with the truth).

    `weights` are the global weights that the capture answers. `recipe`, `batch_size` (the recipe's where it
    is missing) and `mode` are the claims that an attack would build on. With `truth`, images
    (n, *input_shape) in [0, 1] and labels (n,) in the order of training, the upload is computed again, which
    decides most questions.
    """
    if isinstance(task, DrawingTask):
        raise InputError("task: its loss draws timesteps and noise; allowed: a capture of a classifier")
    size = batch_size if batch_size is not None else recipe.batch_size if recipe else None
    reading = Reading(capture, weights, task, recipe, size, mode)
    findings = [
        check_names(reading),
        check_values(reading),
        check_buffers(reading),
        check_mode(reading),
        *_from_values(reading),
        check_cancellation(reading),
    ]
    found = {finding.check: finding for finding in findings}
    if truth is not None:
        found |= _recomputed(reading, truth)
    return [found[check] for check in CHECKS if check in found]


def faults(findings: list[Finding]) -> list[Finding]:
    """Return the findings on which an attack would fail."""
    return [finding for finding in findings if finding.verdict == "fault"]


def _from_values(reading: Reading) -> list[Finding]:
    if not reading.usable:
        return [cannot_tell(check, UNUSABLE) for check in ("scale", "normalization", "labels")]
    return [check_scale(reading), check_normalization(reading), check_labels(reading)]


def _recomputed(reading: Reading, truth: tuple[Tensor, Tensor]) -> dict[str, Finding]:
    shape, expected = tuple(truth[0].shape[1:]), tuple(reading.task.input_shape)
    if shape != expected or not len(truth[0]) == len(truth[1]) > 0:
        raise InputError(
            f"truth of {len(truth[0])} images {shape}: allowed: images {expected}, each with a label"
        )
    if not reading.usable:
        return {"recomputation": cannot_tell("recomputation", UNUSABLE)}
    return from_truth(reading, explain(reading, truth), len(truth[1]))
