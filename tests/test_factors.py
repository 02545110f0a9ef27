"""Cholesky factors: one triangle, the least ridge, and what has none."""

import numpy as np
import pytest
from scipy.linalg import cho_solve

from convexgrade.solvers._columns import factor
from convexgrade.solvers._operator import cholesky, factored


def definite(n, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, n + 2))
    return A @ A.T


@pytest.mark.parametrize("order", ["C", "F"])
def test_factors_solve_systems_in_either_order_of_memory(order):
    matrix, right = definite(7), np.arange(7.0)
    found = cho_solve(factored(np.array(matrix, order=order)), right)
    np.testing.assert_allclose(matrix @ found, right, atol=1e-10)


def test_of_a_matrix_in_fortran_order_the_lower_triangle_alone_is_read():
    matrix = definite(6)
    half = np.array(np.tril(matrix), order="F") + np.triu(np.full((6, 6), 99.0), 1)
    np.testing.assert_array_equal(
        np.tril(factored(np.asfortranarray(half))[0]),
        np.tril(factored(np.asfortranarray(matrix))[0]),
    )


def test_factors_of_one_matrix_and_of_a_stack_are_lower_triangles():
    stack = np.stack([definite(5, seed) for seed in range(3)])
    for found, matrix in zip(cholesky(stack.copy()), stack, strict=True):
        np.testing.assert_allclose(found, np.linalg.cholesky(matrix), rtol=1e-12)
        np.testing.assert_allclose(cholesky(matrix.copy()), found, rtol=1e-12, atol=1e-14)


def test_a_ridge_makes_up_for_rounding_and_no_more():
    A = np.random.default_rng(0).standard_normal((8, 3))
    singular = A @ A.T
    lower, _ = factored(singular.copy())
    np.testing.assert_allclose(np.tril(lower) @ np.tril(lower).T, singular, atol=1e-7)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factored(-np.eye(3))
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factored(np.full((3, 3), np.nan))


def test_one_is_added_to_the_diagonal_of_what_newton_systems_factor():
    matrix = definite(4)
    found = cho_solve(factor(matrix.copy()), np.ones(4))
    np.testing.assert_allclose((np.eye(4) + matrix) @ found, 1.0, rtol=1e-12)
