"""Conjugate gradients for least squares, against the direct solution."""

import pytest
import torch

from adversary.optimizers.cgls import cgls


@pytest.mark.parametrize("rows", [30, 8])
def test_finds_the_shortest_least_squares_solution(rows):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(rows, 12, generator=generator, dtype=torch.float64)
    wanted = torch.randn(rows, generator=generator, dtype=torch.float64)
    found = cgls(lambda x: matrix @ x, lambda r: matrix.T @ r, wanted, iterations=40)
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
