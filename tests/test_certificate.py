"""Certificates and the projections behind them, against brute force and against CVXPY."""

from dataclasses import replace

import numpy as np
import pytest

from convexgrade import dual
from convexgrade.certificate import certify_network, relative_gap
from convexgrade.cones import Cones, Tight
from convexgrade.dual import SolverDual, best_bound, dual_point, lower_bound
from convexgrade.grade import state_problem
from convexgrade.kinks import AbsoluteError, Huber, SquaredHinge
from convexgrade.losses import BinaryLogLoss, Hessian, SoftmaxLogLoss, SquaredError
from convexgrade.network import Network, from_blocks
from convexgrade.patterns import Patterns, activation, enumerate_patterns, sample_patterns
from convexgrade.point import null_point
from convexgrade.settings import Settings
from convexgrade.solution import Status
from convexgrade.solvers import cvx
from convexgrade.working_set import solve_over
from tests.bank import KNOWN, brute_force_dual_norm, make_program, random_program


@pytest.mark.parametrize("seed", range(12))
def test_projection_norm_is_the_support_of_the_cone(seed):
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    X = rng.integers(-2, 3, (n, d)).astype(float) if seed % 2 else rng.standard_normal((n, d))
    mask = activation(X, rng.standard_normal((d, 1)))[:, 0]
    b = rng.standard_normal(d)
    cones, points, none = Cones.of(X, mask[:, None]), b[None], Tight.none(1, d)
    found, tight = cones.project(np.zeros(1, dtype=np.intp), points, none)
    assert np.linalg.norm(found) == pytest.approx(brute_force_dual_norm(X, mask, b), abs=1e-10)
    signed = np.where(mask, 1.0, -1.0)[:, None] * cones.rows
    assert np.all(signed @ found[0] >= -1e-12)
    assert np.all(tight.rho >= 0.0)
    used = tight.used[0]
    lifted = b + signed[tight.rows[0, used]].T @ tight.rho[0, used]
    np.testing.assert_allclose(found[0], lifted, atol=1e-12)


def _network_at(program, blocks, unpenalised):
    coefficients = np.zeros((program.X.shape[1], program.n_outputs))
    coefficients[program.free] = unpenalised
    gates = None if program.cones else program.patterns.gates[:, program.groups.pattern]
    groups = program.groups
    return from_blocks(blocks, groups.sign, groups.output, coefficients, gates)


@pytest.mark.parametrize("loss", ["squared_error", "binary", "softmax"])
@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("free", [True, False])
def test_gap_closes_at_the_optimum_and_bounds_the_optimum_everywhere(loss, cones, free):
    k = 3 if loss == "softmax" else 1
    program = random_program(3, loss=loss, cones=cones, n=9, k=k, free=free)
    solved = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-8)
    best = certify_network(
        program, solved.network(program), program.patterns, status=Status.OPTIMAL
    )
    reference = cvx.solve(program, solver="clarabel")
    optimum = program.objective(reference.blocks, reference.unpenalised)
    assert best.primal == pytest.approx(optimum, rel=1e-6)
    assert -1e-12 <= best.gap <= 1e-6
    assert best.dual == pytest.approx(optimum, abs=1e-6)
    assert best.violation <= 1e-12
    assert best.price == pytest.approx(program.alpha, rel=1e-4)

    rng = np.random.default_rng(0)
    for scale in (0.0, 0.1, 1.0, 10.0):
        blocks = solved.blocks * scale
        c = solved.unpenalised + 0.1 * rng.standard_normal(solved.unpenalised.shape)
        point = program.over(solved.patterns, solved.groups)
        other = certify_network(
            program, _network_at(point, blocks, c), program.patterns, status=Status.INACCURATE
        )
        assert other.dual <= optimum + 1e-7
        assert other.primal >= optimum - 1e-7
        assert other.gap == other.primal - other.dual


WITH_CONSTANT = [p for p in KNOWN if np.all(p.program.X[:, -1] == 1.0)]


