"""Newton's method on the active groups: against interior points and CLARABEL, in corners, its parts."""

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from convexgrade import solvers
from convexgrade.patterns import sample_patterns
from convexgrade.solution import Start, Status
from convexgrade.solvers import _systems, active, cvx, interior, newton
from convexgrade.solvers._systems import PatternGrams
from tests.bank import KNOWN, assert_solves, make_program
from tests.cases import CLARABEL, FREE, assert_as_good, make_case, objective, real_program, scale

LOSSES = ["squared_error", "two_outputs", "binary"]


def test_a_gap_that_falls_steadily_is_waited_for():
    """It is given up when it has not halved for some rounds, however little each of them gains."""
    best = active._Best(None, np.inf, np.inf, 0)
    for k in range(30):
        best = best.updated(k, 0.55**k)
        assert best.waited <= 1
    least = best.gap
    for _ in range(5):
        best = best.updated(-1, 2.0 * least)
    assert (best.point, best.gap) == (29, least)
    assert best.waited >= 5


@pytest.mark.parametrize("known", [p for p in KNOWN if not p.program.cones], ids=str)
def test_known_optimum(known):
    solution = active.solve(known.program)
    assert solution.status is Status.OPTIMAL
    assert_solves(known, solution)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "shape", ["line", "plane", "wide", "duplicated rows", "duplicated columns", "ties"]
)
def test_agrees_with_interior_points_on_rows_of_every_shape(shape, loss):
    program = make_case(shape, loss, cones=False)
    found, reference = active.solve(program), interior.solve(program)
    assert found.gap <= 1e-8
    assert_as_good(program, found, reference)


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_with_clarabel_for_any_unpenalised_columns(loss, free):
    program = make_case(loss=loss, free=free, cones=False, seed=1)
    found, reference = active.solve(program), cvx.solve(program, solver="clarabel")
    assert found.status is Status.OPTIMAL
    assert_as_good(program, found, reference, CLARABEL)


