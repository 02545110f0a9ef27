"""Limited-memory BFGS: its matrix, its steps, and variables that leave."""

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der

from convexgrade.quasi_newton import Iterate, Pairs, step


def quadratic(seed, n, condition=1e3):
    """Return the Hessian of (x - optimum)^2 / 2 in a norm, the optimum and the objective."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = basis * np.geomspace(1.0, condition, n) @ basis.T
    optimum = rng.standard_normal(n)

    def objective(x):
        gradient = A @ (x - optimum)
        return 0.5 * float((x - optimum) @ gradient), gradient

    return A, optimum, objective


def kinked(x):
    """Return |x_1| + sum x^2 / 2 and a subgradient."""
    return abs(x[0]) + 0.5 * x @ x, x + np.eye(x.size)[0] * np.sign(x[0])


def dense_inverse_hessian(pairs, n):
    """Return what BFGS's own recursion makes of pairs, oldest first."""
    s, y = pairs[-1]
    H = (s @ y) / (y @ y) * np.eye(n)
    for s, y in pairs:
        V = np.eye(n) - np.outer(y, s) / (s @ y)
        H = V.T @ H @ V + np.outer(s, s) / (s @ y)
    return H


@pytest.mark.parametrize("n_pairs", [1, 3, 4, 9])
def test_directions_are_those_of_the_recursion_over_the_last_pairs(n_pairs):
    n, memory = 12, 4
    A, _, _ = quadratic(0, n)
    rng = np.random.default_rng(1)
    steps = rng.standard_normal((n_pairs, n))
    pairs = Pairs(n, memory)
    for s in steps:
        pairs.add(s, A @ s)
    gradient = rng.standard_normal(n)
    assert len(pairs) == min(n_pairs, memory)
    expected = -dense_inverse_hessian([(s, A @ s) for s in steps[-memory:]], n) @ gradient
    np.testing.assert_allclose(pairs.direction(gradient), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-24, 1e24])
def test_scales_beyond_single_precision_change_no_direction(scale):
    n = 6
    A, _, _ = quadratic(0, n, 10.0)
    rng = np.random.default_rng(1)
    plain, scaled = Pairs(n, 5), Pairs(n, 5)
    for s in rng.standard_normal((4, n)):
        plain.add(s, A @ s)
        scaled.add(scale * s, scale * (A @ s))
    gradient = rng.standard_normal(n)
    np.testing.assert_allclose(scaled.direction(gradient), plain.direction(gradient), rtol=1e-5)


def test_without_pairs_the_direction_is_that_of_steepest_descent():
    gradient = np.array([3.0, -1.0])
    np.testing.assert_array_equal(Pairs(2, 5).direction(gradient), -gradient)


def test_pairs_without_curvature_are_not_remembered():
    pairs = Pairs(3, 5)
    pairs.add(np.array([1.0, 0.0, 0.0]), np.array([-1.0, 1.0, 0.0]))
    pairs.add(np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
    pairs.add(np.zeros(3), np.zeros(3))
    assert len(pairs) == 0


@pytest.mark.parametrize("n_pairs", [2, 9])
def test_variables_that_leave_take_their_part_of_every_pair_along(n_pairs):
    n, memory = 8, 4
    rng = np.random.default_rng(0)
    curvature = rng.uniform(1.0, 9.0, n)  # a diagonal Hessian: parts of pairs are pairs
    steps = rng.standard_normal((n_pairs, n))
    kept = np.arange(n) % 3 > 0
    pairs, fewer = Pairs(n, memory), Pairs(int(kept.sum()), memory)
    for s in steps:
        pairs.add(s, curvature * s)
        fewer.add(s[kept], (curvature * s)[kept])
    gradient = rng.standard_normal(int(kept.sum()))
    restricted = pairs.restricted(kept)
    assert len(restricted) == len(fewer)
    np.testing.assert_allclose(restricted.direction(gradient), fewer.direction(gradient), rtol=1e-5)
    restricted.add(np.ones(gradient.size), np.ones(gradient.size))  # and they go on
    assert len(restricted) == min(n_pairs + 1, memory)


def test_pairs_that_only_what_left_had_curved_are_forgotten():
    pairs = Pairs(3, 5)
    pairs.add(np.array([1.0, 1.0, 1.0]), np.array([5.0, -1.0, 1.0]))
    pairs.add(np.array([0.0, 2.0, 1.0]), np.array([1.0, 4.0, 2.0]))
    restricted = pairs.restricted(np.array([False, True, True]))
    assert len(restricted) == 1
    np.testing.assert_allclose(restricted.direction(np.array([2.0, 1.0])), [-1.0, -0.5], rtol=1e-6)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_steps_find_the_minimum_of_a_quadratic_function(condition):
    n = 30
    _, optimum, objective = quadratic(2, n, condition)
    point, pairs = Iterate.of(objective, np.zeros(n)), Pairs(n, 20)
    first, n_steps = point.value, 0
    while point.value > 1e-10 * first:
        found = step(objective, point, pairs)
        assert found is not None
        assert found.value < point.value
        point, n_steps = found, n_steps + 1
        assert n_steps < 400
    if condition <= 1e2:
        np.testing.assert_allclose(point.x, optimum, atol=1e-3)


def test_steps_are_about_as_many_as_those_of_scipy_on_a_curved_valley():
    def objective(x):
        return float(rosen(x)), rosen_der(x)

    start, memory = np.full(10, -1.2), 20
    scipys = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxcor": memory, "ftol": 1e-15}
    )
    point, pairs, n_steps = Iterate.of(objective, start), Pairs(10, memory), 0
    while point.value > 1e-8:
        found = step(objective, point, pairs)
        assert found is not None
        point, n_steps = found, n_steps + 1
        assert n_steps <= 3 * scipys.nit


def test_a_kink_is_no_obstacle_and_at_the_minimum_there_is_no_step():
    point, pairs = Iterate.of(kinked, np.array([3.0, -2.0, 1.0])), Pairs(3, 5)
    for _ in range(100):
        found = step(kinked, point, pairs)
        if found is None:
            break
        point = found
    np.testing.assert_allclose(point.x, 0.0, atol=1e-4)
    assert step(kinked, Iterate.of(kinked, np.zeros(3)), Pairs(3, 5)) is None


def test_pairs_that_lead_nowhere_are_forgotten_before_giving_up():
    _, _, objective = quadratic(3, 4, 10.0)
    pairs = Pairs(4, 5)
    point = Iterate.of(objective, np.zeros(4))
    pairs.add(np.full(4, 1e8), np.full(4, 1e-8))  # steps of 1e16 times the gradient
    found = step(objective, point, pairs)
    assert found is not None
    assert found.value < point.value


def test_an_objective_that_is_nowhere_finite_has_no_step():
    def objective(x):
        return (1.0, np.ones(2)) if not x.any() else (np.nan, np.full(2, np.nan))

    assert step(objective, Iterate.of(objective, np.zeros(2)), Pairs(2, 5)) is None


@pytest.mark.parametrize("size", [0.0, 1e-200])
def test_pairs_too_small_to_have_a_length_are_not_remembered(size):
    pairs = Pairs(3, 5)
    pairs.add(np.full(3, size), np.full(3, size))
    assert len(pairs) == 0
