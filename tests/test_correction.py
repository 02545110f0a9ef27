"""Backward feature correction: monotone, convex where it says so, and honest about what remains."""

import pickle
import warnings
from dataclasses import replace
from functools import cache
from itertools import pairwise
from unittest.mock import Mock

import cvxpy as cp
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._param_validation import InvalidParameterError

from convexgrade import (
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeRegressor,
    MultigradeRegressorCV,
    certify,
    correct,
    correction,
    descent,
)
from convexgrade.backpropagation import each_output, frozen_grades, pulled_back
from convexgrade.correction import (
    Limits,
    correct_chain,
    model_of,
)
from convexgrade.datasets import make_depth_separation
from convexgrade.descent import descended, objective
from convexgrade.estimators import deep
from convexgrade.estimators.held_out import ManyGrades
from convexgrade.export import TableModel, load_model, save_model
from convexgrade.kronecker import KroneckerSystem
from convexgrade.lasso import minimise_l1
from convexgrade.losses import SquaredError
from convexgrade.readouts import refit_readouts
from convexgrade.selection import Fold, Tried
from convexgrade.solution import Status
from convexgrade.span import Span
from convexgrade.table_columns import encode, learn_columns

TARGETS = ["one", "two", "binary", "softmax"]
SMALL = {
    "n_grades": 2,
    "alpha": 0.01,
    "alpha_decay": 1.0,
    "patterns": "sampled",
    "n_patterns": 8,
    "early_stopping": False,
    "random_state": 0,
}
CROSS_VALIDATED = {
    **{name: value for name, value in SMALL.items() if name not in ("alpha", "early_stopping")},
    "alphas": [0.01],
    "cv": 2,
}


def make_data(kind, n=40):
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, 2))
    y = np.abs(np.abs(X[:, 0]) + X[:, 1] - 0.5)
    if kind == "one":
        return X, y
    if kind == "two":
        return X, np.column_stack([y, np.sin(2 * X[:, 0])])
    return X, np.digitize(y, [0.8] if kind == "binary" else [0.4, 1.0])


def fitted(kind, **parameters):
    model = fitted_with(kind, **parameters) if parameters else plain(kind)
    return model, *make_data(kind)


def fitted_with(kind, **parameters):
    estimator = MultigradeRegressor if kind in ("one", "two") else MultigradeClassifier
    return estimator(**{**SMALL, **parameters}).fit(*make_data(kind))


@cache
def plain(kind):
    """Return a chain that no test changes."""
    return fitted_with(kind)


def parts(kind, **parameters):
    """Return chain, data and plan of a fitted estimator, the chain as corrections see it."""
    model, X, y = fitted(kind, **parameters)
    return (
        model._progress.chain.unlimited(),
        model._training_data(X, y, None),
        model._plan(model.alpha_),
    )


def moved(chain, index, V):
    """Return the chain with the weights of a grade changed by V."""
    network = chain.grades[index].network
    U = network.vectors + V
    moved = replace(network, hidden_coef=U[:-1], hidden_intercept=U[-1])
    return chain.with_network(index, moved)


def off_the_kinks(chain, plan):
    """Move all weights a little: the neurons of an optimal grade pass exactly through rows."""
    rng = np.random.default_rng(5)
    for index, grade in enumerate(chain.grades):
        U = grade.network.vectors
        V = 0.02 * np.abs(U).max(initial=0.0) * rng.standard_normal(U.shape)
        V[-1] *= plan.settings_of(index).hidden_bias
        chain = moved(chain, index, V)
    return chain


