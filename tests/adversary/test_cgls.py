"""Conjugate gradients for least squares, against the direct solution."""

import pytest
import torch

from adversary.optimizers.cgls import cgls


@pytest.mark.parametrize("memory", [0, 3, 40])
@pytest.mark.parametrize("rows", [30, 8])
def test_finds_the_shortest_least_squares_solution(rows, memory):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, 12, generator=generator, dtype=torch.float64)
    wanted = torch.randn(rows, generator=generator, dtype=torch.float64)
    iterations = 400 if memory == 3 else 40  # a full memory starts anew
    found = cgls(lambda x: matrix @ x, lambda r: matrix.T @ r, wanted, iterations=iterations, memory=memory)
    torch.testing.assert_close(found, torch.linalg.pinv(matrix) @ wanted)


def test_stops_where_enough_is_explained():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(40, 40, generator=generator, dtype=torch.float64)
    wanted = matrix @ torch.ones(40, dtype=torch.float64)
    calls = 0

    def apply(x):
        nonlocal calls
        calls += 1
        return matrix @ x

    found = cgls(apply, lambda r: matrix.T @ r, wanted, iterations=500, fit=0.05)
    assert calls < 40
    assert 0.005 < (matrix @ found - wanted).norm() / wanted.norm() <= 0.05


def test_nothing_wanted_is_nothing_found():
    matrix = torch.eye(3)
    assert (
        cgls(lambda x: matrix @ x, lambda r: matrix.T @ r, torch.zeros(3), iterations=5).tolist() == [0] * 3
    )


def test_gradients_kept_orthogonal_save_what_rounding_costs():
    """A condition of 1e3 in float32: half of the iterations, and as near to the solution in the end."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(400, 200, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(200, 200, generator=generator, dtype=torch.float64)).Q
    matrix = ((left * torch.logspace(0, -3, 200, dtype=torch.float64)) @ right.T).float()
    truth = torch.randn(200, generator=generator)

    def solved(iterations, memory):
        wanted = matrix @ truth
        return cgls(
            lambda x: matrix @ x, lambda r: matrix.T @ r, wanted, iterations=iterations, memory=memory
        )

    def error(found):
        return (matrix @ (found - truth)).norm() / (matrix @ truth).norm()

    assert error(solved(120, 120)) < 0.5 * error(solved(240, 0))
    assert error(solved(2000, 200)) < 1e-6
