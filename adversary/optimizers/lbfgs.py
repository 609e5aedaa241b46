"""L-BFGS over many independent problems in lockstep: one evaluation serves every problem still running.

A batch of problems is a matrix, one row a problem. Each row walks its own path (direction, line search,
stopping); only the evaluation of loss and gradient, and the algebra of the directions, are shared programs.
A row that is done leaves its lane to the next one that waits.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adversary.optimizers.history import History
from adversary.optimizers.line_search import LineSearch, strong_wolfe

Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(points (k, n), rows (k,)) -> (losses (k,), gradients (k, n)); entry i belongs to problem `rows[i]`."""

MEMORY = 1 << 30
"""Bytes that the curvature pairs of all lanes may take."""


@dataclass(frozen=True)
class Minimum:
    """Where each problem ended."""

    points: Tensor
    """(P, n)"""
    losses: Tensor
    """(P,)"""
    evaluations: Tensor
    """(P,), int64: evaluations of loss and gradient."""
    converged: Tensor
    """(P,), bool: the loss fell to its target."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When a problem stops: at its target loss, out of evaluations, or without progress."""

    max_evaluations: int
    patience: int = 300
    """So many iterations together must lower the loss ..."""
    min_progress: float = 0.01
    """... by at least this share."""


@dataclass(frozen=True)
class Preview:
    """A cheaper evaluation of the same losses, such as one in float32, and down to which loss it is good."""

    evaluate: Evaluate
    until: float
    max_evaluations: int | None = None
    """It is good for so many, where given: what rounds to its precision may never get there."""
    coarse_above: float = math.inf
    """Losses that no rounding keeps from falling: a row that ends above this has ended."""


