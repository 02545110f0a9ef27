"""The proximal Newton method: against interior points and CLARABEL, in corners, and its parts alone."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from convexgrade import cones as cones_module
from convexgrade import solvers
from convexgrade.cones import Cones, Tight
from convexgrade.dual import dual_point, lower_bound
from convexgrade.groups import Groups
from convexgrade.kinks import AbsoluteError
from convexgrade.losses import Hessian, SquaredError
from convexgrade.patterns import sample_patterns
from convexgrade.solution import Start, Status
from convexgrade.solvers import (
    _coupling,
    _gradients,
    _proximal,
    _systems,
    active,
    cvx,
    interior,
    native,
    newton,
)
from convexgrade.solvers._columns import Columns
from convexgrade.solvers._faces import Face
from convexgrade.solvers._operator import Operator
from convexgrade.solvers._symmetric import square
from convexgrade.solvers._systems import Memory, System
from tests.bank import (
    KNOWN,
    assert_optimal,
    assert_solves,
    counted_newton_steps,
    make_program,
    projection,
    random_program,
)
from tests.cases import (
    CLARABEL,
    FREE,
    LOSSES,
    assert_as_good,
    make_case,
    objective,
    real_program,
    scale,
)

APART = [loss for loss in LOSSES if loss != "softmax"]  # whose outputs have systems of their own


@pytest.mark.parametrize("known", KNOWN, ids=str)
def test_known_optimum(known):
    solution = newton.solve(known.program)
    assert solution.status is Status.OPTIMAL
    assert_solves(known, solution)


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "shape", ["line", "plane", "wide", "duplicated rows", "duplicated columns", "ties"]
)
def test_agrees_with_interior_points_on_rows_of_every_shape(shape, loss, cones):
    program = make_case(shape, loss, cones=cones)
    found, reference = newton.solve(program), interior.solve(program)
    assert found.gap <= 1e-8
    assert program.violation(found.blocks) <= 1e-10
    assert_as_good(program, found, reference)


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_with_clarabel_for_any_unpenalised_columns(loss, free):
    program = make_case(loss=loss, free=free, seed=1)
    found, reference = newton.solve(program), cvx.solve(program, solver="clarabel")
    assert found.status is Status.OPTIMAL
    assert program.violation(found.blocks) <= 1e-10
    assert_as_good(program, found, reference, CLARABEL)


@pytest.mark.parametrize("size", [0.9, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gap_it_reports_holds_for_any_alpha(loss, size):
    program = make_case(loss=loss, size=size, seed=2)
    found, reference = newton.solve(program), interior.solve(program, tol=1e-10)
    assert found.gap <= 1e-6
    excess = objective(program, found) - objective(program, reference)
    assert excess <= (found.gap + 1e-8) * scale(program)


@pytest.mark.parametrize("loss", LOSSES)
def test_multipliers_satisfy_the_optimality_conditions(loss):
    program = make_case(loss=loss, size=0.05, seed=3)
    solution = newton.solve(program, tol=1e-11)
    assert solution.multipliers is not None
    assert_optimal(program, solution)


@pytest.mark.parametrize("cones", [True, False])
def test_groups_that_do_not_matter_are_exactly_zero(cones):
    program = make_case(size=0.3, cones=cones)
    solution = newton.solve(program)
    norms = np.linalg.norm(solution.blocks, axis=1)
    assert 0 < np.count_nonzero(norms) < norms.size


@pytest.mark.parametrize("loss", LOSSES)
def test_no_neurons_above_alpha_max(loss):
    program = make_case(loss=loss, size=1.5)
    solution = newton.solve(program)
    assert solution.status is Status.OPTIMAL
    np.testing.assert_array_equal(solution.blocks, 0.0)


@pytest.mark.parametrize("cones", [True, False])
def test_no_neurons_where_none_has_any_price(cones):
    X = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    program = make_program(X, np.array([1.0, 1.0, -1.0, -1.0]), alpha=0.1, cones=cones)
    assert not program.adjoint(program.y / len(X)).any()
    solution = newton.solve(program)
    assert solution.status is Status.OPTIMAL
    assert not solution.blocks.any()


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [0.5, 0.2, 0.05])
def test_steps_are_of_a_length_that_suits_the_penalty(size, loss, cones):
    assert newton.solve(make_case(loss=loss, size=size, cones=cones)).iterations <= 8


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_setting_out_from_the_optimum_ends_there(loss, cones):
    program = make_case(loss=loss, cones=cones)
    cold = newton.solve(program)
    warm = newton.solve(program, start=Start(cold.blocks, cold.unpenalised, 1e-6))
    assert warm.status is Status.OPTIMAL
    assert objective(program, warm) == pytest.approx(objective(program, cold), abs=1e-9)


def test_a_start_far_from_all_kinks_does_not_hold_a_solve_up(monkeypatch):
    """There the loss has no curvature to measure errors by, and steps seemed solved as they stood."""
    rng = np.random.default_rng(1)
    X = np.column_stack([rng.standard_normal((80, 5)), np.ones(80)])
    y = np.abs(X[:, :1]) + X[:, 1:2] * X[:, :1] + 0.1 * rng.standard_normal((80, 1))
    patterns = sample_patterns(X, 40, rng)
    program = make_program(X, y, alpha=1e-3, loss=AbsoluteError(), free=[5], patterns=patterns)
    taken = counted_newton_steps(monkeypatch)
    cold = newton.solve(program)
    cold_steps = sum(taken)
    taken.clear()
    far = Start(10.0 * cold.blocks, cold.unpenalised, 0.01)
    warm = newton.solve(program, start=far)
    assert warm.gap <= 1e-8
    assert objective(program, warm) == pytest.approx(objective(program, cold), rel=1e-7)
    assert min(taken) >= 1
    assert sum(taken) <= 5 * cold_steps


def test_beginning_anew_does_not_lose_what_a_start_has_led_to(monkeypatch):
    program = make_case(loss="binary")
    solution = newton.solve(program)
    ends = [replace(solution, gap=2.0), replace(solution, gap=3.0)]
    monkeypatch.setattr(newton, "_follow", lambda *_, left=list(ends): left.pop(0))
    start = Start(solution.blocks, solution.unpenalised, 1e-3)
    assert newton.solve(program, start=start) is ends[0]


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
@pytest.mark.parametrize("cones", [True, False])
def test_a_working_set_reaches_the_optimum_over_all_groups(cones, alpha):
    """More groups than a working set holds: those left out are priced, and join."""
    program = real_program("concrete", 400, 150, alpha, cones=cones)
    assert len(program.groups) > newton._WORKING
    found, reference = newton.solve(program, tol=1e-8), interior.solve(program, tol=1e-9)
    assert found.status is Status.OPTIMAL
    assert objective(program, found) == pytest.approx(objective(program, reference), rel=1e-7)


# At 1e8 a certificate cannot show the last digits: all rows point the same way to rounding.
@pytest.mark.parametrize(("factor", "shown"), [(1e-8, 1e-6), (1e-4, 1e-6), (1e4, 1e-6), (1e8, 1.0)])
def test_units_of_a_feature_do_not_break_it(factor, shown):
    program = make_case()
    X = program.X * np.array([factor, 1.0, 1.0])
    patterns = replace(program.patterns, gates=program.patterns.gates / [[factor], [1.0], [1.0]])
    scaled = replace(program, X=X, patterns=patterns)
    found = solvers.solve(scaled, solver="native")
    assert scaled.violation(found.blocks) <= 1e-9 * max(1.0, factor)
    point = dual_point(scaled, scaled.predict(found.blocks, found.unpenalised))
    largest = scaled.largest_dual_norm(scaled.adjoint(point.theta))
    excess = objective(scaled, found) - lower_bound(scaled, point.q, largest)
    assert -1e-12 <= excess <= shown * scale(scaled)
    assert found.gap <= 1e-6


def test_threads_do_not_change_the_answer():
    program = real_program("concrete", 400, 100, 1e-3)
    values = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            values.append(objective(program, newton.solve(program, tol=1e-10)))
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_numbers_that_are_not_finite_are_a_failure_not_an_exception():
    program = make_case()
    broken = replace(program, X=np.where(program.X > 1.0, np.nan, program.X))
    solution = newton.solve(broken, max_iter=3)
    assert solution.status is Status.FAILED


def test_a_slow_solve_is_left_after_the_trial_and_a_quick_one_is_not():
    program = real_program("concrete", 400, 50, 1e-3)
    quick = newton.solve(program, slow=np.inf)
    same, left = newton.solve(program, slow=1.0), newton.solve(program, slow=0.0)
    assert (same.gap, same.iterations) == (quick.gap, quick.iterations)
    assert left.status is Status.INACCURATE
    assert left.iterations < quick.iterations
    assert 1e-9 < left.gap < 1.0


@pytest.mark.parametrize(
    ("loss", "neurons", "used"),
    [(AbsoluteError(), 20, True), (AbsoluteError(), 30, False), (SquaredError(), 30, True)],
    ids=["light", "heavy", "without kinks"],
)
def test_losses_with_kinks_are_solved_without_a_start_that_has_many_numbers(
    loss, neurons, used, monkeypatch
):
    """Of 10 rows and 4 columns, 20 neurons have 80 numbers."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((10, 3)), np.ones(10)])
    patterns = sample_patterns(X, 40, rng)
    program = make_program(X, rng.standard_normal(10), alpha=0.01, loss=loss, patterns=patterns)
    starts, solve = [], newton.solve

    def recorded(program, *, start, **more):
        starts.append(start)
        return solve(program, start=start, **more)

    monkeypatch.setattr(newton, "solve", recorded)
    blocks = np.zeros((len(program.groups), 4))
    blocks[:neurons] = 0.1
    start = Start(blocks, np.zeros((0, 1)), 0.01)
    warm = solvers.solve(program, solver="native", start=start)
    assert starts == [start if used else None]
    cold = solvers.solve(program, solver="native")
    assert objective(program, warm) == pytest.approx(objective(program, cold), rel=1e-6)


