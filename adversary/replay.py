"""Evaluations that a GPU replays as a CUDA graph: one launch in place of a double backward's thousands."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

Outcome = tuple[Tensor, Tensor]
Evaluation = Callable[..., Outcome]
Replay = Callable[[Sequence[Tensor]], Outcome]
"""New values for the recorded arguments -> the outcome at these."""
Record = Callable[[Callable[[Sequence[Tensor]], Outcome], Sequence[Tensor]], Replay]
"""(evaluation, arguments whose shapes are recorded) -> what replays it."""
Key = tuple[Any, ...]

RECORDED_AFTER = 8
"""Evaluations of the same shapes before they are recorded: numbers of captures that soon change are not."""
MOST = 16
"""Recorded shapes that are kept; each holds its arguments."""
TOLERANCE = 1e-3
"""Largest difference of a replay to the evaluation itself, relative to the largest entry."""


def replayed(evaluation: Evaluation, record: Record | None = None) -> Evaluation:
    """Return an evaluation that is recorded once its shapes come again and again, and replayed from then on.

    `evaluation` takes (trees of) tensors only, and depends on nothing else that changes. The first replay is
    held against the evaluation itself; where they differ, or where recording fails, these shapes are
    evaluated as before. The values of outcomes are the caller's own.
    """
    seen: Counter[Key] = Counter()
    replays: dict[Key, Replay | None] = {}
    checked: set[Key] = set()
    make = record or record_cuda

    def evaluate(*arguments: Any) -> Outcome:
        leaves, spec = tree_flatten(arguments)
        key: Key = (str(spec), *((leaf.shape, leaf.dtype) for leaf in leaves))
        seen[key] += 1
        replay = replays.get(key)
        if replay is None:
            if seen[key] == RECORDED_AFTER and len(replays) < MOST:
                replays[key] = _recorded(make, _flat(evaluation, spec), leaves)
            return evaluation(*arguments)
        found = replay(leaves)
        if key not in checked:
            checked.add(key)
            expected = evaluation(*arguments)
            if not _agree(found, expected):
                replays[key] = None
            return expected
        return found

    return evaluate


def record_cuda(evaluation: Callable[[Sequence[Tensor]], Outcome], leaves: Sequence[Tensor]) -> Replay:
    """Record an evaluation on the current CUDA device; raises RuntimeError for what cannot be recorded."""
    held = [leaf.clone() for leaf in leaves]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # libraries pick their kernels and workspaces before they are recorded
        for _ in range(3):
            evaluation(held)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outcome = evaluation(held)

    def replay(values: Sequence[Tensor]) -> Outcome:
        for place, value in zip(held, values, strict=True):
            place.copy_(value)
        graph.replay()
        return outcome[0].clone(), outcome[1].clone()

    return replay


def _flat(evaluation: Evaluation, spec: TreeSpec) -> Callable[[Sequence[Tensor]], Outcome]:
    return lambda leaves: evaluation(*tree_unflatten(leaves, spec))


def _recorded(
    make: Record, evaluation: Callable[[Sequence[Tensor]], Outcome], leaves: Sequence[Tensor]
) -> Replay | None:
    try:
        return make(evaluation, leaves)
    except RuntimeError:  # an operator that waits for the device cannot be recorded
        return None


def _agree(found: Outcome, expected: Outcome) -> bool:
    return all(
        bool((mine - its).abs().max() <= TOLERANCE * its.abs().max().clamp(min=1e-30))
        for mine, its in zip(found, expected, strict=True)
    )