@pytest.mark.parametrize("problem", WITH_CONSTANT, ids=str)
def test_bound_equals_the_known_optimum(problem):
    program = problem.program
    solved = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-8)
    certificate = certify_network(
        program, solved.network(program), program.patterns, status=Status.OPTIMAL
    )
    assert certificate.primal == pytest.approx(problem.optimum, abs=1e-6)
    assert certificate.dual == pytest.approx(problem.optimum, abs=1e-6)
    assert certificate.gap >= -1e-12
    assert certificate.price_is_exact


def test_network_objective_equals_program_objective():
    for seed in range(3):
        program = random_program(seed, n=10, d=3)
        solved = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-6)
        network = solved.network(program)
        prediction = program.offset + network.forward(program.X[:, :-1])
        np.testing.assert_allclose(prediction, solved.prediction(program), atol=1e-12)
        objective = program.mean_loss(prediction) + program.alpha * network.path_norm
        assert objective == pytest.approx(solved.objective, rel=1e-12)
        # Balanced neurons: |a| = ||u||, so weight decay alpha / 2 costs the same.
        np.testing.assert_allclose(
            np.linalg.norm(network.vectors, axis=0), np.abs(network.output_coef).sum(axis=1)
        )


def test_a_neuron_outside_all_patterns_brings_its_own():
    program = random_program(0, n=10, d=2)
    known = sample_patterns(program.X, 2, np.random.default_rng(0))
    solved = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-8)
    network = solved.network(program)
    certificate = certify_network(program, network, known, status=Status.OPTIMAL)
    assert certificate.n_patterns > len(known)
    assert certificate.gap >= -1e-12
    assert certificate.violation <= 1e-12


def test_violation_shows_a_neuron_that_a_list_called_complete_does_not_hold():
    program = random_program(0, n=10, d=2)
    solved = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-8)
    few = Patterns(program.patterns.gates[:, :1], program.patterns.masks[:, :1], exhaustive=True)
    certificate = certify_network(program, solved.network(program), few, status=Status.OPTIMAL)
    assert certificate.violation > 1e-3
    assert certificate.n_patterns == 1


@pytest.mark.parametrize("far", [1e2, 1e8, 1e9, 1e10])
def test_a_row_far_out_hides_no_neuron_on_the_wrong_side_of_another(far):
    """How far a neuron is on the wrong side of a row is measured at unit length of that row."""
    rng = np.random.default_rng(0)
    X = np.column_stack([np.append(rng.standard_normal(20), far), np.ones(21)])
    settings = Settings(activation="relu", fit_intercept=False)
    y, weights = np.maximum(X[:, :1], 0.0) / far, np.full(21, 1.0 / 21.0)
    empty = state_problem(X[:, :1], y, 0.0 * y, weights, SquaredError(), 1e-6, settings)
    near = np.sort(np.abs(X[:-1, 0]))[0]
    gates = np.array([[1.0, 1.0], [-2.0 * near, 2.0 * near]])  # on either side of the nearest row
    known = Patterns.from_gates(X, gates[:, :1])
    network = Network(
        hidden_coef=gates[:1, 1:],
        hidden_intercept=gates[1, 1:],
        output_coef=np.full((1, 1), 1.0 / far),
        linear_coef=np.zeros((1, 1)),
        intercept=np.zeros(1),
    )
    certificate = certify_network(empty, network, known, status=Status.OPTIMAL)
    assert certificate.n_patterns == len(known) + 1
    assert certificate.violation == 0.0
    assert certificate.gap >= 0.0


def test_a_neuron_active_on_no_row_violates_nothing():
    program = random_program(0, n=10, d=2)
    X = program.X
    dead = np.array([[0.0, -1.0]])  # the constant alone, below zero
    network = _network_at(program.take(np.array([0])), dead, np.zeros((1, 1)))
    assert not (X @ network.vectors > 0.0).any()
    certificate = certify_network(program, network, program.patterns, status=Status.INACCURATE)
    assert certificate.violation == 0.0