def lbfgs(
    evaluate: Evaluate,
    start: Tensor,
    stop: Stop,
    *,
    targets: Tensor | None = None,
    budgets: Tensor | None = None,
    preview: Preview | None = None,
    history: int = 200,
    lanes: int = 64,
) -> Minimum:
    """Minimise each row of `start` (P, n) by L-BFGS (Nocedal & Wright 2006, Algorithm 7.5), strong Wolfe.

    `targets` (P,) are losses at which a row has converged (zero where missing), `budgets` (P,) each row's own
    limit of evaluations instead of `stop.max_evaluations`. Given `preview`, a row first goes as far as the
    cheaper evaluation is good for, and takes its curvature pairs along. At most `lanes` rows are on their way
    at a time, and no more than MEMORY holds the `2 * history * n` numbers of.
    """
    size = 4 if preview else start.element_size()
    lanes = max(1, min(lanes, MEMORY // (2 * history * start.shape[1] * size)))
    return _Lockstep(evaluate, start, stop, targets, budgets, preview, history, lanes).run()


@dataclass
class _Row:
    """One problem's own path."""

    index: int
    final: float
    """The loss at which it has converged."""
    budget: int
    lane: int = 0
    coarse: bool = False
    """Whether it goes by the preview."""
    entering: bool = True
    """Whether the loss and gradient of where it stands are yet to be had."""
    loss: float = math.inf
    evaluations: int = 0
    steepest: bool = True
    search: LineSearch | None = None
    trial: float = 0.0
    done: bool = False
    mark: float = math.inf
    mark_age: int = 0


class _Lockstep:
    def __init__(
        self,
        evaluate: Evaluate,
        start: Tensor,
        stop: Stop,
        targets: Tensor | None,
        budgets: Tensor | None,
        preview: Preview | None,
        history: int,
        lanes: int,
    ) -> None:
        self.fine, self.preview, self.stop = evaluate, preview, stop
        self.points, self.gradients = start.clone(), torch.zeros_like(start)
        self.directions = torch.zeros_like(start)
        count = len(start)
        goal = [0.0] * count if targets is None else targets.tolist()
        limits = [stop.max_evaluations] * count if budgets is None else budgets.tolist()
        self.rows = [_Row(i, goal[i], limits[i], coarse=preview is not None) for i in range(count)]
        self.trials: list[dict[float, tuple[float, Tensor]]] = [{} for _ in self.rows]
        self.free = list(range(min(lanes, count)))
        like = start.new_empty(0, dtype=torch.float32 if preview else None)
        self.history = History(len(self.free), start.shape[1], history, like)

    def run(self) -> Minimum:
        waiting = deque(self.rows)
        active: list[_Row] = []
        while waiting or active:
            while waiting and self.free:
                active.append(self._admit(waiting.popleft()))
            self._enter([row for row in active if row.entering])
            self._start_searches([row for row in active if row.search is None and not row.done])
            self._try_steps([row for row in active if row.search is not None])
            for row in active:
                if row.done:
                    self.free.append(row.lane)
                    self.trials[row.index].clear()
            active = [row for row in active if not row.done]
        like = self.points
        return Minimum(
            points=self.points,
            losses=torch.tensor([row.loss for row in self.rows], dtype=like.dtype, device=like.device),
            evaluations=torch.tensor([row.evaluations for row in self.rows]),
            converged=torch.tensor([row.loss <= row.final for row in self.rows]),
        )

    def _admit(self, row: _Row) -> _Row:
        row.lane = self.free.pop()
        self.history.reset(row.lane)
        return row

    def _evaluate(self, points: Tensor, rows: list[_Row]) -> tuple[list[float], Tensor]:
        """Return losses and gradients at one point a row, each by the row's own fidelity."""
        losses, gradients = [0.0] * len(rows), torch.empty_like(points)
        for coarse in (True, False):
            chosen = [i for i, row in enumerate(rows) if row.coarse == coarse]
            if not chosen:
                continue
            evaluate = self.preview.evaluate if coarse and self.preview else self.fine
            some, gradients[chosen] = evaluate(points[chosen], self._index([rows[i] for i in chosen]))
            for i, loss in zip(chosen, some.tolist(), strict=True):
                losses[i] = loss
                rows[i].evaluations += 1
        return losses, gradients

    def _enter(self, rows: list[_Row]) -> None:
        """Take the loss and gradient of where the rows stand; what the preview said of it counts no more."""
        if not rows:
            return
        index = self._index(rows)
        losses, self.gradients[index] = self._evaluate(self.points[index], rows)
        for row, loss in zip(rows, losses, strict=True):
            row.entering, row.loss = False, loss
            row.mark, row.mark_age = loss, 0
            self._check(row)
            row.done = row.done or row.evaluations >= row.budget

    def _start_searches(self, rows: list[_Row]) -> None:
        rows = [row for row in rows if not row.entering]
        if not rows:
            return
        index = self._index(rows)
        gradients = self.gradients[index]
        directions = self.history.directions(self._lanes(rows), gradients)
        slopes = (directions * gradients).sum(dim=1)
        for i in (~(slopes < 0)).nonzero().flatten().tolist():
            self.history.reset(rows[i].lane)
            rows[i].steepest = True
            directions[i] = -gradients[i]
            slopes[i] = -gradients[i].square().sum()
        self.directions[index] = directions
        sizes = gradients.abs().sum(dim=1).tolist()
        for row, slope, size in zip(rows, slopes.tolist(), sizes, strict=True):
            if not slope < 0:
                self._finish(row)
                continue
            first = min(1.0, 1.0 / size) if row.steepest else 1.0
            row.search = strong_wolfe(row.loss, slope, first)
            row.trial = next(row.search)
            self.trials[row.index].clear()

    def _try_steps(self, rows: list[_Row]) -> None:
        if not rows:
            return
        index = self._index(rows)
        directions = self.directions[index]
        steps = self.points.new_tensor([row.trial for row in rows])
        losses, gradients = self._evaluate(self.points[index] + steps[:, None] * directions, rows)
        slopes = (gradients * directions).sum(dim=1).tolist()
        for i, (row, loss, slope) in enumerate(zip(rows, losses, slopes, strict=True)):
            self.trials[row.index][row.trial] = (loss, gradients[i])
            assert row.search is not None
            try:
                row.trial = row.search.send((loss, slope))
            except StopIteration as result:
                self._take(row, result.value)
            if row.evaluations >= row.budget and not row.done:
                self._take_best_trial(row)
                row.coarse, row.done = False, True

    def _take(self, row: _Row, step: float) -> None:
        """Move to the step that the line search chose; after a failed one try steepest descent, once."""
        row.search = None
        if step == 0.0:
            if row.steepest:
                self._finish(row)
            self.history.reset(row.lane)
            row.steepest = True
            return
        loss, gradient = self.trials[row.index][step]
        move = step * self.directions[row.index]
        self.history.push(row.lane, move, gradient - self.gradients[row.index])
        self.points[row.index] += move
        self.gradients[row.index] = gradient
        row.loss, row.steepest = loss, False
        self._check(row)

    def _take_best_trial(self, row: _Row) -> None:
        trials = self.trials[row.index]
        if row.search is not None and trials:
            step = min(trials, key=lambda t: trials[t][0])
            if trials[step][0] < row.loss:
                self._take(row, step)

    def _check(self, row: _Row) -> None:
        """Stop at the target, at a loss that is not a number, or where the loss has not moved for long."""
        row.mark_age += 1
        stuck = not math.isfinite(row.loss)
        if row.mark_age >= self.stop.patience:
            stuck = stuck or row.loss > (1 - self.stop.min_progress) * row.mark
            row.mark, row.mark_age = row.loss, 0
        until = row.final
        if row.coarse and self.preview:
            until, limit = max(until, self.preview.until), self.preview.max_evaluations
            spent = limit is not None and row.evaluations >= limit
            stuck = stuck or (spent and row.loss <= self.preview.coarse_above)
        if stuck or row.loss <= until:
            self._finish(row)

    def _finish(self, row: _Row) -> None:
        """End the row's path, or its first part: the preview."""
        hopeless = self.preview is not None and self.preview.coarse_above < row.loss < math.inf
        row.search = None
        row.done = hopeless or not row.coarse
        row.entering, row.coarse = not row.done, False

    def _index(self, rows: list[_Row]) -> Tensor:
        return torch.tensor([row.index for row in rows], device=self.points.device)

    def _lanes(self, rows: list[_Row]) -> Tensor:
        return torch.tensor([row.lane for row in rows], device=self.points.device)