@pytest.mark.parametrize("failing", [False, True], ids=["interior", "interior fails"])
def test_what_the_newton_method_leaves_others_finish(failing, monkeypatch):
    program = real_program("concrete", 400, 50, 1e-3)
    expected = objective(program, newton.solve(program))
    monkeypatch.setattr(native, "_SLOW", 0.0)
    monkeypatch.setattr(native, "_DENSE", 1e-9)
    monkeypatch.setattr(native, "_DIMENSIONS", 1)
    monkeypatch.setattr(native, "_OPERATIONS", np.inf)
    asked, solve = [], interior.solve

    def recorded(program, *, start, tol):
        asked.append(tol)
        return solve(program, start=start, tol=tol, max_iter=1 if failing else 100)

    monkeypatch.setattr(interior, "solve", recorded)
    found = solvers.solve(program, solver="native")
    assert asked == [1e-9]
    assert found.status is Status.OPTIMAL
    assert objective(program, found) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("share", "first"), [(0.1, newton), (1e-3, interior)])
def test_interior_points_go_first_where_a_small_penalty_leaves_most_groups_active(
    share, first, monkeypatch
):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 12))
    y = np.abs(X[:, 0]) + 0.3 * rng.standard_normal(60)
    patterns = sample_patterns(X, 20, rng)
    program = make_program(X, y, alpha=1.0, patterns=patterns)
    program = replace(program, alpha=share * program.alpha_max())
    asked = []
    for method in (newton, interior):
        monkeypatch.setattr(method, "solve", recording(method, asked))
    found = solvers.solve(program, solver="native")
    assert asked == [first]
    assert found.status is Status.OPTIMAL
    assert_optimal(program, found)
    asked.clear()
    solvers.solve(program, solver="native", start=Start(found.blocks, found.unpenalised, 1e-3))
    assert asked[0] is newton  # who is the faster from a start near the optimum, dense or not