def test_dual_point_stays_in_the_domain_when_projection_leaves_it():
    # Saturated logits: gradients at the edge of [-y, 1 - y], and a projection that pushes them out.
    program = random_program(1, loss="binary", n=10)
    prediction = 40.0 * (2.0 * program.y - 1.0) + np.linspace(0.0, 3.0, 10)[:, None]
    prediction[0] *= -1.0
    point = dual_point(program, prediction)
    lower, upper = program.loss.dual_bounds(program.y)
    assert np.all((point.q >= lower) & (point.q <= upper))
    np.testing.assert_allclose(program.Z.T @ point.theta, 0.0, atol=1e-12)
    assert np.isfinite(program.loss.conjugate(point.q, program.y)).all()


class RoundedAbsolute(SquaredError):
    """|f - y|, smoothed within 0.01: bounded gradients, and no curvature in most rows."""

    quadratic = False

    def value(self, f, y):
        q = self.gradient(f, y)
        return np.sum(q * (f - y - 0.005 * q), axis=1)

    def gradient(self, f, y):
        return np.clip(100.0 * (f - y), -1.0, 1.0)

    def hessian(self, f, y):
        return Hessian(100.0 * (np.abs(f - y) < 0.01))

    def conjugate(self, q, y):
        inside = np.all(np.abs(q) <= 1.0, axis=1)
        return np.where(inside, np.sum(q * (y + 0.005 * q), axis=1), np.inf)

    def dual_bounds(self, y):
        return np.full_like(y, -1.0), np.full_like(y, 1.0)


def assert_in_the_dual(program, point):
    lower, upper = program.loss.dual_bounds(program.y)
    assert np.all((point.q >= lower) & (point.q <= upper))
    assert np.isfinite(program.loss.conjugate(point.q, program.y)).all()
    assert np.abs(program.Z.T @ point.theta).max(initial=0.0) <= 1e-12


def separable(seed, weights=None):
    """Classes 0 and 1 are those of XOR; a line separates class 2 from both."""
    X = np.random.default_rng(seed).standard_normal((30, 2))
    label = np.where(X[:, 0] > 1.0, 2, X[:, 0] * X[:, 1] > 0.0).astype(int)
    return make_program(
        np.column_stack([X, np.ones(30)]),
        np.eye(3)[label],
        alpha=1.0,
        loss=SoftmaxLogLoss(),
        weights=weights,
        free=np.arange(3),
        patterns=Patterns.none(30, 3),
    )


@pytest.mark.parametrize("seed", range(4))
def test_classes_that_a_linear_term_separates_leave_the_bound_of_the_others(seed):
    """At a penalty so large that no neuron is worth it, the linear model is the optimum."""
    program = separable(seed)
    null = null_point(program, program.patterns)
    assert null.objective > 0.4
    point = dual_point(program, null.prediction(program))
    assert_in_the_dual(program, point)
    bound = lower_bound(program, point.q, 0.0)
    assert null.objective * (1.0 - 1e-8) <= bound <= null.objective * (1.0 + 1e-12)


@pytest.mark.parametrize("seed", [0, 13, 100])
def test_rows_that_a_linear_term_separates_but_for_two_equal_ones(seed):
    """The two lose 2 log 2 at best, and all others nothing, in the limit: no bound may forget it."""
    X = (np.random.default_rng(seed).integers(-3, 4, (40, 8)) > 0) * 1.0
    program = make_program(
        np.column_stack([X, np.ones(40)]),
        (np.arange(40) < 3) * 1.0,
        alpha=1.0,
        loss=BinaryLogLoss(),
        free=np.arange(9),
        patterns=Patterns.none(40, 9),
    )
    null = null_point(program, program.patterns)
    best = 2.0 * np.log(2.0) / 40.0
    assert null.objective == pytest.approx(best, rel=1e-9)
    point = dual_point(program, null.prediction(program))
    assert_in_the_dual(program, point)
    assert lower_bound(program, point.q, 0.0) == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("weight", [1e-3, 1e-9, 1e-14])
