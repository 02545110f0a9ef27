"""Every solver on every problem of the bank: objective, feasibility, complementarity, gap."""

import cvxpy as cp
import numpy as np
import pytest

from convexgrade import ConvexReLURegressor, solvers
from convexgrade.certificate import certify_network
from convexgrade.losses import SquaredError
from convexgrade.solution import Solution, Status
from convexgrade.solvers import cvx
from convexgrade.working_set import solve_over
from tests.bank import (
    KNOWN,
    OTHERS,
    assert_optimal,
    assert_solves,
    counted_newton_steps,
    make_program,
    random_program,
)

NAMES = [name for name in solvers.SOLVERS if name != "auto"]


@pytest.mark.parametrize("solver", NAMES)
@pytest.mark.parametrize("known", [*KNOWN, *OTHERS], ids=str)
def test_known_optimum(known, solver):
    solution = solvers.solve(known.program, solver=solver)
    assert solution.status in (Status.OPTIMAL, Status.INACCURATE)
    if solver == "scs" and solution.status is Status.INACCURATE:  # which says so
        objective = known.program.objective(solution.blocks, solution.unpenalised)
        assert objective == pytest.approx(known.optimum, abs=1e-3)
        return
    assert_solves(known, solution, short=1e-6)


# ECOS breaks down on the exponential cones of the softmax: see the test of the fallback.
LOSSES_OF = [
    (loss, solver)
    for loss in ("squared_error", "binary", "softmax")
    for solver in NAMES
    if (loss, solver) != ("softmax", "ecos")
]


@pytest.mark.parametrize(("loss", "solver"), LOSSES_OF)
@pytest.mark.parametrize("cones", [True, False])
def test_random_programs_are_optimal_by_certificate(loss, cones, solver):
    for seed in range(2):
        program = random_program(
            seed, loss=loss, cones=cones, n=10, k=3 if loss == "softmax" else 1
        )
        assert_optimal(program, solvers.solve(program, solver=solver))
        point = solve_over(program, program.patterns, None, solver=solver, tol=1e-6)
        certificate = certify_network(
            program, point.network(program), program.patterns, status=point.status
        )
        assert -1e-12 <= certificate.gap <= 1e-6


@pytest.mark.parametrize("cones", [True, False])
def test_doubling_a_weight_is_duplicating_the_row(cones):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((8, 1)), np.ones(8)])
    y = rng.standard_normal(8)
    weighted = make_program(X, y, alpha=0.02, weights=[2.0] + 7 * [1.0], cones=cones, free=[1])
    rows = np.append(0, np.arange(8))
    doubled = make_program(X[rows], y[rows], alpha=0.02, cones=cones, free=[1])
    values = []
    for program in (weighted, doubled):
        solution = solvers.solve(program, solver="clarabel")
        values.append(program.objective(solution.blocks, solution.unpenalised))
    assert values[0] == pytest.approx(values[1], rel=1e-7)


@pytest.mark.parametrize("cones", [True, False])
def test_permuting_rows_and_rotating_features_changes_nothing(cones):
    rng = np.random.default_rng(1)
    program = random_program(1, cones=cones, n=10, d=3)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rows = rng.permutation(10)
    other = make_program(
        program.X[rows] @ rotation,
        program.y[rows],
        alpha=program.alpha,
        weights=program.weights[rows],
        offset=program.offset[rows],
        cones=cones,
    )
    plain = make_program(
        program.X,
        program.y,
        alpha=program.alpha,
        weights=program.weights,
        offset=program.offset,
        cones=cones,
    )
    found = [solve_over(p, p.patterns, None, solver="auto", tol=1e-8) for p in (plain, other)]
    assert found[0].objective == pytest.approx(found[1].objective, rel=1e-6)


def test_a_listed_pattern_twice_leaves_the_optimum_unchanged():
    program = random_program(2, n=10)
    patterns = program.patterns
    twice = type(patterns)(
        np.hstack([patterns.gates, patterns.gates]), np.hstack([patterns.masks, patterns.masks])
    )
    doubled = program.over(twice)
    values = [
        p.objective(s.blocks, s.unpenalised)
        for p in (program, doubled)
        for s in [solvers.solve(p, solver="clarabel")]
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-7)