def test_interior_points_go_on_where_active_groups_outnumber_the_rows(monkeypatch):
    program = real_program("concrete", 300, 200, 1e-3, cones=False)
    asked = []
    for method in (active, newton, interior):
        monkeypatch.setattr(method, "solve", recording(method, asked))
    found = solvers.solve(program, solver="native")
    assert asked == [active, interior]
    assert found.status is Status.OPTIMAL
    assert_optimal(program, found)


def recording(method, asked):
    solve = method.solve

    def recorded(program, **parameters):
        asked.append(method)
        return solve(program, **parameters)

    return recorded


def test_a_step_that_rounding_forbids_is_no_easy_one():
    """Sigma grew without end where no Newton step was possible, though the loss asks for one."""
    point = _proximal.Unknowns(np.ones((1, 2)), np.zeros((1, 1)))
    pace = _proximal.Pace(1.0, np.ones(1), 0.1)
    for loss, grows in ((AbsoluteError(), [1.0, 3.0]), (SquaredError(), [6.0, 6.0])):
        limits = _proximal.limits_of(loss)
        after = [pace.after(taken, point, 1e-3, limits).sigma for taken in (0, 1)]
        assert after == grows


def test_the_iteration_limit_is_reported():
    assert newton.solve(make_case(), max_iter=1).status is Status.ITERATION_LIMIT


class NewtonSystem(NamedTuple):
    """A random system of the proximal Newton method, and its solution by the matrix itself."""

    operator: Operator
    face: Face
    tau: Any
    curvature: Hessian
    right: Any
    expected: Any

    def columns(self, *outputs: int) -> Columns:
        """Return the columns K that lead to some outputs."""
        return Columns.of(self.operator, self.face, outputs, self.tau)


def newton_system(loss, *, cones: bool) -> NewtonSystem:
    p, rng = make_case(loss=loss, cones=cones), np.random.default_rng(0)
    n, k = p.y.shape
    operator = Operator.build(p.X, p.Z, p.patterns.masks, p.groups, p.n_outputs)
    active = np.arange(0, len(p.groups), 2)
    points = rng.standard_normal((active.size, p.X.shape[1]))
    normals = rng.standard_normal((active.size, 3, 3)) if cones else None
    if normals is not None:
        normals[:, 1:] = 0.0
        normals[::3] = 0.0
        tight = normals[:, 0] / np.maximum(np.linalg.norm(normals[:, 0], axis=1), 1e-9)[:, None]
        points -= np.einsum("gi,gi->g", tight, points)[:, None] * tight
    face = Face.of(active, p.groups.sign[active], points, normals, 1e-2, 30.0)
    tau = np.full(p.free.size, 5.0)
    f = rng.standard_normal((n, k))
    H = p.mean_loss.hessian(f)
    assert H.coupled == (loss == "softmax")
    right = rng.standard_normal((n, k))
    K = np.zeros((n * k, n * k))
    for g, root in zip(active, face.roots[0], strict=True):
        columns = p.patterns.masks[:, p.groups.pattern[g], None] * (p.X @ root)
        block = np.zeros((n, k, columns.shape[1]))
        block[:, p.groups.output[g]] = columns
        K += block.reshape(n * k, -1) @ block.reshape(n * k, -1).T
    for output in range(k):
        block = np.zeros((n, k, p.free.size))
        block[:, output] = np.sqrt(tau) * p.Z
        K += block.reshape(n * k, -1) @ block.reshape(n * k, -1).T
    full = np.zeros((n, k, n, k))
    full[np.arange(n), :, np.arange(n)] = H.matrices
    expected = np.linalg.solve(np.eye(n * k) + K @ full.reshape(n * k, n * k), right.ravel())
    return NewtonSystem(operator, face, tau, H, right, expected.reshape(n, k))