@pytest.mark.parametrize("free", [[2], [0, 1, 2]])
def test_a_class_of_next_to_no_weight_costs_the_bound_nothing(weight, free):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((60, 2)), np.ones(60)])
    label = np.r_[2, rng.integers(0, 2, 59)]
    program = make_program(
        X,
        np.eye(3)[label],
        alpha=1.0,
        loss=SoftmaxLogLoss(),
        weights=np.r_[weight, np.ones(59)],
        free=free,
        patterns=Patterns.none(60, 3),
    )
    null = null_point(program, program.patterns)
    point = dual_point(program, null.prediction(program))
    assert_in_the_dual(program, point)
    assert lower_bound(program, point.q, 0.0) == pytest.approx(null.objective, rel=1e-8)


@pytest.mark.parametrize(
    "loss", [SquaredError(), BinaryLogLoss(), SoftmaxLogLoss(), RoundedAbsolute()]
)
@pytest.mark.parametrize("free", [[], [3], [0, 1, 2, 3]])
def test_every_prediction_has_a_point_in_the_dual(loss, free):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 40))
        label = rng.integers(0, 3, n)
        y = {
            SoftmaxLogLoss: np.eye(3)[label],
            BinaryLogLoss: (label[:, None] > 0).astype(float),
        }.get(type(loss), rng.standard_normal((n, 2)))
        program = make_program(
            np.column_stack([rng.standard_normal((n, 3)), np.ones(n)]),
            y,
            alpha=1.0,
            loss=loss,
            weights=rng.uniform(size=n) ** 6 + 1e-9,
            free=free,
            patterns=Patterns.none(n, 4),
        )
        for scale in (0.0, 1.0, 10.0, 50.0):
            assert_in_the_dual(program, dual_point(program, scale * rng.standard_normal(y.shape)))


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", ["squared_error", "binary"])
def test_solution_is_zero_exactly_from_alpha_max_on(cones, loss):
    base = random_program(5, loss=loss, cones=cones, n=10)
    alpha_max = base.alpha_max()
    for factor, trivial in ((1.0 + 1e-6, True), (1.0 - 1e-3, False)):
        program = make_program(
            base.X,
            base.y,
            alpha=factor * alpha_max,
            loss=base.loss,
            cones=cones,
            weights=base.weights,
            offset=base.offset,
            free=base.free,
        )
        null = null_point(program, program.patterns)
        certificate = certify_network(
            program, null.network(program), program.patterns, status=Status.OPTIMAL
        )
        assert (certificate.gap <= 1e-12) == trivial
        solution = cvx.solve(program, solver="clarabel")
        size = np.linalg.norm(solution.blocks, axis=1).max()
        assert (size < 1e-4) == trivial


def test_nothing_is_proved_by_a_gap_where_there_was_no_loss():
    assert relative_gap(0.5, 2.0) == 0.25
    assert relative_gap(0.0, 0.0) == 0.0
    for gap, before in ((0.5, 0.0), (np.nan, 1.0), (0.5, np.nan)):
        assert relative_gap(gap, before) == np.inf
    X, y = np.column_stack([np.linspace(-1, 1, 8), np.ones(8)]), np.zeros(8)
    program = make_program(X, y, alpha=0.1)  # fitted already: a neuron only costs
    neuron = from_blocks(
        np.array([[1.0, 0.5]]), np.array([1.0]), np.array([0]), np.zeros((2, 1)), None
    )
    certificate = certify_network(program, neuron, program.patterns, status=Status.INACCURATE)
    assert certificate.gap > 0.0
    assert certificate.relative_gap == np.inf


