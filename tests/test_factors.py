"""Cholesky factors: one triangle, the least ridge, and what has none."""

import numpy as np
import pytest

from convexgrade.solvers._symmetric import (
    cholesky,
    diagonal,
    factored,
    factored_triangle,
    solved_by_factor,
    square,
    squared,
    triangle,
)


def definite(n, seed=0):
    A = np.random.default_rng(seed).standard_normal((n, n + 2))
    return A @ A.T


SIDES = [1, 2, 3, 6, 7]


@pytest.mark.parametrize("order", ["C", "F"])
def test_factors_solve_systems_in_either_order_of_memory(order):
    matrix, right = definite(7), np.arange(7.0)
    found = solved_by_factor(factored(np.array(matrix, order=order)), right)
    np.testing.assert_allclose(matrix @ found, right, atol=1e-10)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", SIDES)
def test_triangles_hold_a_matrix_in_half_the_numbers(n, order):
    matrix = np.array(definite(n), order=order)
    entries = triangle(matrix)
    assert entries.shape == (n * (n + 1) // 2,)
    np.testing.assert_array_equal(square(entries), np.tril(matrix) + np.tril(matrix, -1).T)
    np.testing.assert_array_equal(entries[diagonal(entries)], np.diag(matrix))


@pytest.mark.parametrize("n", SIDES)
def test_triangles_may_be_in_single_precision(n):
    panel, matrix = np.random.default_rng(n).standard_normal((n, n + 2)), definite(n)
    single = squared(panel.astype(np.float32))
    assert single.dtype == triangle(matrix.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(square(single), panel @ panel.T, atol=1e-5 * n)
    factor = factored_triangle(triangle((matrix + np.eye(n)).astype(np.float32)))
    assert factor.lower.dtype == factor.between.dtype == factor.upper.dtype == np.float32
    for size in (1.0, 1e-60, 1e60):  # beyond its range
        right = size * np.arange(1.0, n + 1)
        found = factor.solve(right)
        assert found.dtype == np.float64
        np.testing.assert_allclose(matrix @ found + found, right, rtol=1e-4, atol=1e-4 * size)


@pytest.mark.parametrize("n", SIDES)
def test_products_of_panels_add_up_in_a_triangle(n):
    rng = np.random.default_rng(n)
    wide, narrow = rng.standard_normal((n, 4)), rng.standard_normal((n, 2))
    total = squared(narrow, -1.0, squared(wide))
    np.testing.assert_allclose(square(total), wide @ wide.T - narrow @ narrow.T, atol=1e-12)
    np.testing.assert_array_equal(squared(np.empty((n, 0)), 1.0, total), total)
    assert not squared(np.empty((n, 0))).any()


@pytest.mark.parametrize("n", SIDES)
def test_factors_of_triangles_solve_systems(n):
    matrix, right = definite(n), np.arange(1.0, n + 1)
    factor = factored_triangle(triangle(matrix))
    np.testing.assert_allclose(matrix @ factor.solve(right), right, atol=1e-9)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factored_triangle(triangle(-matrix))
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factored_triangle(triangle(np.full((n, n), np.nan)))


def test_factors_of_one_matrix_and_of_a_stack_are_lower_triangles():
    stack = np.stack([definite(5, seed) for seed in range(3)])
    for found, matrix in zip(cholesky(stack.copy()), stack, strict=True):
        np.testing.assert_allclose(found, np.linalg.cholesky(matrix), rtol=1e-12)
        np.testing.assert_allclose(cholesky(matrix.copy()), found, rtol=1e-12, atol=1e-14)


def test_a_ridge_makes_up_for_rounding_and_no_more():
    A = np.random.default_rng(0).standard_normal((8, 3))
    singular = A @ A.T
    lower = np.tril(factored(singular.copy()))
    np.testing.assert_allclose(lower @ lower.T, singular, atol=1e-7)
    factor = factored_triangle(triangle(singular))
    assert np.isfinite(factor.solve(singular[0])).all()
    np.testing.assert_allclose(singular @ factor.solve(singular[0]), singular[0], atol=1e-5)
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factored(-np.eye(3))
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        factored(np.full((3, 3), np.nan))