@pytest.mark.parametrize("cones", [True, False])
def test_newton_systems_over_rows_columns_and_grams_agree(cones, monkeypatch):
    """(I + K K^T H) x = r by every way there is, against the matrix itself."""
    operator, face, tau, curvature, right, expected = case = newton_system(
        "two_outputs", cones=cones
    )
    p = make_case(loss="two_outputs", cones=cones)
    system = System(operator, p.groups.pattern, p.patterns.masks, Memory())
    found = [system.solve(face, curvature, tau, right)]
    monkeypatch.setattr(_systems, "_GATHERED", 0)
    system.solve(face, curvature, tau, right)
    found.append(system.solve(face, curvature, tau, right))  # the second time they are kept
    for answer in found:
        np.testing.assert_allclose(answer, expected, atol=1e-8)
    monkeypatch.setattr(_gradients, "CLOSE", 1e-24)
    monkeypatch.setattr(_systems, "CLOSE", 1e-24)
    for k in range(2):
        K, h, r = case.columns(k), curvature.D[:, [k]], right[:, [k]]
        found = [system._by_rows(K, h, r)]
        for size in (4, 20):  # a preconditioner over the rows of its sample, and over the columns
            monkeypatch.setattr(_systems, "_SAMPLE", (size, size))
            found.append(system._by_sample(K, h, r, 500))
            assert system._by_sample(K, h, r, 2) is None
        near = replace(K, face=replace(K.face, sigma=5.0), tau=0.3 * tau)
        system._by_kept(near, h, r, 1e12)  # forms the factor that serves next
        kept = system._memory.kept[k]
        found.append(system._by_kept(K, h, r, 1e12))
        assert kept.spent > 0.0
        assert system._memory.kept[k] is kept
        found.append(system._by_kept(K, h, r, 0.9 * kept.spent))  # spent: a new one
        assert system._memory.kept[k] is not kept
        for answer in found:
            np.testing.assert_allclose(answer, expected[:, [k]], atol=1e-8)


def test_a_newton_step_over_the_rows_is_right_where_there_is_no_curvature():
    case = newton_system("squared_error", cones=True)
    K = case.columns(0)
    (B,) = K.written_out().blocks
    h = np.where(np.arange(len(B)) % 3 == 0, 0.0, case.curvature.D[:, 0])[:, None]
    expected = np.linalg.solve(np.eye(len(B)) + B @ B.T * h[:, 0], case.right)
    S = np.sqrt(h)
    found = _systems._over_rows(K, S, case.right, K.row_factor(S))
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("cones", [True, False])
def test_newton_systems_of_coupled_outputs(cones, monkeypatch):
    """As they are, from all rows at once, and by conjugate gradients from samples of two sizes."""
    case = newton_system("softmax", cones=cones)
    K, n = case.columns(*range(3)), len(case.right)
    found, _ = _coupling.solved(K, case.curvature, case.right, 0)
    np.testing.assert_allclose(found, case.expected, atol=1e-8)
    monkeypatch.setattr(_coupling, "_DIRECT", 0.0)
    monkeypatch.setattr(_coupling, "_LIMIT", 1)
    found, _ = _coupling.solved(K, case.curvature, case.right, n)
    np.testing.assert_allclose(found, case.expected, atol=1e-8)
    monkeypatch.setattr(_gradients, "CLOSE", 1e-24)
    monkeypatch.setattr(_coupling, "_LIMIT", 500)
    sizes = K.sizes
    assert min(sizes) < n - 1
    for n_rows in (min(sizes) - 1, max(sizes) + 1):  # over the rows, and over the columns
        found, _ = _coupling.solved(K, case.curvature, case.right, n_rows)
        np.testing.assert_allclose(found, case.expected, atol=1e-8)


@pytest.mark.parametrize("cones", [True, False])
def test_samples_of_coupled_outputs_grow_where_they_do_not_serve(cones, monkeypatch):
    case = newton_system("softmax", cones=cones)
    K, n, formed, of = case.columns(*range(3)), len(case.right), [], _coupling._over_sample

    def counted(K, D, n_rows):
        formed.append(n_rows)
        return of(K, D, n_rows)

    monkeypatch.setattr(_coupling, "_over_sample", counted)
    monkeypatch.setattr(_coupling, "_DIRECT", 0.0)
    monkeypatch.setattr(_coupling, "_LIMIT", 2)
    found, _ = _coupling.solved(K, case.curvature, case.right, 2)
    assert formed[:3] == [2, 4, 8]
    assert formed[-1] <= n
    assert np.linalg.norm(found - case.expected) <= 0.1 * np.linalg.norm(case.expected)


