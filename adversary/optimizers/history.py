"""The inverse Hessian of L-BFGS for many problems at once, in the compact form."""

import torch
from torch import Tensor


class History:
    """Curvature pairs (s, y) of P problems, oldest first, and the quasi-Newton directions that they give.

    Byrd, Nocedal & Schnabel (1994), equation 2.6: with S, Y the pairs as rows, R the upper triangle of S Y^T,
    D its diagonal and gamma = s^T y / y^T y of the newest pair,

        H g = gamma g + S^T R^-T [(D + gamma Y Y^T) R^-1 S g - gamma Y g] - gamma Y^T R^-1 S g

    which is what the two-loop recursion computes, in four batched products instead of 4 m small ones.
    """

    def __init__(self, problems: int, variables: int, size: int, like: Tensor) -> None:
        self.size = size
        self.count = [0] * problems
        self.steps = like.new_zeros(problems, size, variables)
        self.changes = like.new_zeros(problems, size, variables)
        self.triangle = torch.eye(size, dtype=like.dtype, device=like.device).repeat(problems, 1, 1)
        self.gram = like.new_zeros(problems, size, size)
        self.gamma = like.new_ones(problems)

    def reset(self, row: int) -> None:
        """Forget the pairs of one problem."""
        self.count[row] = 0
        self.steps[row] = self.changes[row] = self.gram[row] = 0
        self.triangle[row] = torch.eye(self.size, dtype=self.gram.dtype, device=self.gram.device)
        self.gamma[row] = 1

    def push(self, row: int, step: Tensor, change: Tensor) -> None:
        """Add the newest pair of one problem, unless its curvature s^T y is not safely positive."""
        step, change = step.to(self.steps), change.to(self.steps)
        curvature = torch.dot(step, change)
        square = torch.dot(change, change)
        if not curvature > 1e-12 * step.norm() * square.sqrt():
            return
        if self.count[row] == self.size:
            self._drop_oldest(row, max(1, self.size // 4))
        k = self.count[row]
        self.steps[row, k], self.changes[row, k] = step, change
        self.triangle[row, : k + 1, k] = self.steps[row, : k + 1] @ change
        products = self.changes[row, : k + 1] @ change
        self.gram[row, k, : k + 1] = self.gram[row, : k + 1, k] = products
        self.gamma[row] = curvature / square
        self.count[row] = k + 1

    def directions(self, rows: Tensor, gradients: Tensor) -> Tensor:
        """Return -H g for the gradients (k, n) of the problems `rows` (k,), in their dtype."""
        own = gradients.to(self.steps)
        if gradients.is_cuda:
            return self.directions_batched(rows, own).to(gradients)
        # On the CPU a row alone reads its pairs in place, a batch copies them: 3 to 10 times as fast.
        each = zip(rows.tolist(), own, strict=True)
        return torch.stack([self._direction(row, gradient) for row, gradient in each]).to(gradients)

    def directions_batched(self, rows: Tensor, gradients: Tensor) -> Tensor:
        """Return what `directions` does, as one program for all rows: for a GPU."""
        used = max(self.count[row] for row in rows.tolist())
        if used == 0:
            return -gradients
        steps, changes = self.steps[rows, :used], self.changes[rows, :used]
        triangle, gram = self.triangle[rows, :used, :used], self.gram[rows, :used, :used]
        gamma = self.gamma[rows, None]
        against_steps = torch.bmm(steps, gradients[:, :, None])
        against_changes = torch.bmm(changes, gradients[:, :, None])
        inner = torch.linalg.solve_triangular(triangle, against_steps, upper=True)
        diagonal = torch.diagonal(triangle, dim1=1, dim2=2)[:, :, None]
        right = diagonal * inner + gamma[:, :, None] * (torch.bmm(gram, inner) - against_changes)
        outer = torch.linalg.solve_triangular(triangle.mT, right, upper=False)
        combined = torch.bmm(steps.mT, outer)[:, :, 0] - gamma * torch.bmm(changes.mT, inner)[:, :, 0]
        return -(gamma * gradients + combined)

    def _direction(self, row: int, gradient: Tensor) -> Tensor:
        used = self.count[row]
        if used == 0:
            return -gradient
        steps, changes, gamma = self.steps[row, :used], self.changes[row, :used], self.gamma[row]
        triangle, gram = self.triangle[row, :used, :used], self.gram[row, :used, :used]
        inner = torch.linalg.solve_triangular(triangle, (steps @ gradient)[:, None], upper=True)[:, 0]
        right = torch.diagonal(triangle) * inner + gamma * (gram @ inner - changes @ gradient)
        outer = torch.linalg.solve_triangular(triangle.T, right[:, None], upper=False)[:, 0]
        direction: Tensor = -(gamma * (gradient - inner @ changes) + outer @ steps)
        return direction

    def _drop_oldest(self, row: int, number: int) -> None:
        keep = self.size - number
        for pairs in (self.steps, self.changes):
            pairs[row, :keep] = pairs[row, number:].clone()
            pairs[row, keep:] = 0
        for square in (self.triangle, self.gram):
            square[row, :keep, :keep] = square[row, number:, number:].clone()
            square[row, keep:, :] = square[row, :, keep:] = 0
        diagonal = torch.diagonal(self.triangle[row])
        diagonal[keep:] = 1
        self.count[row] = keep