@pytest.mark.parametrize("size", [0.9, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gap_it_reports_holds_for_any_alpha(loss, size):
    program = make_case(loss=loss, size=size, cones=False, seed=2)
    found, reference = active.solve(program), interior.solve(program, tol=1e-10)
    if loss != "binary" or size > 1e-6:  # nearly separable classes are left to interior points
        assert found.gap <= 1e-6
    excess = objective(program, found) - objective(program, reference)
    assert excess <= (found.gap + 1e-8) * scale(program)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_neurons_above_alpha_max(loss):
    program = make_case(loss=loss, size=1.5, cones=False)
    solution = active.solve(program)
    assert solution.status is Status.OPTIMAL
    np.testing.assert_array_equal(solution.blocks, 0.0)


def test_groups_that_do_not_matter_are_exactly_zero():
    program = make_case(size=0.3, cones=False)
    norms = np.linalg.norm(active.solve(program).blocks, axis=1)
    assert 0 < np.count_nonzero(norms) < norms.size


@pytest.mark.parametrize("alpha", [1e-2, 1e-3])
def test_groups_join_until_all_that_matter_are_there(alpha):
    program = real_program("concrete", 700, 90, alpha, cones=False)
    found, reference = active.solve(program, tol=1e-8), interior.solve(program, tol=1e-9)
    assert found.status is Status.OPTIMAL
    assert np.count_nonzero(found.blocks.any(axis=1)) > active._JOIN
    assert objective(program, found) == pytest.approx(objective(program, reference), rel=1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_setting_out_from_the_optimum_ends_there(loss):
    program = make_case(loss=loss, cones=False)
    cold = active.solve(program)
    warm = active.solve(program, start=Start(cold.blocks, cold.unpenalised, 1e-6))
    assert warm.status is Status.OPTIMAL
    assert warm.iterations == 1
    assert objective(program, warm) == pytest.approx(objective(program, cold), abs=1e-9)


def test_setting_out_from_a_wrong_point_ends_at_the_optimum():
    program = make_case(cones=False)
    cold = active.solve(program)
    wrong = Start(1.0 - 10.0 * cold.blocks, cold.unpenalised + 5.0, 1e-6)
    assert objective(program, active.solve(program, start=wrong)) == pytest.approx(
        objective(program, cold), abs=1e-9
    )


def test_the_objective_falls_from_round_to_round():
    program = real_program("concrete", 200, 80, 1e-3, cones=False)
    values = [objective(program, active.solve(program, max_iter=k)) for k in range(1, 8)]
    assert np.all(np.diff(values) <= 1e-12)
    assert values[-1] < 0.5 * values[0]


def test_threads_do_not_change_the_answer():
    program = real_program("concrete", 400, 150, 1e-2, cones=False)
    with threadpool_limits(1):
        one = active.solve(program)
    many = active.solve(program)
    assert objective(program, one) == pytest.approx(objective(program, many), rel=1e-9)


def test_the_iteration_limit_is_reported():
    solution = active.solve(make_case(cones=False), max_iter=1)
    assert (solution.status, solution.iterations) == (Status.ITERATION_LIMIT, 1)
    assert np.isfinite(solution.gap)


def test_numbers_that_are_not_finite_are_a_failure_not_an_exception():
    program = make_case(cones=False)
    assert active.solve(replace(program, y=program.y * np.nan)).status is Status.FAILED


@pytest.mark.parametrize(("loss", "cones"), [("softmax", False), ("squared_error", True)])
def test_it_suits_no_cones_no_coupled_outputs_no_signs_and_few_columns(loss, cones):
    assert not active.suits(make_case(loss=loss, cones=cones))
    program = make_case(loss="two_outputs", cones=False)
    assert active.suits(program)
    assert not active.suits(replace(program, X=np.tile(program.X, 10)))
    signed = replace(program.groups, sign=-program.groups.sign)
    assert not active.suits(replace(program, groups=signed))


def test_it_suits_many_columns_where_all_variables_are_few():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((150, 24)), rng.standard_normal(150)
    few, more = (sample_patterns(X, n, rng) for n in (6, 7))
    program = make_program(X, y, alpha=0.1, cones=False, patterns=few)
    program = replace(program, alpha=0.3 * program.alpha_max())
    assert active.suits(program)
    assert not active.suits(make_program(X, y, alpha=0.1, cones=False, patterns=more))
    found, reference = active.solve(program), interior.solve(program, tol=1e-10)
    assert found.gap <= 1e-9
    assert_as_good(program, found, reference)


def test_others_go_on_where_systems_become_too_large(monkeypatch):
    program = real_program("concrete", 200, 80, 1e-3, cones=False)
    reference = interior.solve(program, tol=1e-10)
    monkeypatch.setattr(active, "_COLUMNS", 0)
    unfinished = active.solve(program)
    assert unfinished.status is Status.INACCURATE
    assert np.count_nonzero(unfinished.blocks.any(axis=1)) * program.X.shape[1] > 200
    starts = []

    def seen(program, *, start, tol):
        starts.append(start)
        return solve(program, start=start, tol=tol)

    solve = interior.solve
    monkeypatch.setattr(interior, "solve", seen)
    solution = solvers.solve(program, solver="native")
    np.testing.assert_array_equal(starts[0].blocks, unfinished.blocks)
    assert objective(program, solution) == pytest.approx(objective(program, reference), rel=1e-8)


def test_too_many_patterns_for_a_gram_matrix_leave_the_rest_to_others(monkeypatch):
    program = real_program("concrete", 200, 80, 1e-3, cones=False)
    monkeypatch.setattr(PatternGrams, "at", lambda self, patterns: None)
    assert active.solve(program).status is Status.INACCURATE
    solution = solvers.solve(program, solver="native")
    assert objective(program, solution) == pytest.approx(
        objective(program, newton.solve(program)), rel=1e-8
    )


@pytest.mark.parametrize("free", FREE)
def test_gram_matrices_grow_to_the_products_of_all_columns(free, monkeypatch):
    for name, value in (("_CACHED", 40), ("_TOGETHER", 3)):  # few rows at a time
        monkeypatch.setattr(_systems, name, value)
    program = make_case(free=free, cones=False)
    X, masks = program.X, program.patterns.masks
    curvature = np.random.default_rng(0).uniform(size=len(X))
    grams = PatternGrams(X, program.Z, masks, curvature)
    for patterns in ([2, 0], [4, 2, 2, 1]):
        columns = [program.Z, *(masks[:, [p]] * X for p in patterns)]
        columns = np.concatenate(columns, axis=1)
        expected = columns.T @ (curvature[:, None] * columns)
        np.testing.assert_allclose(grams.at(np.array(patterns)), expected, atol=1e-12)