@pytest.mark.parametrize("affordable", [True, False])
def test_coupled_outputs_of_which_gradients_make_nothing(affordable, monkeypatch):
    """They are formed, or if that is too large, the step is at least one of descent."""
    case = newton_system("softmax", cones=True)
    K, H, right = case.columns(*range(3)), case.curvature, case.right
    monkeypatch.setattr(_coupling, "_DIRECT", 0.0)
    monkeypatch.setattr(_coupling, "_LIMIT", 1)
    monkeypatch.setattr(_coupling, "_over_sample", lambda K, D, n_rows: Scaled(1e-3))
    monkeypatch.setattr(_coupling, "MAX_FLOATS", K.number**2 - (not affordable))
    found, _ = _coupling.solved(K, H, right, len(right))
    if affordable:
        np.testing.assert_allclose(found, case.expected, atol=1e-8)
    else:
        assert np.vdot(found, H.times(right)) > 0.0
        assert np.linalg.norm(found - case.expected) > 0.1 * np.linalg.norm(case.expected)


class Scaled(NamedTuple):
    """A preconditioner that helps nothing."""

    by: float

    def solve(self, r):
        return self.by * r


def test_inverses_of_coupled_outputs_with_few_many_and_no_columns():
    rng, n = np.random.default_rng(0), 7
    D, sizes = rng.dirichlet(np.ones(3), n), (4, 0, 9)
    blocks = [rng.standard_normal((n, size)) for size in sizes]
    K = np.zeros((n, 3, sum(sizes)))
    K[:, 0, :4], K[:, 2, 4:] = blocks[0], blocks[2]
    whole = np.eye(K.shape[2]) + np.einsum("iap,iab,ibq->pq", K, Hessian(D, True).matrices, K)
    r = rng.standard_normal(K.shape[2])
    found = _coupling.CoupledInverse.of(blocks, D).solve(r)
    np.testing.assert_allclose(found, np.linalg.solve(whole, r), atol=1e-13)


def test_coupled_outputs_without_columns():
    case = newton_system("softmax", cones=True)
    none = case._replace(face=case.face.take(np.arange(0)), tau=np.empty(0))
    found, _ = _coupling.solved(none.columns(0, 1, 2), case.curvature, case.right, 0)
    np.testing.assert_array_equal(found, case.right)


@pytest.mark.parametrize("enough", [True, False])
@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", APART)
def test_conjugate_gradients_lead_to_the_same_optimum(loss, cones, enough, monkeypatch):
    """Or, where they have not enough iterations, are tried once and not again."""
    program = make_case(loss=loss, cones=cones)
    expected = objective(program, newton.solve(program))
    tried = []
    by_sample = System._by_sample

    def counted(self, *arguments):
        found = by_sample(self, *arguments[:-1], 500 if enough else 1)
        tried.append(found is not None)
        return found

    monkeypatch.setattr(System, "_by_sample", counted)
    limits = {"_MANY": 0, "_KEPT": 0, "_FEW": -1, "_GRAM": 0, "_SAMPLE": (10, 10)}
    for name, value in limits.items():
        monkeypatch.setattr(_systems, name, value)
    solution = newton.solve(program)
    assert solution.status is Status.OPTIMAL
    assert objective(program, solution) == pytest.approx(
        expected, rel=0.0, abs=1e-8 * scale(program)
    )
    assert len(tried) > 5 if enough else len(tried) == 1
    assert all(tried) == enough


@pytest.mark.parametrize("n_rows", [1, 4, 20])
@pytest.mark.parametrize("cones", [True, False])
def test_any_sample_leads_to_the_same_optimum_of_coupled_outputs(cones, n_rows, monkeypatch):
    program = make_case(loss="softmax", cones=cones)
    expected = objective(program, newton.solve(program))
    asked, solved = [], _coupling.solved

    def sampled(K, H, right, _):
        asked.append(n_rows)
        return solved(K, H, right, n_rows)

    monkeypatch.setattr(_coupling, "solved", sampled)
    monkeypatch.setattr(_coupling, "_DIRECT", 0.0)
    solution = newton.solve(program)
    assert len(asked) > 5
    assert solution.status is Status.OPTIMAL
    assert objective(program, solution) == pytest.approx(
        expected, rel=0.0, abs=1e-8 * scale(program)
    )


@pytest.mark.parametrize("serves", ["single", "double", "none"])
@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", APART)
def test_kept_factors_lead_to_the_same_optimum(loss, cones, serves, monkeypatch):
    program = make_case(loss=loss, cones=cones)
    expected = objective(program, newton.solve(program))
    tried = []
    by_factor, row_factor = _systems._by_factor, Columns.row_factor

    def counted(K, S, right, factor, limit):
        tried.append(factor.lower.dtype)
        return by_factor(K, S, right, factor, limit if serves in tried[-1].name else 0)

    def made(K, S, dtype=float):
        if serves == "none" and dtype is np.float32:
            raise np.linalg.LinAlgError
        return row_factor(K, S, dtype)

    monkeypatch.setattr(_systems, "_by_factor", counted)
    monkeypatch.setattr(Columns, "row_factor", made)
    serves = {"single": "float32", "double": "float64"}.get(serves, serves)
    # At their own cost such small systems would all be formed anew.
    monkeypatch.setattr(_systems, "_operations", lambda K, rows: (1e9, 1e9))
    for name, value in {"_GRAM": 0, "_MANY": 0, "_FEW": np.inf}.items():
        monkeypatch.setattr(_systems, name, value)
    solution = newton.solve(program)
    assert solution.status is Status.OPTIMAL
    assert objective(program, solution) == pytest.approx(
        expected, rel=0.0, abs=1e-8 * scale(program)
    )
    assert len(tried) > 5
    singles = tried.count(np.dtype(np.float32))
    assert singles == {"float32": len(tried), "float64": 1, "none": 0}[serves]