# --- linear algebra -----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k", "way"), [(90, 2, "normal"), (9, 2, "dual")])
def test_kronecker_systems_are_solved_as_if_the_matrix_were_formed(n, k, way, monkeypatch):
    rng = np.random.default_rng(0)
    H, G = rng.standard_normal((n, 4)), rng.standard_normal((n, k, 5))
    B, D = rng.standard_normal((4, 5)), rng.uniform(0.5, 2.0, 5)
    J = np.einsum("ip,ikj->ikpj", H, G).reshape(n * k, 20)
    expected = np.linalg.solve(J.T @ J + np.diag(np.tile(D, 4)), B.ravel()).reshape(4, 5)
    system = KroneckerSystem(H, G)
    assert system.method() == way
    np.testing.assert_allclose(system.solve(B, D), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(system.apply(B).ravel(), J @ B.ravel(), rtol=1e-12)
    monkeypatch.setattr("convexgrade.kronecker._NORMAL", 0)
    monkeypatch.setattr("convexgrade.kronecker._DUAL", 0)
    assert system.method() == "iterative"
    error = np.linalg.norm(system.solve(B, D) - expected)
    assert error < 2e-2 * np.linalg.norm(expected)


def l1_excess(curvature, linear, weights, start):
    """Return by how much `minimise_l1` fails the optimality conditions, over the gradient at 0."""
    x = minimise_l1(curvature, linear, weights, start)
    gradient = curvature @ x - linear
    at_zero = (x == 0.0) & (weights > 0.0)
    failed = np.where(at_zero, np.abs(gradient) - weights, np.abs(gradient + weights * np.sign(x)))
    assert at_zero.any()
    return failed.max() / np.abs(linear).max()


@pytest.mark.parametrize("seed", range(6))
def test_minimise_l1_meets_the_optimality_conditions(seed):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((12, 9))
    A[:, 8] = A[:, 7]  # dependent columns
    weights = np.where(np.arange(9) < 2, 0.0, 3.0)
    start = rng.standard_normal(9) * (rng.random(9) < 0.5)
    assert l1_excess(A.T @ A, 4.0 * rng.standard_normal(12) @ A, weights, start) <= 1e-9


@pytest.mark.parametrize("seed", [148, 298, 852, 1234])
def test_minimise_l1_is_not_stopped_by_rounding_before_all_variables_have_joined(seed):
    """Columns of all sizes: rounding hides the last steps among the large ones, in few problems."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((60, 30)) * 10.0 ** rng.uniform(-2.0, 2.0, 30)
    weights = np.full(30, 0.3 * np.abs(A).mean())
    start = rng.standard_normal(30) * (rng.random(30) < 0.5)
    assert l1_excess(A.T @ A, rng.standard_normal(60) @ A, weights, start) <= 1e-8


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1e7])
def test_minimise_l1_does_not_depend_on_the_unit_of_a_variable(unit):
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((40, 5)), rng.standard_normal(40)
    units, weights = np.array([1.0, unit, 1.0, 1.0, 1.0]), np.array([2.0, 2.0, 0.0, 2.0, 9.0])
    plain = minimise_l1(A.T @ A, y @ A, weights, np.zeros(5))
    B = A * units
    found = minimise_l1(B.T @ B, y @ B, weights * units, np.zeros(5))
    assert plain[1] != 0.0
    np.testing.assert_allclose(found * units, plain, rtol=1e-8)


def test_minimise_l1_stays_where_a_step_is_beyond_numbers():
    x = minimise_l1(1e200 * np.eye(2), np.array([1e260, 1.0]), np.zeros(2), np.zeros(2))
    assert np.isfinite(x).all()


# --- the Jacobian -------------------------------------------------------------------------------

HANDOVERS = [
    {},
    {"passthrough": "output", "keep_inputs": False},
    {"passthrough": "both"},
    {"linear_term": True},
    {"activation": "gated_relu"},
    {"first_bias": False},
    {"whiten": True},
]


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("one", p) for p in HANDOVERS] + [("softmax", p) for p in HANDOVERS[1:3]],
)
def test_the_output_answers_to_weights_as_the_jacobian_says(kind, parameters):
    """Central differences: exact to rounding, as the output is piecewise linear in a grade's weights.

    The rows are kept which no neuron's hyperplane passes in between.
    """
    chain, data, plan = parts(kind, n_grades=3, **parameters)
    chain = off_the_kinks(chain, plan)
    found, _ = frozen_grades(chain, data.X)
    rng = np.random.default_rng(0)
    for index, by_response, _ in pulled_back(chain, found, each_output(chain, len(data.X))):
        V = 1e-6 * rng.standard_normal(chain.grades[index].network.vectors.shape)
        V[-1] *= plan.settings_of(index).hidden_bias
        ends = [moved(chain, index, V), moved(chain, index, -V)]
        steady = np.ones(len(data.X), dtype=bool)
        for end in ends:
            for layer, other in zip(found, frozen_grades(end, data.X)[0], strict=True):
                steady &= (layer.active == other.active).all(axis=1)
        assert steady.mean() > 0.9
        measured = 0.5 * (ends[0].output(data.X) - ends[1].output(data.X))
        predicted = KroneckerSystem(found[index].H, by_response).apply(V)
        np.testing.assert_allclose(
            predicted[steady], measured[steady], rtol=1e-5, atol=1e-6 * np.abs(predicted).max()
        )


@pytest.mark.parametrize("kind", TARGETS)
def test_the_model_has_the_slope_of_the_true_objective(kind):
    chain, data, plan = parts(kind)
    chain = off_the_kinks(chain, plan)
    found, output = frozen_grades(chain, data.X)
    for index, by_response, _ in pulled_back(chain, found, each_output(chain, len(data.X))):
        model = model_of(chain.grades[index], found[index], by_response, output, data, plan.loss)
        V = np.random.default_rng(1).standard_normal(model.slope.shape)
        ends = [objective(moved(chain, index, t * V), data, plan.loss) for t in (1e-6, -1e-6)]
        assert np.sum(model.slope * V) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        *[("one", p) for p in HANDOVERS],
        ("one", {"activation": "gated_relu"}),
        ("two", {"linear_term": True}),
        ("softmax", {"fit_intercept": False}),
        ("softmax", HANDOVERS[1]),
    ],
)
def test_the_gradient_of_all_weights_is_that_of_the_true_objective(kind, parameters):
    """Central differences along a random direction, off the kinks: output weights of 0 stay."""
    chain, data, plan = parts(kind, n_grades=3, **parameters)
    chain = off_the_kinks(chain, plan)
    fields = [descent._moving(chain, index) for index in range(len(chain))]
    x = descent._packed([grade.network for grade in chain.grades], fields)
    value, gradient = descent._value_and_gradient(chain, fields, data, plan.loss)
    assert value == pytest.approx(objective(chain, data, plan.loss), rel=1e-12)
    way = np.where(x == 0.0, 0.0, np.random.default_rng(2).standard_normal(x.size))
    ends = [
        objective(descent._unpacked(x + t * way, chain, fields), data, plan.loss)
        for t in (1e-7, -1e-7)
    ]
    assert gradient @ way == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-4)


@pytest.mark.parametrize("kind", ["two", "softmax"])
def test_the_gradient_at_a_weight_of_zero_is_the_least_of_its_interval(kind):
    """Between the slopes to the left and to the right: 0, where no way leads down."""
    chain, data, plan = parts(kind, n_grades=2)
    chain = off_the_kinks(chain, plan)
    fields = [descent._moving(chain, index) for index in range(len(chain))]
    x = descent._packed([grade.network for grade in chain.grades], fields)
    value, gradient = descent._value_and_gradient(chain, fields, data, plan.loss)
    zeros = np.flatnonzero(x == 0.0)
    stays = []
    for at in zeros[:: max(1, zeros.size // 12)]:
        right, left = (
            (objective(descent._unpacked(moved, chain, fields), data, plan.loss) - value) / t
            for t in (1e-6, -1e-6)
            for moved in [np.where(np.arange(x.size) == at, t, x)]
        )
        assert left < right
        assert gradient[at] == pytest.approx(np.clip(0.0, left, right), rel=1e-3, abs=1e-7)
        stays.append(gradient[at] == 0.0)
    assert any(stays)


@pytest.mark.parametrize("kind", TARGETS)
def test_descent_of_all_weights_lowers_the_objective_as_scipy_does(kind):
    chain, data, plan = parts(kind)
    start = refit_readouts(chain, data, plan.loss)
    fields = [descent._moving(start, index) for index in range(len(start))]

    def evaluate(x):
        there = descent._unpacked(x, start, fields)
        return descent._value_and_gradient(there, fields, data, plan.loss)

    x = descent._packed([grade.network for grade in start.grades], fields)
    scipys = minimize(evaluate, x, jac=True, method="L-BFGS-B", options={"maxiter": 200}).fun
    ours = objective(descended(start, data, plan.loss, 200, lambda: True), data, plan.loss)
    before = objective(start, data, plan.loss)
    assert before - ours > 0.75 * (before - scipys) > 0.0
    assert descended(start, data, plan.loss, 200, lambda: False) is start


def test_descent_ends_where_steps_gain_next_to_nothing(monkeypatch):
    """Of a chain without neurons, whose intercept is all that moves."""
    chain, data, plan = parts("one", alpha=1e3)
    evaluated, evaluate = [], descent._value_and_gradient

    def counted(*arguments):
        evaluated.append(arguments)
        return evaluate(*arguments)

    monkeypatch.setattr(descent, "_value_and_gradient", counted)
    found = descended(chain, data, plan.loss, 1000, lambda: True)
    assert objective(found, data, plan.loss) <= objective(chain, data, plan.loss) + 1e-15
    assert len(evaluated) < 100


@pytest.mark.parametrize("outputs", [1, 2])
def test_rows_on_hyperplanes_do_not_keep_a_correction_where_it_began(outputs):
    """There is no derivative: no step of one grade lowers the objective, nor one of all weights."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 2)), rng.poisson(2, (60, 2)).astype(float)
    model = MultigradeRegressor(
        0.01, n_grades=2, n_patterns=5, early_stopping=False, random_state=0
    ).fit(X, y[:, :outputs])
    path = correct(model, X, y[:, :outputs]).objective_path_
    assert path[2] < 0.9 * path[1]


# --- monotone correction ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
def test_the_objective_never_rises_and_is_the_true_one(kind):
    chain, data, plan = parts(kind)
    correction = correct_chain(chain, data, plan.loss, "backward", Limits(max_sweeps=6))
    path = correction.objective_path
    assert all(after <= before for before, after in pairwise(path))
    assert path[-1] < 0.9 * path[0]
    weights = np.full(len(data.X), 1.0 / len(data.X))
    output = correction.chain.output(data.X)
    penalty = sum(
        g.alpha
        * np.linalg.norm(g.network.vectors, axis=0)
        @ np.abs(g.network.output_coef).sum(axis=1)
        for g in correction.chain.grades
    )
    assert path[-1] == pytest.approx(weights @ plan.loss.value(output, data.y) + penalty, rel=1e-12)


@pytest.mark.parametrize("parameters", HANDOVERS[1:])
def test_every_kind_of_chain_can_be_corrected(parameters):
    model, X, y = fitted("one", **parameters)
    corrected = correct(model, X, y, max_sweeps=3)
    assert np.all(np.diff(corrected.objective_path_) <= 0.0)
    assert corrected.objective_path_[-1] < corrected.objective_path_[0]
    np.testing.assert_allclose(corrected.network_.forward(X)[:, 0], corrected.predict(X), rtol=1e-9)


def test_large_systems_take_the_same_way_down(monkeypatch):
    chain, data, plan = parts("one")
    exact = correct_chain(chain, data, plan.loss, "backward", Limits(max_sweeps=5))
    monkeypatch.setattr("convexgrade.kronecker._NORMAL", 0)
    monkeypatch.setattr("convexgrade.kronecker._DUAL", 0)
    iterated = correct_chain(chain, data, plan.loss, "backward", Limits(max_sweeps=5))
    falls = [c.objective_path[0] - c.objective_path[-1] for c in (iterated, exact)]
    assert falls[0] > 0.8 * falls[1]


# --- readouts -----------------------------------------------------------------------------------


def _convex_optimum(chain, data, plan, kind):
    """State the joint fit of all readouts in CVXPY."""
    features = [
        link.grade.network.hidden(step.H)
        for step, link in zip(chain.walk(data.X), chain.links, strict=False)
    ]
    costs = [g.alpha * np.linalg.norm(g.network.vectors, axis=0) for g in chain.grades]
    Phi, cost = np.hstack(features), np.concatenate(costs)
    k = data.y.shape[1]
    A, b = cp.Variable((Phi.shape[1], k)), cp.Variable((1, k))
    f = Phi @ A + np.ones((len(Phi), 1)) @ b
    if kind in ("one", "two"):
        losses = 0.5 * cp.sum(cp.square(f - data.y), axis=1)
    elif kind == "binary":
        losses = cp.sum(cp.logistic(f) - cp.multiply(data.y, f), axis=1)
    else:
        losses = cp.log_sum_exp(f, axis=1) - cp.sum(cp.multiply(data.y, f), axis=1)
    penalty = cost @ cp.sum(cp.abs(A), axis=1)
    problem = cp.Problem(cp.Minimize(data.weights @ losses + penalty))
    # Its own 1e-8, rounding keeps older versions from; the test asks for 1e-6.
    return problem.solve(solver=cp.CLARABEL, tol_gap_rel=1e-7, tol_feas=1e-7)


@pytest.mark.parametrize("kind", TARGETS)
def test_readouts_are_the_optimum_of_their_convex_program(kind):
    chain, data, plan = parts(kind)
    refitted = refit_readouts(chain, data, plan.loss)
    reached = objective(refitted, data, plan.loss)
    assert reached == pytest.approx(_convex_optimum(chain, data, plan, kind), rel=1e-6)
    for before, after in zip(chain.grades, refitted.grades, strict=True):
        np.testing.assert_array_equal(before.network.vectors, after.network.vectors)


def test_readouts_alone_are_a_method():
    model, _, _ = fitted("one", correction="readouts")
    assert len(model.objective_path_) == 2
    assert model.objective_path_[1] < model.objective_path_[0]


@pytest.mark.parametrize("early", [False, True])
def test_the_last_grade_with_an_intercept_bears_it_for_all(early):
    """Grades that were fitted with other parameters keep to those."""
    model, X, y = fitted("one", early_stopping=False, warm_start=True, fit_intercept=early)
    later = {"fit_intercept": not early, "linear_term": True, "alpha": 1e-4}
    model.set_params(n_grades=3, **later).fit(X, y)
    corrected = correct(model, X, y, method="readouts")
    assert corrected.objective_path_[1] < corrected.objective_path_[0]
    changed = [
        np.any(a.network.intercept != b.network.intercept)
        for a, b in zip(model.grades_, corrected.grades_, strict=True)
    ]
    assert changed == [False, early, not early]
    linear = [np.any(grade.network.linear_coef) for grade in corrected.grades_]
    assert linear == [False, False, True]
    assert corrected.certificates_ == certify(corrected.set_params(linear_term=False), X, y)


@cache
def linear_chain(passthrough):
    """A chain with linear terms, and its rows."""
    rng = np.random.default_rng(11)
    X = rng.standard_normal((70, 3))
    X[:, 2] = X[:, 0] + 1e-9 * X[:, 2]  # one that no linear term tells from another
    y = np.abs(X[:, 0]) + X[:, 1] * X[:, 0] + 0.1 * rng.standard_normal(70)
    model = MultigradeRegressor(
        0.003,
        n_grades=3,
        n_patterns=8,
        passthrough=passthrough,
        linear_term=True,
        early_stopping=False,
        random_state=0,
    ).fit(X, y)
    return model, X, y


@pytest.mark.parametrize("passthrough", ["hidden", "output", "both"])
@pytest.mark.parametrize("method", ["readouts", "backward"])
def test_linear_terms_of_later_grades_do_not_take_over(method, passthrough):
    """They pay nothing for features of earlier grades: with them, coefficients went into thousands."""
    model, X, y = linear_chain(passthrough)
    assert model.n_grades_ == 3
    corrected = correct(model, X, y, method=method, max_sweeps=10)
    # Where grades read the output so far, readouts refit the last one alone.
    moves = method == "backward" or passthrough == "hidden"
    path = corrected.objective_path_
    assert path[-1] <= path[0]
    assert (path[-1] < 0.9 * path[0]) == moves
    before, after = ([g.network.linear_coef for g in m.grades_] for m in (model, corrected))
    assert np.abs(after[0]).max() < 10.0 * np.abs(before[0]).max()
    assert np.any(after[0] != before[0]) == moves
    for was, now in zip(before[1:], after[1:], strict=True):
        np.testing.assert_array_equal(was, now)
    for certificate in corrected.certificates_:
        assert certificate.gap >= 0.0


def test_limits_on_sweeps_do_not_touch_readouts_which_make_none():
    model, X, y = fitted("one")
    plain = correct(model, X, y, method="readouts")
    limited = correct(model, X, y, method="readouts", max_sweeps=1, max_seconds=1e-9, tol=0.5)
    np.testing.assert_array_equal(plain.objective_path_, limited.objective_path_)
    np.testing.assert_array_equal(plain.predict(X), limited.predict(X))
    for before, after in zip(model.grades_, limited.grades_, strict=True):
        known = set(map(tuple, before.network.vectors.T))
        assert set(map(tuple, after.network.vectors.T)) <= known  # some do nothing any more


# --- estimators ---------------------------------------------------------------------------------


def test_a_row_of_weight_two_is_the_row_twice():
    X, y = make_data("one")
    weights = np.ones(len(X))
    weights[:20] = 2.0
    model = MultigradeRegressor(**SMALL, correction="backward")
    weighted = model.fit(X, y, weights).predict(X)
    doubled = model.fit(np.vstack([X, X[:20]]), np.append(y, y[:20])).predict(X)
    np.testing.assert_allclose(weighted, doubled, rtol=1e-9)


def test_the_given_estimator_is_untouched():
    model, X, y = fitted("one")
    before = pickle.dumps(model)
    corrected = correct(model, X, y, max_sweeps=2)
    assert pickle.dumps(model) == before
    assert model.correction == "none"
    assert model.objective_path_.size == 0
    assert corrected.correction == "backward"
    assert corrected.train_loss_[-1] != model.train_loss_[-1]


def test_fit_corrects_as_correct_does():
    model, X, y = fitted("one")
    directly = MultigradeRegressor(**SMALL, correction="backward").fit(X, y)
    np.testing.assert_array_equal(directly.predict(X), correct(model, X, y).predict(X))


@pytest.mark.parametrize("kind", ["two", "softmax"])
def test_a_corrected_chain_does_all_that_a_chain_does(kind, tmp_path):
    model, X, y = fitted(kind)
    corrected = correct(model, X, y, max_sweeps=3)
    stages = list(corrected.staged_predict(X))
    assert len(stages) == 2
    np.testing.assert_array_equal(stages[-1], corrected.predict(X))
    again = pickle.loads(pickle.dumps(corrected))
    np.testing.assert_array_equal(again.predict(X), corrected.predict(X))
    output = corrected.network_.forward(X)
    if kind == "two":
        np.testing.assert_allclose(output, corrected.predict(X), rtol=1e-9, atol=1e-12)
    else:
        np.testing.assert_allclose(output, corrected.decision_function(X), rtol=1e-9, atol=1e-9)


def test_a_corrected_chain_can_be_saved(tmp_path):
    pd = pytest.importorskip("pandas")
    X, y = make_data("one")
    frame = pd.DataFrame(X, columns=["a", "b"])
    columns = learn_columns(frame)
    rows = encode(columns, frame)
    model = MultigradeRegressor(**SMALL, correction="backward").fit(rows, y)
    save_model(TableModel.from_estimator(model, columns, "y"), tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    np.testing.assert_allclose(loaded.predict(frame), model.predict(rows), rtol=1e-9)
    assert Status.CORRECTED.value in loaded.describe()


def test_certificates_of_a_corrected_chain_say_so_and_stay_true():
    model, X, y = fitted("one")
    corrected = correct(model, X, y)
    certificates = certify(corrected, X, y)
    assert certificates == corrected.certificates_
    assert all(c.status is Status.CORRECTED for c in certificates)
    assert "not the optimum of its own program" in str(certificates[0])
    assert certificates[0].relative_gap > model.tol
    # The bound is the one of the grade's own program: the grade as fitted cannot lie below it.
    assert certificates[0].dual <= model.certificates_[0].primal + 1e-9
    assert all(c.gap >= -1e-12 for c in certificates)


def test_grades_of_more_patterns_than_can_be_listed_once_corrected_keep_those_of_the_fit():
    """Two neurons shared a kink, and what the second grade reads had one dimension less."""
    X = np.linspace(-1.0, 1.0, 60)[:, None]
    y = np.abs(X[:, 0] - X[33, 0]) + 0.15 * np.sin(9.0 * X[:, 0])
    parameters = {**SMALL, "alpha": 0.1, "patterns": "exhaustive", "max_neurons": 3}
    model = MultigradeRegressor(**parameters).fit(X, y)
    corrected = correct(model, X, y, max_sweeps=3)
    assert corrected.objective_path_[-1] < corrected.objective_path_[0]
    certificates = certify(corrected, X, y)
    assert certificates == corrected.certificates_
    for certificate, grade in zip(certificates, corrected.grades_, strict=True):
        assert not certificate.price_is_exact
        assert not grade.exhaustive
        assert -1e-12 <= certificate.gap < np.inf


@pytest.mark.parametrize(
    "model",
    [
        MultigradeRegressor(**SMALL, correction="backward"),
        MultigradeRegressor(**{**SMALL, "early_stopping": True}, correction="backward"),
        MultigradeRegressorCV(**CROSS_VALIDATED, correction="backward"),
    ],
)
def test_an_interrupted_correction_leaves_no_chain_that_claims_to_be_complete(model, monkeypatch):
    X, y = make_data("one", n=70)
    monkeypatch.setattr(deep, "correct_progress", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_grades_ == 2
    assert model.stop_reason_ == ""
    assert len(model.objective_path_) == 0
    assert np.isfinite(model.predict(X)).all()


def test_early_stopping_keeps_a_correction_only_where_held_out_rows_agree():
    X, y = make_data("one", n=70)
    noisy = y + np.random.default_rng(0).standard_normal(len(y))
    options = {**SMALL, "early_stopping": True, "validation_fraction": 0.5}
    outcomes = []
    for target in (y, noisy):
        greedy = MultigradeRegressor(**options).fit(X, target)
        model = MultigradeRegressor(**options, correction="backward").fit(X, target)
        assert model.validation_loss_[-1] <= greedy.validation_loss_[-1]
        changed = model.train_loss_[-1] != greedy.train_loss_[-1]
        assert changed == (model.validation_loss_[-1] < greedy.validation_loss_[-1])
        assert model._progress.chain.corrected == changed
        assert (len(model.objective_path_) == 1) == (not changed)
        first = greedy.train_loss_[-1] + sum(g.alpha * g.network.path_norm for g in greedy.grades_)
        assert model.objective_path_[0] == pytest.approx(first)
        outcomes.append(changed)
    assert any(outcomes)


def test_folds_keep_a_correction_only_where_it_lowers_their_loss():
    X, y = make_data("one", n=70)
    noisy = y + np.random.default_rng(0).standard_normal(len(y))
    for target, better in ((y, True), (noisy, False)):
        greedy = MultigradeRegressorCV(**CROSS_VALIDATED).fit(X, target)
        model = MultigradeRegressorCV(**CROSS_VALIDATED, correction="backward").fit(X, target)
        assert (model.validation_loss_[-1] < greedy.validation_loss_[-1]) == better
        assert (len(model.objective_path_) > 1) == better
        expected = correct(greedy, X, target) if better else greedy
        np.testing.assert_array_equal(model.predict(X), expected.predict(X))
        assert model.stop_reason_ == greedy.stop_reason_
        assert model.cv_results_["params"] == greedy.cv_results_["params"]


def test_grades_can_be_added_to_a_corrected_chain():
    X, y = make_data("one")
    options = {**SMALL, "alpha": 1e-4, "correction": "backward", "warm_start": True}
    model = MultigradeRegressor(**options).fit(X, y)
    before = model.train_loss_[-1]
    model.set_params(n_grades=3).fit(X, y)
    assert model.n_grades_ == 3
    assert model.train_loss_[-1] < before


def test_rows_may_be_held_out_from_a_later_fit_on():
    X, y = make_data("one")
    options = {**SMALL, "correction": "backward", "warm_start": True}
    model = MultigradeRegressor(**options).fit(X, y)
    before = model.predict(X)
    model.set_params(early_stopping=True, validation_fraction=0.5).fit(X, y)
    assert len(model.validation_loss_) == 2  # a chain that was corrected stays one
    assert model._progress.chain.corrected
    assert model.objective_path_[-1] < model.objective_path_[0]
    assert not np.array_equal(model.predict(X), before)


def test_a_corrected_chain_stays_one_where_held_out_rows_would_not_have_it(monkeypatch):
    X, y = make_data("one")
    model = MultigradeRegressor(**SMALL, correction="readouts", warm_start=True).fit(X, y)
    monkeypatch.setattr(
        ManyGrades,
        "_losses_corrected",
        lambda self, tried, *_: tuple(2.0 * loss for loss in tried.losses),
    )
    model.set_params(early_stopping=True, validation_fraction=0.5).fit(X, y)
    assert model._progress.chain.corrected
    assert len(model.objective_path_) > 1


def test_losses_of_corrected_chains_are_those_of_predictions():
    model, *_ = fitted("one")
    _, data, plan = parts("one")
    plan = replace(plan, span=Span(np.zeros(1), np.zeros(1)))
    tried = Tried(plan.alpha, (model._progress,), (1.0, 1.0))
    corrects = MultigradeRegressor(correction="readouts")
    losses = corrects._losses_corrected(tried, [Fold(data, data)], plan)
    np.testing.assert_allclose(losses, 0.5 * data.weights @ data.y[:, 0] ** 2)


def test_the_energy_identity_of_a_corrected_chain_shows_its_defect():
    model, X, y = fitted("one")
    corrected = correct(model, X, y)
    assert all(abs(e.defect) < 1e-12 for e in model.energy_)
    assert max(abs(e.defect) for e in corrected.energy_) > 1e-6
    assert corrected.energy_[-1].after == pytest.approx(2 * corrected.train_loss_[-1], rel=1e-9)


def test_the_penalty_can_be_another_one():
    model, X, y = fitted("one")
    loose = correct(model, X, y, alpha=1e-4, max_sweeps=5)
    assert [grade.alpha for grade in loose.grades_] == [1e-4, 1e-4]
    assert [grade.alpha for grade in model.grades_] == [0.01, 0.01]
    penalty = sum(1e-4 * grade.network.path_norm for grade in loose.grades_)
    assert loose.objective_path_[-1] == pytest.approx(loose.train_loss_[-1] + penalty, rel=1e-9)
    before = sum(1e-4 * grade.network.path_norm for grade in model.grades_)
    assert loose.objective_path_[0] == pytest.approx(model.train_loss_[-1] + before, rel=1e-9)
    assert loose.train_loss_[-1] < model.train_loss_[-1]


def test_limits_end_the_correction():
    model, X, y = fitted("one")
    assert len(correct(model, X, y, max_sweeps=1).objective_path_) == 3
    hurried = correct(model, X, y, max_seconds=1e-9)
    assert np.all(np.diff(hurried.objective_path_) <= 0.0)
    assert len(hurried.objective_path_) == 3
    assert len(correct(model, X, y, tol=0.5).objective_path_) < 8


@pytest.mark.parametrize("passthrough", ["output", "hidden"])
def test_a_corrected_chain_has_no_neurons_that_do_nothing(passthrough):
    """Some fade where the second grade has more neurons than what it reads asks for, one number."""
    X, y = make_depth_separation(400, 3, random_state=0)
    model = MultigradeRegressor(
        **{**SMALL, "alpha": 3e-4, "patterns": "adaptive"},
        passthrough=passthrough,
        keep_inputs=False,
        first_bias=False,
    ).fit(X, y)
    path = correct_chain(
        model._progress.chain,
        model._training_data(X, y, None),
        SquaredError(),
        "backward",
        Limits(),
    )
    last = path.chain.grades[-1].network
    assert 0 < last.n_neurons < model.grades_[-1].n_neurons
    assert np.all(last.lengths * last.output_sizes > 1e-16 * last.path_norm)
    kept = path.chain.grades[0].n_neurons
    assert kept == model.grades_[0].n_neurons or passthrough == "output"
    after = objective(path.chain, model._training_data(X, y, None), SquaredError())
    assert after == pytest.approx(path.objective_path[-1], rel=1e-12)


def test_a_correction_ends_once_a_sweep_gains_less_than_a_share_of_the_objective():
    model, X, y = fitted("one", alpha=1e-4)
    path = np.array(correct(model, X, y, tol=1e-2).objective_path_)
    falls = -np.diff(path[1:]) / path[2:]
    assert 1 < falls.size < 25
    assert np.all(falls[:-1] > 1e-2)
    assert falls[-1] <= 1e-2


@pytest.mark.parametrize("intercept", [True, False])
def test_a_chain_without_neurons_stays_as_it_is(intercept):
    X, y = make_data("one")
    model = MultigradeRegressor(**{**SMALL, "alpha": 100.0}, fit_intercept=intercept).fit(X, y)
    assert model.grades_[0].n_neurons == 0
    np.testing.assert_allclose(correct(model, X, y).predict(X), y.mean(), rtol=1e-9)


def test_grades_that_raise_no_residual_are_not_corrected():
    model, X, y = fitted("one", refinement="pointwise", early_stopping=False, warm_start=True)
    message = r"grade 1 was fitted with refinement='pointwise', so as to raise no training residual"
    with pytest.raises(ValueError, match=message):
        correct(model, X, y)
    with pytest.raises(ValueError, match=f"{message}; correction='readouts' moves grades"):
        model.set_params(n_grades=3, refinement="none", correction="readouts").fit(X, y)
    assert len(certify(model.set_params(refinement="pointwise"), X, y)) == 2


def test_a_grade_that_no_step_moves_is_tried_again_from_where_it_was(monkeypatch):
    """Each sweep that it did not move, its trust region was left a million times narrower."""
    chain, data, plan = parts("one")
    tried = []
    monkeypatch.setattr(correction.Model, "step", lambda self, mu: tried.append(mu))
    value = objective(chain, data, plan.loss)
    assert correction._moved(chain, 0, value, 0.5, data, plan.loss) == (chain, value, 0.5)
    np.testing.assert_allclose(tried, 0.5 * 4.0 ** np.arange(10))


def test_trust_regions_are_never_so_wide_that_no_narrower_one_is_tried(monkeypatch):
    chain, data, plan = parts("one")
    value, step = objective(chain, data, plan.loss), correction.Model.step
    monkeypatch.setattr(correction.Model, "step", lambda self, mu: step(self, 1.0))
    _, after, mu = correction._moved(chain, 0, value, 1e-8, data, plan.loss)
    assert after < value
    assert mu >= 1e-8


def test_a_system_that_rounding_leaves_without_solution_is_a_step_not_taken():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 1))
    X, y = 1e8 * np.hstack([x, x, x]), np.abs(x[:, 0]) + 0.3 * rng.standard_normal(60)
    settings = {"standardize": False, "early_stopping": False, "n_patterns": 20, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # columns of 1e8, as they are
        model = MultigradeRegressor(0.01, n_grades=2, **settings).fit(X, y)
        path = correct(model, X, y).objective_path_
    assert np.all(np.diff(path) <= 0.0)
    assert path[-1] < path[0]


def test_bad_input_is_named():
    model, X, y = fitted("one")
    with pytest.raises(TypeError, match="ConvexReLURegressor"):
        correct(ConvexReLURegressor(), X, y)
    with pytest.raises(NotFittedError):
        correct(MultigradeRegressor(), X, y)
    with pytest.raises(InvalidParameterError, match="method"):
        correct(model, X, y, method="forward")
    with pytest.raises(InvalidParameterError, match="max_sweeps"):
        correct(model, X, y, max_sweeps=0)
    with pytest.raises(InvalidParameterError, match="correction"):
        MultigradeRegressor(correction="both").fit(X, y)
