"""Grades that raise no training residual."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from convexgrade import MultigradeRegressor, certify, pointwise
from convexgrade.datasets import load_concrete
from convexgrade.energy import rescale_within
from convexgrade.grade import fit_grade, state_problem
from convexgrade.losses import BinaryLogLoss, SquaredError
from convexgrade.patterns import enumerate_patterns
from convexgrade.point import Point, null_point
from convexgrade.pointwise import _zero_at
from convexgrade.program import Program
from convexgrade.settings import Settings
from convexgrade.solution import Status
from convexgrade.solvers import cvx
from convexgrade.working_set import solve_over
from tests.bank import make_program


def make_data(seed, n=24, k=1):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 2))
    Y = np.column_stack([np.abs(X[:, 0]) + X[:, 1], X[:, 0] * X[:, 1]])
    Y = Y + 0.3 * rng.standard_normal(Y.shape)
    return X, Y[:, 0] if k == 1 else Y


def fit(X, y, weights=None, **parameters):
    defaults = {"alpha": 0.003, "alpha_decay": 1.0, "n_grades": 2, "n_patterns": 12}
    defaults = {**defaults, "max_iter": 1, "early_stopping": False, "random_state": 0}
    return MultigradeRegressor(**{**defaults, **parameters}).fit(X, y, weights)


def residuals(model, X, y, weights):
    baseline = np.broadcast_to(np.average(y, axis=0, weights=weights), y.shape)
    return np.abs([y - baseline, *(y - p for p in model.staged_predict(X))])


def test_a_chain_ends_where_no_neuron_spares_all_residuals():
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (12, 2)).astype(float)
    model = fit(X, rng.standard_normal(12), alpha=0.01, n_grades=4, refinement="pointwise")
    assert [grade.n_neurons > 0 for grade in model.grades_] == [True]
    assert model.stop_reason_.startswith(
        "Grade 2 has no neuron: at alpha=0.01, none over the patterns tried lowers"
    )


CASES = {
    "adaptive": {},
    "sampled": {"patterns": "sampled"},
    "narrow": {"max_neurons": 3, "patterns": "sampled"},
    "linear term": {"linear_term": True},
    "gated": {"activation": "gated_relu", "patterns": "sampled"},
    "ecos": {"solver": "ecos"},
}


@pytest.mark.parametrize("case", CASES)
def test_no_training_residual_grows(case):
    X, y = make_data(0)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, len(y))
    model = fit(X, y, weights, refinement="pointwise", **CASES[case])
    sizes = residuals(model, X, y, weights)
    assert np.diff(sizes, axis=0).max() <= 1e-9
    if case == "narrow":  # so few given neurons may have nothing to add that harms no row
        assert 0 < max(grade.n_neurons for grade in model.grades_) <= 3
    else:
        assert sizes[-1].mean() < 0.8 * sizes[0].mean()


def test_what_a_solver_misses_by_does_not_undo_the_grade():
    X, y = load_concrete(return_X_y=True)
    rows = np.random.default_rng(1).choice(len(X), 50, replace=False)
    parameters = {"alpha": 0.01, "n_grades": 1, "n_patterns": 20}
    free = fit(X[rows], y[rows], **parameters)
    constrained = fit(X[rows], y[rows], refinement="pointwise", **parameters)
    # Eight times as high if residuals may end where they began.
    assert constrained.certificates_[0].primal < 1.5 * free.certificates_[0].primal


def test_equal_rows_with_targets_on_either_side_stay_where_they_are():
    X, y = make_data(0)
    X[1], y[0], y[1] = X[0], 9.0, -9.0
    y[2:] -= y[2:].mean()  # so that the mean of all is zero
    sizes = residuals(fit(X, y, refinement="pointwise"), X, y, None)
    assert np.diff(sizes, axis=0).max() <= 1e-8
    np.testing.assert_allclose(sizes[:, :2], 9.0, atol=1e-7)
    assert sizes[-1, 2:].mean() < 0.9 * sizes[0, 2:].mean()


def data_of(case):
    """Return 60 rows with ten residuals that are 0, or five rows twice with opposite residuals."""
    X = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    y = np.abs(X[:, 0]) * X[:, 1]
    y -= y.mean()
    if case == "zeros":
        y[:10] = 0.0
        y[10:] -= y[10:].mean()
        return X, y
    twice = [1, 5, 9, 13, 20]
    return np.vstack([X, X[twice]]), np.concatenate([y, 2.0 * y.mean() - y[twice]])


@pytest.mark.parametrize(("case", "highest"), [("zeros", 0.28), ("pairs", 0.28)])
def test_rows_that_must_stay_do_not_hold_the_others_back(case, highest):
    X, y = data_of(case)
    model = fit(X, y, alpha=0.01, alpha_decay=0.3, n_patterns=30, refinement="pointwise")
    assert np.diff(residuals(model, X, y, None), axis=0).max() <= 1e-9
    assert model.train_loss_[-1] < highest  # without the constraints: 0.034 and 0.217


@cache
def without_and_with():
    return tuple(fit(*make_data(0), refinement=name) for name in ("none", "pointwise"))


def test_without_it_some_residuals_grow_and_the_objective_is_lower():
    X, y = make_data(0)
    free, constrained = without_and_with()
    assert np.diff(residuals(free, X, y, None), axis=0).max() > 0.01
    assert free.certificates_[0].primal < constrained.certificates_[0].primal


def test_outputs_are_constrained_one_by_one():
    X, Y = make_data(1, n=16, k=2)
    model = fit(X, Y, n_patterns=10, refinement="pointwise")
    assert np.diff(residuals(model, X, Y, None), axis=0).max() <= 1e-9


@pytest.mark.parametrize("case", ["zeros", "pairs"])
def test_a_grade_raises_no_residual_by_more_than_is_stated(case):
    X, y = data_of(case)
    model = fit(X, y, alpha=0.01, alpha_decay=0.3, n_patterns=30, refinement="pointwise")
    sizes = residuals(model, X, y, None)
    rounding = 1e-14 * sizes.max()
    assert np.all(np.diff(sizes, axis=0).max(axis=1) <= 1e-10 * sizes[:-1].max(axis=1) + rounding)


def test_moving_back_ends_at_the_slack():
    """A grade that is on the wrong side at one row ends where that residual has grown by the slack."""
    program, point = solved(cones=True)
    network, slack = point.network(program), 1e-6
    left = program.y - program.offset
    wrong = replace(program, y=program.offset + np.where(np.arange(10)[:, None] == 3, 0.0, left))
    output = rescale_within(wrong, network, slack).forward(program.X[:, :-1])
    growth = np.abs(wrong.y - program.offset - output) - np.abs(wrong.y - program.offset)
    assert growth.max() == pytest.approx(slack)


@pytest.mark.parametrize(("seed", "alpha"), [(3, 0.01), (0, 0.05)])
def test_of_all_patterns_it_is_the_constrained_optimum(seed, alpha):
    """Not over those alone that the optimum without constraints uses: 34 % above, for the first."""
    rng = np.random.default_rng(seed)
    H = rng.standard_normal((10, 1))
    y = np.abs(H) + 0.5 * rng.standard_normal((10, 1))
    settings = Settings(refinement="pointwise", patterns="exhaustive")
    weights, offset = np.full(10, 0.1), np.full_like(y, y.mean())
    problem = state_problem(H, y, offset, weights, SquaredError(), alpha, settings)
    grade = fit_grade(problem, settings, (0, 0))
    every = enumerate_patterns(problem.X, limit=100)
    full = problem.over(every)
    best = cvx.solve(full, solver="clarabel", cap=np.abs(y - offset))
    optimum = full.objective(best.blocks, best.unpenalised)
    assert grade.certificate.primal == pytest.approx(optimum, rel=1e-4)
    assert grade.certificate.price_is_exact
    assert grade.n_neurons <= 6  # of 38 groups


def test_certificates_and_energies_stay_true():
    X, y = make_data(0)
    free, model = without_and_with()
    first = model.certificates_[0]
    assert first.status is Status.POINTWISE
    assert first.dual <= free.certificates_[0].primal + 1e-12 <= first.primal
    for stored, again in zip(model.certificates_, certify(model, X, y), strict=True):
        assert stored.primal == pytest.approx(again.primal)
        assert again.gap >= -1e-12
    for energy in model.energy_:
        assert energy.before == pytest.approx(sum(energy[1:]), abs=1e-12)
        assert energy.defect >= -1e-12  # the error falls by at least output and penalty


def solved(*, cones):
    X, Y = make_data(2, n=10, k=2)
    program = make_program(np.c_[X, np.ones(10)], Y, alpha=0.01, cones=cones, free=[2])
    start = null_point(program, program.patterns)
    return program, solve_over(program, program.patterns, start, solver="auto", tol=1e-6)


def variables(point: Point):
    return np.concatenate([point.blocks.ravel(), point.unpenalised.ravel()])


def responses(program: Program, point: Point, held):
    """The matrix by which outputs that are held depend on the variables, column by column."""
    over = program.over(point.patterns, point.groups)
    columns = []
    for unit in np.eye(variables(point).size):
        blocks, free = np.split(unit, [point.blocks.size])
        output = over.predict(blocks.reshape(point.blocks.shape), free.reshape(1, 2))
        columns.append((output - program.offset)[held])
    return np.transpose(columns)


@pytest.mark.parametrize("cones", [True, False])
def test_the_nearest_point_that_is_zero_at_given_rows(cones):
    program, point = solved(cones=cones)
    kinked = cones & (np.abs(program.X @ point.blocks.T) < 1e-3)
    first, second, third, *_ = np.flatnonzero(~kinked.any(axis=1))
    held = np.zeros((10, 2), dtype=bool)
    held[[first, second], 0] = held[third, 1] = True
    found = _zero_at(program, point, held)
    output = (found.prediction(program) - program.offset)[held]
    np.testing.assert_allclose(output, 0.0, atol=1e-12)
    A, before = responses(program, point, held), variables(point)
    nearest = before - np.linalg.pinv(A) @ (A @ before)
    np.testing.assert_allclose(variables(found), nearest, atol=1e-10)
    over = program.over(point.patterns, point.groups)
    assert found.objective == pytest.approx(over.objective(found.blocks, found.unpenalised))


def test_kinks_stay_at_rows_at_which_outputs_become_zero():
    program, point = solved(cones=True)
    row, blocks = program.X[3], point.blocks.copy()
    feeds = np.flatnonzero(point.groups.output == 0)[:2]
    blocks[feeds] -= np.outer(blocks[feeds] @ row, row) / (row @ row)  # kinks at this row
    held = np.zeros((10, 2), dtype=bool)
    held[3, 0] = True
    found = _zero_at(program, replace(point, blocks=blocks), held)
    np.testing.assert_allclose(found.blocks[feeds] @ row, 0.0, atol=1e-12)
    assert abs((found.prediction(program) - program.offset)[3, 0]) <= 1e-12
    untouched = point.groups.output == 1
    np.testing.assert_array_equal(found.blocks[untouched], blocks[untouched])


def test_nothing_moves_where_no_row_is_held():
    program, point = solved(cones=True)
    assert _zero_at(program, point, np.zeros((10, 2), dtype=bool)) is point


def test_other_losses_are_refused():
    rng = np.random.default_rng(0)
    H, y = rng.standard_normal((20, 2)), rng.integers(0, 2, (20, 1)).astype(float)
    settings = Settings(refinement="pointwise", n_patterns=5, max_iter=1)
    problem = state_problem(
        H, y, np.zeros_like(y), np.full(20, 0.05), BinaryLogLoss(), 0.01, settings
    )
    with pytest.raises(ValueError, match="needs loss='squared_error'; this is 'log_loss'"):
        fit_grade(problem, settings, (0, 0))


def test_a_correction_would_undo_it():
    model = MultigradeRegressor(refinement="pointwise", correction="backward")
    with pytest.raises(
        ValueError, match="refinement='pointwise' and correction='backward' exclude"
    ):
        model.fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.0])


def test_a_grade_whose_constrained_solves_fail_says_so(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = np.column_stack([rng.standard_normal((12, 2)), np.ones(12)]), rng.standard_normal(12)
    program = make_program(X, y, alpha=0.01, free=[2])
    point = solve_over(program, program.patterns, None, solver="auto", tol=1e-6)
    assert len(point.groups) > 0
    caps = []

    def failing(program, point, groups, cap, *, solver):
        caps.append(cap.max())
        return replace(null_point(program, point.patterns), status=Status.FAILED)

    monkeypatch.setattr(pointwise, "solve_groups_within", failing)
    found, network = pointwise.refine_pointwise(program, point, solver="auto", fixed=True)
    assert found.status is Status.FAILED
    assert caps[0] < caps[1] == np.abs(y).max()  # with a margin, then without
    assert network.n_neurons == 0


def test_rows_that_differ_by_rounding_pin_each_other():
    X = np.array([[1.0, 1.0], [1.0 + 1e-10, 1.0], [1.1, 1.0]])
    left = np.array([[1.0], [-1.0], [-1.0]])
    assert pointwise._pinned(X, left, 1e-6)[:, 0].tolist() == [True, True, False]