@pytest.mark.parametrize("held", [0, 1, 5, 6])
def test_outer_products_of_faces_from_what_they_have_or_lack(held):
    program = make_case("wide")
    p, rng = program, np.random.default_rng(0)
    d = p.X.shape[1]
    operator = Operator.build(p.X, p.Z, p.patterns.masks, p.groups, p.n_outputs)
    active = np.arange(0, len(p.groups), 2)
    normals = rng.standard_normal((active.size, held, d))
    normals[::3, 1:] = 0.0
    basis = np.linalg.qr(normals.transpose(0, 2, 1))[0] * normals.any(axis=2)[:, None, :]
    points = rng.standard_normal((active.size, d))
    points -= np.einsum("gij,gkj,gk->gi", basis, basis, points)
    face = Face.of(active, p.groups.sign[active], points, normals, 1e-2, 30.0)
    K = Columns(operator, face, (0,), np.zeros(p.free.size))
    expected = np.zeros((len(p.X), len(p.X)))
    for g, root in zip(active, face.roots[0], strict=True):
        columns = p.patterns.masks[:, p.groups.pattern[g], None] * (p.X @ root)
        expected += columns @ columns.T
    scale = rng.uniform(0.5, 2.0, (len(p.X), 1))
    found, expected = square(K.outer(scale)), scale * expected * scale.T
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * expected.max())


def test_constraints_that_follow_from_others_hold_nothing_more():
    rng = np.random.default_rng(0)
    a, b, c = np.linalg.qr(rng.standard_normal((6, 3)))[0].T
    a, b, c = a, (a + b) / np.sqrt(2.0), (a + b + c) / np.sqrt(3.0)
    between = (a + b) / np.linalg.norm(a + b)
    p = rng.standard_normal((2, 6))
    basis = np.linalg.qr(np.stack([a, b, c]).T)[0]
    p -= p @ basis @ basis.T
    none = np.zeros(6)
    plain = np.array([[a, b, c, none, none]] * 2)
    repeated = np.array([[a, a, b, between, c], [c, b, a, none, none]])
    faces = [
        Face.of(np.arange(2), np.ones(2), p, normals, 1e-2, 3.0) for normals in (plain, repeated)
    ]
    for face in faces:
        assert face.held.tolist() == [3, 3]
        U = face.complement
        np.testing.assert_allclose(U @ U.transpose(0, 2, 1), [basis @ basis.T] * 2, atol=1e-12)
    squares = [roots @ roots.transpose(0, 2, 1) for roots in (face.roots[0] for face in faces)]
    np.testing.assert_allclose(squares[0], squares[1], atol=1e-12)


def test_faces_are_the_derivative_of_the_proximal_map():
    program = make_case(size=0.1)
    cones = Cones.of(program.X, program.patterns.masks)
    rng = np.random.default_rng(0)
    cone = program.groups.pattern
    u = program.adjoint(-program.weights[:, None] * (program.offset - program.y))
    u += 0.1 * program.alpha * rng.standard_normal(u.shape)
    alpha, sigma = 0.3 * np.linalg.norm(u, axis=1).max(), 7.0

    def proximal(points):
        p, tight = cones.project(cone, points, Tight.none(*points.shape))
        size = np.maximum(np.linalg.norm(p, axis=1), 1e-300)
        return sigma * np.maximum(1.0 - alpha / size, 0.0)[:, None] * p, p, tight

    _, p, tight = proximal(u)
    active = np.flatnonzero(np.linalg.norm(p, axis=1) > alpha)
    assert active.size > 2
    assert tight.number[active].max() > 0
    normals = cones.normals(cone[active], tight.take(active))
    face = Face.of(active, np.ones(active.size), p[active], normals, alpha, sigma)
    direction, step = rng.standard_normal(u.shape), 1e-7
    slope = (proximal(u + step * direction)[0] - proximal(u - step * direction)[0]) / (2 * step)
    roots, _ = face.roots
    model = np.einsum("gij,gkj,gk->gi", roots, roots, direction[active])
    np.testing.assert_allclose(slope[active], model, atol=1e-5)