def test_no_lower_bound_is_below_that_of_every_loss():
    """Of a prediction ten times too large, the dual point is worth less than none at all."""
    X = np.column_stack([np.linspace(-1, 1, 8), np.ones(8)])
    program = make_program(X, np.maximum(X[:, 0], 0.0), alpha=0.1)
    large = from_blocks(
        np.array([[10.0, 0.0]]), np.array([1.0]), np.array([0]), np.zeros((2, 1)), None
    )
    point = dual_point(program, program.offset + large.forward(program.X[:, :-1]))
    full = program.over(program.patterns)
    assert lower_bound(program, point.q, full.largest_dual_norm(full.adjoint(point.theta))) < 0.0
    certificate = certify_network(program, large, program.patterns, status=Status.INACCURATE)
    assert certificate.dual == 0.0
    assert certificate.gap == certificate.primal


def test_exhaustive_patterns_of_other_rows_do_not_prove_anything_about_these():
    program = random_program(0, n=10, d=2)
    solved = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-8)
    few = Patterns(program.patterns.gates[:, :3], program.patterns.masks[:, :3])
    certificate = certify_network(program, solved.network(program), few, status=Status.OPTIMAL)
    assert not certificate.price_is_exact
    full = certify_network(
        program,
        solved.network(program),
        enumerate_patterns(program.X, limit=1000),
        status=Status.OPTIMAL,
    )
    assert full.dual <= certificate.dual + 1e-12


@pytest.mark.parametrize("loss", ["squared_error", "binary"])
def test_multipliers_of_any_quality_leave_the_certificate_valid(loss):
    program = random_program(2, loss=loss, n=20)
    solved = solve_over(program, program.patterns, None, solver="auto", tol=1e-8)
    assert solved.solver_dual is not None
    network, rng = solved.network(program), np.random.default_rng(0)

    def certify(solver_dual):
        return certify_network(
            program, network, program.patterns, status=Status.OPTIMAL, solver_dual=solver_dual
        )

    without = certify(None)
    groups, rho, _ = solved.solver_dual
    few = groups.take(np.arange(len(groups)) % 2 == 0)
    for case in (
        solved.solver_dual,
        SolverDual(groups, 0.0 * rho),
        SolverDual(groups, 1e3 * rng.random(rho.shape)),
        SolverDual(few, rho[:, ::2]),
        SolverDual(groups, rho[:, ::-1]),
        SolverDual(groups, -1e3 * rng.random(rho.shape)),
    ):
        found = certify(case)
        assert found.dual == pytest.approx(without.dual, abs=2e-6 * found.primal)
        assert found.price == pytest.approx(without.price, rel=2e-6)
        assert found.gap >= -1e-12


@pytest.mark.parametrize(("loss", "k"), [("squared_error", 2), ("binary", 1), ("softmax", 3)])
@pytest.mark.parametrize("scale", [1.0, 0.7, 0.0])
def test_no_multipliers_lift_the_bound_above_the_optimum(loss, k, scale):
    """At the optimum and far from it, where multipliers belong to another dual point."""
    program = random_program(6, loss=loss, n=9, k=k)
    solved = solve_over(program, program.patterns, None, solver="native", tol=1e-8)
    reference = cvx.solve(program, solver="clarabel")
    optimum = program.objective(reference.blocks, reference.unpenalised)
    own = program.over(solved.patterns, solved.groups)
    network = _network_at(own, scale * solved.blocks, solved.unpenalised)
    groups, rho, _ = solved.solver_dual
    rng = np.random.default_rng(0)
    every = program.every_group(program.patterns)
    shifted = every.take(np.roll(np.arange(len(every)), 7))
    tried = {
        "the solver's": SolverDual(groups, rho),
        "of CVXPY": SolverDual(every, reference.multipliers),
        "of other groups": SolverDual(shifted, reference.multipliers),
        "huge": SolverDual(every, 1e8 * rng.random((len(program.X), len(every)))),
        "about right": SolverDual(groups, rho * rng.uniform(0.5, 1.5, rho.shape)),
        "partly negative": SolverDual(every, reference.multipliers - 1e-3 * program.alpha),
        "not finite": SolverDual(groups, np.full(rho.shape, np.nan)),
        "of one group": SolverDual(groups.take(np.array([0])), rho[:, :1]),
    }

    def certify(solver_dual):
        return certify_network(
            program, network, program.patterns, status=Status.OPTIMAL, solver_dual=solver_dual
        )

    without = certify(None)
    assert without.dual <= optimum + 1e-9
    for name, known in tried.items():
        found = certify(known)
        assert found.dual <= optimum + 1e-9, name
        assert found.dual == pytest.approx(without.dual, rel=1e-5), name
        assert found.price == pytest.approx(without.price, rel=1e-5), name
        assert found.primal == without.primal, name


