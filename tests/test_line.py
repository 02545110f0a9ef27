"""Programs of one feature over all patterns: against other solvers, certificates, and interpolation."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest

from convexgrade import ConvexReLURegressor
from convexgrade.certificate import certify_network
from convexgrade.grade import fit_grade, state_problem
from convexgrade.losses import BinaryLogLoss, SquaredError
from convexgrade.patterns import enumerate_patterns, sample_patterns
from convexgrade.point import point_at
from convexgrade.settings import Settings
from convexgrade.solution import Status
from convexgrade.solvers import cvx, line, solve_at_once


def program_of(x, y, *, alpha=0.003, weights=None, offset=0.0, loss=None, **settings):
    y = np.asarray(y, dtype=float).reshape(len(x), -1)
    weights = np.ones(len(x)) if weights is None else weights
    problem = state_problem(
        np.asarray(x, dtype=float)[:, None],
        y,
        np.full_like(y, offset),
        weights / weights.sum(),
        loss or SquaredError(),
        alpha,
        Settings(**settings),
    )
    patterns = enumerate_patterns(problem.X, limit=10_000)
    return problem.over(patterns)


def data(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.7, 1.7, n)
    return x, np.sin(5.0 * x) + 0.3 * rng.standard_normal(n)


def kinks_at_rows(program):
    """Return the optimum over functions whose kinks are at the rows: a trend filter, in CVXPY."""
    order = np.argsort(program.X[:, 0])
    x, left, weights = (a[order] for a in (program.X[:, 0], program.y[:, 0] - 0.1, program.weights))
    f = cp.Variable(x.size)
    slopes = cp.multiply(1.0 / np.diff(x), cp.diff(f))
    price = program.alpha * np.sqrt(1.0 + x[1:-1] ** 2)
    loss = 0.5 * cp.sum(cp.multiply(weights, cp.square(f - left)))
    return cp.Problem(cp.Minimize(loss + price @ cp.abs(cp.diff(slopes)))).solve(solver="CLARABEL")


def certificate(program, solution):
    network = point_at(program, solution).network(program)
    return certify_network(program, network, program.patterns, status=solution.status)


def test_neurons_without_biases_have_no_kinks_to_place():
    x, y = data(0, 40)
    assert line.suits(program_of(x, y))
    assert not line.suits(program_of(x, y, hidden_bias=False))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("linear_term", [False, True])
def test_close_to_the_optimum_of_cvxpy(seed, linear_term):
    x, y = data(seed, 40)
    weights = np.random.default_rng(seed).uniform(0.2, 3.0, 40)
    program = program_of(x, y, weights=weights, offset=0.1, linear_term=linear_term)
    found = line.solve(program)
    assert found.status is Status.OPTIMAL
    assert program.violation(found.blocks) < 1e-12
    best = cvx.solve(program, solver="clarabel")
    optimum = program.objective(best.blocks, best.unpenalised)
    objective = program.objective(found.blocks, found.unpenalised)
    assert optimum - 1e-8 <= objective <= optimum * (1.0 + 3e-3)
    assert objective == pytest.approx(kinks_at_rows(program), rel=1e-7)


@pytest.mark.parametrize("alpha", [1e-3, 1e-5, 1e-8])
def test_the_gap_of_many_rows_is_small(alpha):
    x, y = data(0, 300)
    program = program_of(x, y, alpha=alpha)
    assert certificate(program, line.solve(program)).relative_gap < 1e-5


def test_copies_of_rows_weigh_as_much_as_weights():
    x, y = data(1, 20)
    copies = program_of(np.repeat(x, 2), np.repeat(y, 2) + np.tile([0.1, -0.1], 20))
    single = program_of(x, y)
    found, expected = line.solve(copies), line.solve(single)
    f = copies.predict(found.blocks, found.unpenalised)[::2]
    np.testing.assert_allclose(f, single.predict(expected.blocks, expected.unpenalised), atol=1e-8)


def test_outputs_are_solved_side_by_side():
    x, y = data(2, 30)
    both = program_of(x, np.column_stack([y, y**2]))
    found = line.solve(both)
    f = both.predict(found.blocks, found.unpenalised)
    for k, target in enumerate((y, y**2)):
        one = program_of(x, target)
        expected = line.solve(one)
        np.testing.assert_allclose(
            f[:, k], one.predict(expected.blocks, expected.unpenalised)[:, 0], atol=1e-8
        )


@pytest.mark.parametrize("n", [30, 300])
def test_grades_of_few_rows_and_of_many_are_certified_over_all_patterns(n):
    """Between few rows a kink is better placed than at one: there, the general solver is used."""
    x, y = data(3, n)
    program = program_of(x, y, alpha=0.3 / n)
    settings = Settings(patterns="exhaustive")
    grade = fit_grade(replace(program, groups=program.groups.take(np.arange(0))), settings, (0, 0))
    assert grade.certificate.status is Status.GLOBALLY_OPTIMAL
    assert grade.certificate.relative_gap < 1e-5
    at_rows = certificate(program, line.solve(program)).primal
    assert grade.certificate.primal <= at_rows + 1e-9
    assert grade.certificate.primal > at_rows * (1.0 - 1.0 / n)


def test_little_penalty_interpolates_with_kinks_at_the_rows():
    x = np.linspace(0.0, 1.0, 200)
    y = np.sin(20.0 * x)
    model = ConvexReLURegressor(1e-10, patterns="exhaustive").fit(x[:, None], y)
    assert model.certificate_.status is Status.GLOBALLY_OPTIMAL
    new = np.linspace(0.0, 1.0, 999)
    spline = np.interp(new, x, y)
    assert np.abs(model.predict(new[:, None]) - spline).max() < 2e-5
    assert np.abs(spline - np.sin(20.0 * new)).max() > 1e-3


def test_nothing_is_solved_where_nothing_is_left_to_fit():
    x = np.linspace(-1.0, 1.0, 140)
    model = ConvexReLURegressor(patterns="exhaustive").fit(x[:, None], np.full(140, 3.0))
    assert model.certificate_.n_patterns > 100
    assert model.grades_[0].n_neurons == 0
    np.testing.assert_array_equal(model.predict(x[:, None]), 3.0)


def test_a_slope_that_has_a_price_is_left_to_others():
    x = np.linspace(-1.0, 1.0, 40)
    program = program_of(x, np.exp(2.0 * x))
    assert line.solve(program).status is Status.FAILED
    assert solve_at_once(program, solver="auto") is None
    model = ConvexReLURegressor(0.01, patterns="exhaustive").fit(x[:, None], np.exp(2.0 * x))
    assert model.certificate_.status is Status.GLOBALLY_OPTIMAL
    free = program_of(x, np.exp(2.0 * x), linear_term=True)
    assert certificate(free, line.solve(free)).relative_gap < 1e-3


def test_other_programs_are_not_for_it():
    x, y = data(4, 20)
    program = program_of(x, y)
    assert line.suits(program)
    assert solve_at_once(program, solver="clarabel") is None
    rng = np.random.default_rng(0)
    some = sample_patterns(program.X, 5, rng)
    others = [
        replace(program, cones=False),
        replace(program, loss=BinaryLogLoss()),
        program.over(some),
        program.take(np.arange(4)),
        program_of(x, y, fit_intercept=False),
        program_of([0.0, 1.0], [0.0, 1.0]),
    ]
    assert not any(line.suits(other) for other in others)