@pytest.mark.parametrize("alpha", [0.03, 0.003])
def test_one_dimension_agrees_with_a_lasso_over_ramps(alpha):
    """All neurons in one dimension: unit (slope, offset) on a fine circle, an l1 norm on their sizes.

    A kink may lie between grid angles, so the lasso is above the program by the grid's square.
    """
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2.0, 2.0, 25))
    y = np.abs(x) - 0.5 * (x > 1.0) * (x - 1.0) + 0.1 * rng.standard_normal(25)
    y -= y.mean()
    X = np.column_stack([x, np.ones(25)])
    weights = rng.integers(1, 4, 25).astype(float)
    program = make_program(X, y, alpha=alpha, weights=weights)
    found = solve_over(program, program.patterns, None, solver="auto", tol=1e-8).objective

    angle = np.linspace(0.0, 2.0 * np.pi, 10_000, endpoint=False)
    ramps = np.maximum(X @ np.stack([np.cos(angle), np.sin(angle)]), 0.0)
    coef = cp.Variable(angle.size)
    residual = cp.multiply(np.sqrt(weights / weights.sum()), y - ramps @ coef)
    lasso = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(residual) + alpha * cp.norm1(coef)))
    reference = lasso.solve(solver="CLARABEL")
    assert found <= reference + 1e-8
    assert found == pytest.approx(reference, rel=1e-4)


def test_exhaustive_column_generation_equals_the_whole_program():
    program = random_program(7, n=9, d=3)
    whole = cvx.solve(program, solver="clarabel")
    generated = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-8)
    assert len(program.groups) > 120
    assert generated.objective == pytest.approx(
        program.objective(whole.blocks, whole.unpenalised), rel=1e-7
    )


def test_cvxpy_form_of_an_unknown_loss_is_an_error_that_names_it():
    class Odd(SquaredError):
        name = "odd"

    program = make_program(np.eye(2), [1.0, 2.0], alpha=0.1, loss=Odd())
    with pytest.raises(NotImplementedError, match=r"solver='scs' has no CVXPY form of loss='odd'"):
        cvx.solve(program, solver="scs")


def test_a_failed_solver_is_replaced_and_the_user_told():
    program = random_program(0, loss="softmax", n=10, k=3)
    assert cvx.solve(program, solver="ecos").status is Status.FAILED
    with pytest.warns(RuntimeWarning, match=r"solver='ecos' failed .* solver='native' took over"):
        solution = solvers.solve(program, solver="ecos")
    assert solution.status is Status.OPTIMAL
    assert_optimal(program, solution)


def test_no_solver_that_failed_is_asked_again(monkeypatch):
    program, asked = random_program(0, n=10), []
    monkeypatch.setattr(solvers, "_SOLVERS", {
        name: lambda program, *_, name=name: asked.append(name) or failed(program)
        for name in ("native", "clarabel", "scs")
    })  # fmt: skip
    for first in ("native", "clarabel", "scs"):
        asked.clear()
        with pytest.warns(RuntimeWarning, match="took over"):
            assert solvers.solve(program, solver=first).status is Status.FAILED
        assert asked[0] == first
        assert sorted(asked) == ["clarabel", "native", "scs"]


def failed(program):
    blocks = np.zeros((len(program.groups), program.X.shape[1]))
    return Solution(blocks, program.null_coefficients, None, Status.FAILED, 0)


def test_a_solver_that_gives_up_says_so(monkeypatch):
    program = random_program(0, n=10)
    monkeypatch.setitem(cvx._OPTIONS["clarabel"], "max_iter", 1)
    assert cvx.solve(program, solver="clarabel").status is not Status.OPTIMAL


def test_a_small_program_that_native_methods_find_hard():
    """Whether they finish it hangs on the processor's rounding; if not, CVXPY does."""
    X = [[-1.10490199e04], [0.745233497], [-0.800766549], [-0.776190306], [-1.60931342]]
    y = [-344.65134616, -12062.61554646, -8999.13110608, -918.16501494, 10618.87618175]
    model = ConvexReLURegressor(
        1.5078154023977266e-06,
        loss="huber",
        epsilon=0.010444254084072273,
        fit_intercept=False,
        patterns="exhaustive",
    )
    assert model.fit(X, y).certificate_.relative_gap < 1e-4


def test_cvxpy_is_a_second_solver_of_small_programs_for_those_who_leave_the_choice():
    program = random_program(0, n=10)
    assert solvers.second_opinion("auto", program) == "clarabel"
    assert solvers.second_opinion("native", program) is None
    assert solvers.second_opinion("clarabel", program) is None
    many = program.groups.take(np.zeros(10_000 // sum(program.X.shape) + 1, dtype=int))
    assert solvers.second_opinion("auto", program.over(program.patterns, many)) is None


@pytest.mark.parametrize("loss", ["huber", "absolute_error"])
def test_an_outlier_does_not_lead_starts_astray(loss, monkeypatch):
    """Where rounding hides which way is down, steps that went nowhere came in thousands."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 3))
    y = np.abs(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(100)
    y[3] = 1e3
    steps = counted_newton_steps(monkeypatch)
    model = ConvexReLURegressor(0.01, loss=loss, n_patterns=50, random_state=0).fit(X, y)
    assert model.certificate_.relative_gap < 1e-5
    assert max(steps) < 50
    assert sum(steps) < 1000