@pytest.mark.parametrize("loss", ["binary", "softmax", AbsoluteError(), SquaredHinge(), Huber(0.1)])
@pytest.mark.parametrize("cones", [True, False])
def test_any_theta_proves_a_bound_and_none_makes_it_worse(loss, cones):
    """A solver's is off balance, at ends of the domain, or nonsense: the bound holds all the same."""
    named = isinstance(loss, str)
    program = random_program(5, loss=loss if named else "binary", cones=cones, n=14)
    if not named:
        program = replace(program, loss=loss)
    reference = cvx.solve(program, solver="clarabel")
    optimum = program.objective(reference.blocks, reference.unpenalised)
    best = -program.mean_loss.gradient(program.predict(reference.blocks, reference.unpenalised))
    network = _network_at(program, 0.5 * reference.blocks, reference.unpenalised)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(best.shape)
    lower, upper = program.loss.dual_bounds(program.y)
    ends = np.clip(-program.weights[:, None] * np.where(noise > 0.0, upper, lower), -1e3, 1e3)

    def certify(theta):
        known = SolverDual(program.groups, None, theta)
        return certify_network(
            program, network, program.patterns, status=Status.OPTIMAL, solver_dual=known
        )

    without = certify(None)
    for theta in (best, best + 1e-3 * noise, 1e3 * best, noise, ends, 0.0 * best, -best):
        found = certify(theta)
        assert without.dual <= found.dual <= optimum + 1e-8
    assert certify(best).dual == pytest.approx(optimum, rel=1e-2)
    assert without.dual < 0.99 * optimum


@pytest.mark.parametrize("loss", [AbsoluteError(), SquaredError()])
def test_bounds_hold_where_an_unpenalised_column_is_short_beside_another(loss):
    """It balances theta all the same: here it fits the targets, and no bound is above 0."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 2)) * [1e-7, 1e7]
    X, y = np.column_stack([z, np.ones(50)]), 1e7 * z[:, :1]
    patterns = sample_patterns(X, 3, rng)
    program = make_program(
        X, y, alpha=1e9, loss=loss, cones=False, free=[0, 1, 2], patterns=patterns
    )
    theta = 0.9 * program.weights[:, None] * np.sign(y)
    bound = best_bound(program, np.zeros_like(y), SolverDual(program.groups, None, theta))
    assert bound.value <= 1e-9


def test_multipliers_of_patterns_that_are_not_certified_are_left_alone():
    """A network's neurons may bring patterns that its multipliers know nothing of."""
    program = random_program(7, n=20, d=3)
    rng = np.random.default_rng(0)
    few, more = (sample_patterns(program.X, m, rng) for m in (4, 12))
    solved = solve_over(program, few, None, solver="native", tol=1e-8)
    wider = few.extend(program.X, more.gates)
    assert len(wider) > len(few)
    found, without = (
        certify_network(
            program, solved.network(program), wider, status=Status.OPTIMAL, solver_dual=m
        )
        for m in (solved.solver_dual, None)
    )
    assert without.price > 1.001 * program.alpha
    assert found.dual == pytest.approx(without.dual, rel=1e-5)
    assert found.price == pytest.approx(without.price, rel=1e-5)