@pytest.mark.parametrize("shape", ["plane", "wide", "duplicated rows", "ties"])
def test_projections_on_many_cones_are_those_on_each(shape):
    program = make_case(shape)
    X, masks = program.X, program.patterns.masks
    cones = Cones.of(X, masks)
    rng = np.random.default_rng(0)
    cone = rng.integers(masks.shape[1], size=60)
    points = rng.standard_normal((60, X.shape[1]))
    found, tight = cones.project(cone, points, Tight.none(*points.shape))
    expected = [projection(X, masks[:, c], b) for c, b in zip(cone, points, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-10)
    # The constraints of one point serve for another, near or far, and change nothing.
    for size in (1e-3, 10.0):
        others = points + size * rng.standard_normal(points.shape)
        warm, _ = cones.project(cone, others, tight)
        cold, _ = cones.project(cone, others, Tight.none(*points.shape))
        np.testing.assert_allclose(warm, cold, atol=1e-10 * (1.0 + size))


def test_rows_of_zeros_hold_no_projection_back():
    program = make_case("plane")
    X, masks = program.X.copy(), program.patterns.masks
    X[:5] = 0.0
    rng = np.random.default_rng(0)
    cone, points = rng.integers(masks.shape[1], size=20), rng.standard_normal((20, 3))
    found, _ = Cones.of(X, masks).project(cone, points)
    expected = [projection(X, masks[:, c], b) for c, b in zip(cone, points, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("number", [1, 5, 60, 100])
@pytest.mark.parametrize("enough", [0.0, 0.7])
def test_the_longest_projections_are_exact_and_bound_the_others(number, enough):
    program = make_case("plane")
    cones = Cones.of(program.X, program.patterns.masks)
    rng = np.random.default_rng(0)
    cone = rng.integers(program.patterns.masks.shape[1], size=60)
    points = rng.standard_normal((60, program.X.shape[1]))
    none = Tight.none(*points.shape)
    exact = np.linalg.norm(cones.project(cone, points, none)[0], axis=1)
    found, tight = cones.longest(cone, points, none, number, enough)
    least = max(enough, np.sort(exact)[-min(number, 60)])
    high = exact >= least
    np.testing.assert_allclose(found[high], exact[high], rtol=1e-10)
    assert (found[~high] >= exact[~high] - 1e-12).all()
    assert (found[~high] <= least + 1e-12).all()
    again, _ = cones.project(cone[high], points[high], tight.take(high))
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), exact[high], rtol=1e-10)


@pytest.mark.parametrize("kind", ["spread", "repeated rows", "thin cones"])
def test_projections_in_many_dimensions(kind):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4000 if kind == "thin cones" else 400, 20))
    if kind == "repeated rows":
        X = np.round(X[rng.integers(40, size=400)])
    masks = (X @ rng.standard_normal((20, 12))) > 0.0
    points = rng.standard_normal((12, 20))
    found, tight = Cones.of(X, masks).project(np.arange(12), points, Tight.none(12, 20))
    assert tight.number.max() > 4
    expected = [projection(X, mask, b) for mask, b in zip(masks.T, points, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_projections_far_shorter_than_their_points_are_exact():
    """In thin cones, as of columns of very different sizes, a point hides what moves its projection."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** np.arange(0.0, 7.0, 3.0)
    X = rng.standard_normal((80, 3)) * sizes
    masks = X @ (rng.standard_normal((3, 60)) / sizes[:, None]) > 0.0
    points = rng.standard_normal((60, 3)) * sizes
    found, _ = Cones.of(X, masks).project(np.arange(60), points, Tight.none(60, 3))
    expected = [projection(X, mask, b) for mask, b in zip(masks.T, points, strict=True)]
    exact, of_points = (np.linalg.norm(v, axis=1) for v in (expected, points))
    thin = (exact > 1e-9 * of_points) & (exact < 1e-4 * of_points)
    assert np.count_nonzero(thin) > 5
    np.testing.assert_allclose(np.linalg.norm(found, axis=1)[thin], exact[thin], rtol=1e-3)


def test_points_in_the_polar_cone_take_no_more_rounds_than_others(monkeypatch):
    """Rounding leaves a length of them, and rows that what is left seems to violate for ever."""
    rng = np.random.default_rng(0)
    X = np.maximum(rng.standard_normal((400, 4)) @ rng.standard_normal((4, 19)) - 0.5, 0.0)
    X = np.column_stack([X, np.ones(400)])  # hidden features: thin cones
    inside = rng.standard_normal((40, 20))
    inside /= np.linalg.norm(inside, axis=1)[:, None]
    points = rng.standard_normal((40, 20))
    points -= (np.vecdot(points, inside) + 30.0)[:, None] * inside
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return nnls(*args, **kwargs)

    monkeypatch.setattr(cones_module, "nnls", counted)
    found, _ = Cones.of(X, (X @ inside.T) > 0.0).project(np.arange(40), points)
    shortest = np.linalg.norm(found, axis=1) < 1e-12
    assert np.count_nonzero(shortest) >= 20
    assert len(calls) <= 40 * 20


def test_a_projection_that_goes_round_in_circles_stays_an_upper_bound(monkeypatch):
    """Non-negative least squares may give up: what was found before counts, nothing else."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 20))
    masks, points = (X @ rng.standard_normal((20, 12))) > 0.0, rng.standard_normal((12, 20))
    cones, cone, none = Cones.of(X, masks), np.arange(12), Tight.none(12, 20)
    exact, _ = cones.project(cone, points, none)
    calls = []

    def gives_up(*args, **kwargs):
        calls.append(args)
        if len(calls) > 20:
            raise RuntimeError("Maximum number of iterations reached.")
        return nnls(*args, **kwargs)

    monkeypatch.setattr(cones_module, "nnls", gives_up)
    found, tight = cones.project(cone, points, none)
    assert len(calls) > 20
    longer = np.linalg.norm(found, axis=1) - np.linalg.norm(exact, axis=1)
    assert longer.min() >= -1e-12
    assert longer.max() > 1e-3
    normals = cones.normals(cone, tight)
    rho = tight.narrowed().rho
    assert np.all(rho >= 0.0)
    np.testing.assert_allclose(found, points + np.einsum("gk,gkd->gd", rho, normals), atol=1e-12)


def test_more_rows_than_can_be_independent_are_no_answer(monkeypatch):
    rng = np.random.default_rng(0)
    X, points = rng.standard_normal((400, 20)), rng.standard_normal((12, 20))
    masks = X @ rng.standard_normal((20, 12)) > 0.0
    monkeypatch.setattr(cones_module, "nnls", lambda A, b, maxiter: (np.ones(A.shape[1]), 0.0))
    _, tight = Cones.of(X, masks).project(np.arange(12), points)
    assert tight.number.max() <= 20


def test_multipliers_of_another_point_do_not_stay_where_a_search_gives_up(monkeypatch):
    def gives_up(*_, **__):
        raise RuntimeError("Maximum number of iterations reached.")

    program = make_case("plane")
    cones = Cones.of(program.X, program.patterns.masks)
    rng = np.random.default_rng(0)
    cone = rng.integers(program.patterns.masks.shape[1], size=60)
    points = rng.standard_normal((60, 3))
    _, tight = cones.project(cone, 1e3 * points)
    monkeypatch.setattr(cones_module, "nnls", gives_up)
    found, _ = cones.project(cone, -points, tight)
    longest = np.linalg.norm(points, axis=1) * (1.0 + 1e-12)
    assert np.all(np.linalg.norm(found, axis=1) <= longest)


def test_a_projection_left_early_is_long_enough():
    program = make_case("plane")
    cones = Cones.of(program.X, program.patterns.masks)
    points = np.random.default_rng(1).standard_normal((40, 3))
    cone = np.zeros(40, dtype=np.intp)
    none = Tight.none(40, 3)
    exact = np.linalg.norm(cones.project(cone, points, none)[0], axis=1)
    for enough in (0.3, 1.0, 3.0):
        left = np.linalg.norm(cones.project(cone, points, none, enough=enough)[0], axis=1)
        assert np.all(left >= exact - 1e-12)
        np.testing.assert_allclose(left[left > enough], exact[left > enough], atol=1e-12)
        assert np.all(left[exact > enough] > enough)


def test_native_hands_over_to_its_other_method(monkeypatch):
    program = make_case()
    reference = interior.solve(program)
    failed = replace(reference, status=Status.FAILED, gap=np.inf)
    monkeypatch.setattr(newton, "solve", lambda *args, **kwargs: failed)
    solution = solvers.solve(program, solver="native")
    assert objective(program, solution) == pytest.approx(objective(program, reference), abs=1e-12)


def test_groups_of_no_program_are_left_out_of_no_answer():
    """A program of one group, and one of which no group can be active."""
    program = make_case()
    one = program.take(np.array([0]))
    assert newton.solve(one).status is Status.OPTIMAL
    empty = Groups.every(0, 1, signed=True)
    solution = solvers.solve(program.over(program.patterns, empty))
    assert solution.blocks.shape == (0, 3)


@pytest.mark.parametrize("angle", [1e-3, 1e-5])
def test_projections_between_rows_that_are_nearly_parallel_have_their_digits(angle):
    """In the plane of the rows, the cone is a wedge of that angle away from the points: its tip."""
    X, masks = np.array([[1.0, 0.0, 0.0], [1.0, angle, 0.0]]), np.array([[True], [False]])
    points = np.abs(np.random.default_rng(0).standard_normal((200, 3)))
    found, tight = Cones.of(X, masks).project(np.zeros(200, dtype=np.intp), points)
    np.testing.assert_array_equal(tight.number, 2)
    np.testing.assert_allclose(found, points * [0.0, 0.0, 1.0], atol=1e-9)


def test_a_theta_that_is_off_balance_proves_no_higher_bound():
    """That of the offset, where an intercept is all that is missing: above the optimum by itself."""
    program = random_program(0, n=12, cones=False)
    program = replace(program, alpha=10.0, offset=program.offset + 3.0)
    setup = newton._Setup.of(program)
    blocks = np.zeros((len(program.groups), 2))
    best = _proximal.Unknowns(blocks, program.null_coefficients)
    theta = -program.mean_loss.gradient(program.offset)
    pricing = setup.price(best, np.arange(0), theta, Tight.none(*blocks.shape))
    assert pricing.prices.max() < program.alpha
    assert pricing.gap > 0.0


def test_a_point_outside_the_cones_is_a_failure_however_small_its_gap():
    program = random_program(0, n=12)
    v = -program.patterns.gates[:, program.groups.pattern].T
    assert program.violation(v) > 0.01
    point = _proximal.Unknowns(v, program.null_coefficients)
    best = newton._Best(point, 0.0, 1, Tight.none(*v.shape))
    solution = newton._solution(newton._Setup.of(program), best, 1e-9, 1, 60)
    assert (solution.status, solution.gap) == (Status.FAILED, np.inf)