def _one_neuron(hidden, output):
    return Network(
        hidden_coef=np.array([[hidden]]),
        hidden_intercept=np.zeros(1),
        output_coef=np.array([[output]]),
        linear_coef=np.zeros((1, 1)),
        intercept=np.zeros(1),
    )


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0])
def test_a_violation_is_in_units_of_the_prediction(size):
    """The row at 0.1 is active, though the pattern, the only one of the list, says that it is not."""
    X = np.array([[-1.0, 1.0], [0.1, 1.0], [3.0, 1.0]])
    only = Patterns(np.array([[1.0], [-1.0]]), np.array([[0], [0], [1]]) > 0, exhaustive=True)
    program = make_program(X, [0.0, 0.0, 3.0], alpha=0.1, patterns=only)
    certificate = certify_network(
        program, _one_neuron(size, 1.0 / size), only, status=Status.OPTIMAL
    )
    assert certificate.violation == pytest.approx(0.1)


def test_a_certificate_says_of_which_patterns_it_speaks():
    program = random_program(0, n=6)
    few = Patterns(program.patterns.gates[:, :3], program.patterns.masks[:, :3])
    for patterns, words in ((program.patterns, "over all "), (few, "over its ")):
        certificate = certify_network(
            program, _one_neuron(1.0, 1.0), patterns, status=Status.INACCURATE
        )
        assert words in str(certificate)


def test_a_gate_that_no_pattern_holds_brings_its_own():
    program = random_program(0, n=10, cones=False)
    few = Patterns(program.patterns.gates[:, :2], program.patterns.masks[:, :2])
    other = program.patterns.gates[:, 5:6]
    assert few.find(program.patterns.masks[:, 5:6]).tolist() == [-1]
    neuron = replace(_one_neuron(1.0, 1.0), gate_coef=other[:1], gate_intercept=other[1])
    certificate = certify_network(program, neuron, few, status=Status.INACCURATE)
    assert certificate.n_patterns == 3


def test_of_two_ways_back_into_the_domain_the_one_that_gets_further_is_taken():
    """From 0, where the other anchor is at an end beyond which the point is."""
    program = make_program([[1.0], [2.0]], [0.0, 0.0], alpha=1.0, loss=AbsoluteError())
    q, anchor = np.array([[2.0], [0.0]]), np.array([[1.0], [1.0]])
    found = dual._between(program, dual._unpenalised_basis(program), q, anchor)
    np.testing.assert_allclose(found, [[1.0], [0.0]])


def test_a_projection_balances_to_the_last_digits():
    program = make_program(
        [[1.0], [2.0], [3.0]], np.zeros(3), alpha=1.0, loss=AbsoluteError(), free=[0]
    )
    q = 1e8 + np.array([[0.3], [-0.5], [0.2]])
    found = dual._between(program, dual._unpenalised_basis(program), q, np.zeros_like(q))
    np.testing.assert_allclose(found, q - 1e8, atol=1e-7)
    assert abs(program.weights @ found[:, 0]) <= 1e-15


def test_balancing_goes_on_with_the_rows_that_have_not_stopped():
    """Nine of them stop at their ends, which leaves most of the imbalance to the stiff one."""
    program = make_program(
        np.ones((10, 1)),
        np.zeros(10),
        alpha=1.0,
        loss=AbsoluteError(),
        weights=np.r_[81.0, np.ones(9)],
        free=[0],
    )
    q, bend = np.r_[0.5, np.full(9, -0.9)], np.r_[1e-3, np.ones(9)]
    found = dual._balanced(
        program, dual._unpenalised_basis(program), q[:, None], Hessian(bend[:, None]), np.inf
    )
    np.testing.assert_allclose(found[:, 0], np.r_[1.0 / 9.0, np.full(9, -1.0)], atol=1e-12)


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_what_is_next_to_an_end_stays_there_while_others_balance(end):
    program = make_program(np.ones((3, 1)), np.zeros(3), alpha=1.0, loss=AbsoluteError(), free=[0])
    q = end * np.array([[1.0 - 1e-9], [0.0], [0.3]])
    found = dual._balanced_by_room(program, dual._unpenalised_basis(program), q)
    assert abs(program.weights @ found[:, 0]) <= 1e-15
    np.testing.assert_allclose(found[0], end, atol=1e-8)
