"""Working sets: neurons as points, and column generation against the whole program."""

from dataclasses import replace

import numpy as np
import pytest

from convexgrade import ConvexReLURegressor, polishing, solvers, unpenalised, working_set
from convexgrade import point as point_module
from convexgrade import program as program_module
from convexgrade.certificate import certify_network
from convexgrade.dual import DualPoint
from convexgrade.groups import Groups
from convexgrade.kinks import AbsoluteError, Huber, SquaredHinge
from convexgrade.losses import BinaryLogLoss, MeanLoss, Poisson, SquaredError
from convexgrade.neurons import Neurons
from convexgrade.patterns import activation, sample_patterns
from convexgrade.point import (
    FAR,
    drawn_in,
    keep_neurons,
    no_worse_than_null,
    null_point,
    point_of,
)
from convexgrade.polishing import polish
from convexgrade.search import descend, random_neurons
from convexgrade.solution import Status
from convexgrade.solvers import _kkt, cvx
from convexgrade.working_set import solve_groups, solve_groups_within, solve_over
from tests.bank import make_program, random_program

KINDS = [("squared_error", 1), ("squared_error", 2), ("binary", 1), ("softmax", 3)]


def loss_before(program):
    return program.mean_loss(program.offset)


def reference_optimum(program):
    solution = cvx.solve(program, solver="clarabel")
    return program.objective(solution.blocks, solution.unpenalised)


def some_neurons(program, rng, *, m=12):
    """Neurons of random directions, sizes, signs and outputs."""
    vectors = rng.standard_normal((program.X.shape[1], m)) * rng.uniform(0.1, 2.0, m)
    sign = rng.choice([-1.0, 1.0], m)
    return Neurons(vectors, sign, rng.integers(program.n_outputs, size=m))


def test_what_is_dropped_counts_in_the_unit_of_gaps():
    """The loss of the grade without neurons, which a linear term can make far smaller."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((30, 2)), np.ones(30)])
    program = make_program(X, 10.0 * X[:, 0] + np.abs(X[:, 1]), alpha=1e-3, free=[0, 1, 2])
    assert program.null_loss < 0.02 * program.loss_before
    null = null_point(program, program.patterns)
    neurons = Neurons(
        np.array([[0.0, 0.0], [1e-3, -1e-3], [0.0, 0.0]]), np.ones(2), np.zeros(2, int)
    )
    point = replace(point_of(program, neurons, null.unpenalised), gap=0.0)
    fewer = keep_neurons(program, point, np.arange(1))
    rise = fewer.objective - point.objective
    assert rise > 0.0
    assert fewer.gap == pytest.approx(rise / program.null_loss)


def test_small_is_what_rows_of_weight_see_little_of():
    """A block that only a row of next to no weight sees is no large one."""
    program = make_program(
        [[1.0, 0.0], [0.0, 1e9]], [1.0, 0.0], alpha=0.1, weights=[1.0, 1e-20], cones=False
    )
    large = point_module._large(program, np.array([[1.0, 0.0], [0.0, 1e-3]]), 1e-3)
    np.testing.assert_array_equal(large, [0])


@pytest.mark.parametrize(("loss", "k"), KINDS)
def test_a_point_predicts_what_its_neurons_do(loss, k):
    rng = np.random.default_rng(0)
    program = random_program(0, loss=loss, n=15, d=3, k=k)
    neurons, c = some_neurons(program, rng), rng.standard_normal((1, k))
    point = point_of(program, neurons, c)
    expected = program.offset + neurons.forward(program.X, k) + program.Z @ c
    np.testing.assert_allclose(point.prediction(program), expected, atol=1e-12)
    np.testing.assert_allclose(
        program.offset + point.network(program).forward(program.X[:, :-1]), expected, atol=1e-12
    )
    own = program.over(point.patterns, point.groups)
    assert own.violation(point.blocks) <= 1e-12
    penalty = program.alpha * np.linalg.norm(neurons.vectors, axis=0).sum()
    assert point.objective <= program.mean_loss(expected) + penalty + 1e-12
    assert point.objective == pytest.approx(own.objective(point.blocks, c), rel=1e-14)


def test_neurons_of_one_pattern_sign_and_output_add_up():
    program = random_program(1, n=12, d=3, k=2)
    rng = np.random.default_rng(0)
    u, w = rng.standard_normal((2, 3))
    near = u + 1e-6 * w
    assert np.array_equal(program.X @ u >= 0.0, program.X @ near >= 0.0)
    neurons = Neurons(
        np.column_stack([u, 2.0 * near, 3.0 * u, 4.0 * u, 5.0 * w]),
        np.array([1.0, 1.0, -1.0, 1.0, 1.0]),
        np.array([0, 0, 0, 1, 0]),
    )
    point = point_of(program, neurons, np.zeros((1, 2)))
    assert len(point.groups) == 4
    assert len(point.patterns) == 2
    place = point.patterns.find(activation(program.X, u[:, None]))[0]
    chosen = {
        (g, s, k): v
        for g, s, k, v in zip(
            point.groups.pattern, point.groups.sign, point.groups.output, point.blocks, strict=True
        )
    }
    np.testing.assert_allclose(chosen[place, 1.0, 0], u + 2.0 * near, rtol=1e-14)
    np.testing.assert_allclose(chosen[place, -1.0, 0], 3.0 * u, rtol=1e-14)
    np.testing.assert_allclose(chosen[place, 1.0, 1], 4.0 * u, rtol=1e-14)
    expected = program.offset + neurons.forward(program.X, 2)
    np.testing.assert_allclose(point.prediction(program), expected, atol=1e-12)
    size = np.linalg.norm(neurons.vectors, axis=0).sum()
    assert np.linalg.norm(point.blocks, axis=1).sum() <= size


def test_a_neuron_active_nowhere_is_dropped():
    program = random_program(2, n=12, d=3)
    alive = np.array([1.0, 0.5, 0.2])
    dead = np.array([0.0, 0.0, -1.0])  # the constant alone, below zero
    neurons = Neurons(np.column_stack([dead, alive, 7.0 * dead]), np.ones(3), np.zeros(3, int))
    point = point_of(program, neurons, np.ones((1, 1)))
    np.testing.assert_array_equal(point.blocks, [alive])
    none = point_of(program, neurons.take(np.array([0, 2])), np.ones((1, 1)))
    assert none.blocks.shape == (0, 3)
    assert none.objective == pytest.approx(program.mean_loss(program.offset + 1.0))


@pytest.mark.parametrize("cones", [True, False])
def test_gates_bring_patterns_with_zero_blocks(cones):
    rng = np.random.default_rng(3)
    program = random_program(3, n=15, d=3, cones=cones)
    gates = rng.standard_normal((3, 6))
    vectors = gates * rng.uniform(0.5, 2.0, 6) if cones else rng.standard_normal((3, 6))
    vectors[:, 4:] = 0.0
    point = point_of(program, Neurons(vectors, np.ones(6), np.zeros(6, int)), np.ones((1, 1)),
                     gates=gates)  # fmt: skip
    masks = activation(program.X, gates)
    assert len({mask.tobytes() for mask in masks.T}) == 6
    np.testing.assert_array_equal(point.patterns.masks, masks)
    np.testing.assert_array_equal(point.patterns.gates, gates)
    np.testing.assert_allclose(point.blocks[np.argsort(point.groups.pattern)], vectors.T)
    expected = program.offset + 1.0 + ((program.X @ vectors) * masks).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(point.prediction(program), expected, atol=1e-12)
    solved = solve_groups(program, point, point.groups, solver="native")
    whole = program.over(point.patterns, point.groups)
    assert solved.objective == pytest.approx(reference_optimum(whole), rel=1e-7)


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize(("loss", "k"), KINDS)
def test_any_start_ends_at_the_optimum_over_all_groups(loss, k, cones):
    program = random_program(4, loss=loss, n=15, d=2, k=k, cones=cones)
    optimum = reference_optimum(program)
    tol = 1e-6
    cold = solve_over(program, program.patterns, None, solver="native", tol=tol)
    rng = np.random.default_rng(0)
    chosen = program.groups.take(np.sort(rng.choice(len(program.groups), 5, replace=False)))
    gates = program.patterns.gates[:, chosen.pattern].T
    huge = replace(
        null_point(program, program.patterns),
        groups=chosen,
        blocks=100.0 * gates,
        unpenalised=50.0 * rng.standard_normal(cold.unpenalised.shape),
    )
    own = program.over(program.patterns, chosen)
    huge = replace(huge, objective=own.objective(huge.blocks, huge.unpenalised))
    points = {
        "none": cold,
        "null": solve_over(
            program, program.patterns, null_point(program, program.patterns), solver="native",
            tol=tol,
        ),
        "itself": solve_over(program, program.patterns, cold, solver="native", tol=tol),
        "huge": solve_over(program, program.patterns, huge, solver="native", tol=tol),
    }  # fmt: skip
    for name, point in points.items():
        assert point.status is Status.OPTIMAL, name
        assert -1e-8 <= (point.objective - optimum) / loss_before(program) <= 2.0 * tol, name
        own = program.over(point.patterns, point.groups)
        assert own.violation(point.blocks) <= 1e-12, name
        assert point.objective == own.objective(point.blocks, point.unpenalised), name
        assert np.linalg.norm(point.blocks, axis=1).all(), name


@pytest.mark.parametrize("loss", ["squared_error", "softmax"])
def test_column_generation_over_more_groups_than_a_solver_gets(loss):
    k = 3 if loss == "softmax" else 1
    program = random_program(5, loss=loss, n=12, d=3, k=k)
    assert len(program.groups) > 120
    optimum = reference_optimum(program)
    chosen = program.groups.take(np.array([0, 7, 60]))
    start = replace(
        null_point(program, program.patterns),
        groups=chosen,
        blocks=program.patterns.gates[:, chosen.pattern].T,
    )
    own = program.over(start.patterns, chosen)
    start = replace(start, objective=own.objective(start.blocks, start.unpenalised))
    for first in (None, start):
        point = solve_over(program, program.patterns, first, solver="clarabel", tol=1e-6)
        assert -1e-8 <= (point.objective - optimum) / loss_before(program) <= 2e-6


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize(("loss", "k"), KINDS)
def test_a_solution_has_no_more_neurons_an_output_than_rows(loss, k, cones):
    program = random_program(6, loss=loss, n=6, d=3, k=k, cones=cones, alpha=1e-4)
    point = solve_over(program, program.patterns, None, solver="native", tol=1e-6)
    assert point.n_before >= len(point.groups) > 0
    assert np.bincount(point.groups.output).max() <= len(program.X)
    assert len(point.blocks) == len(point.groups) == point.network(program).n_neurons


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("seed", range(4))
def test_the_solution_is_never_above_its_start(seed, tol):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.standard_normal((40, 3)), np.ones(40)])
    y = rng.standard_normal((40, 1 + seed % 2))
    few = sample_patterns(X, 1, rng)
    program = make_program(X, y, alpha=0.003, free=[3], patterns=few)
    null = null_point(program, program.patterns)
    neurons = random_neurons(program, 30, rng)
    neurons, c = descend(program, neurons, null.unpenalised, max_iter=400)
    point = point_of(program, neurons, c)
    for _ in range(3):
        solved = solve_over(program, point.patterns, point, solver="native", tol=tol)
        rise = solved.objective - point.objective
        assert rise <= 1e-6 * loss_before(program)
        point = solved


@pytest.mark.parametrize("begin", ["nothing", "a start"])
def test_a_solver_that_returns_a_worse_point_is_not_believed(begin, monkeypatch):
    program = random_program(7, n=15, d=2)
    honest = solvers.solve

    def worse(program, **options):
        solution = honest(program, **options)
        return replace(solution, blocks=20.0 * solution.blocks + program.patterns.gates[
            :, program.groups.pattern].T)  # fmt: skip

    start = None
    if begin == "a start":
        patterns = sample_patterns(program.X, 3, np.random.default_rng(0))
        few = solve_over(program, patterns, None, solver="native", tol=1e-6)
        start = point_of(program, few.neurons(), few.unpenalised)
        program = program.over(start.patterns)
        start = replace(start, blocks=0.5 * start.blocks)
        own = program.over(start.patterns, start.groups)
        start = replace(start, objective=own.objective(start.blocks, start.unpenalised))
    monkeypatch.setattr(solvers, "solve", worse)
    point = solve_over(program, program.patterns, start, solver="native", tol=1e-6)
    assert point.status is Status.INACCURATE
    before = null_point(program, program.patterns) if start is None else start
    assert point.objective <= before.objective * (1.0 + 1e-12)
    own = program.over(point.patterns, point.groups)
    assert point.objective == pytest.approx(own.objective(point.blocks, point.unpenalised))


def test_a_solver_that_fails_outright_leaves_the_start(monkeypatch):
    program = random_program(8, n=15, d=2)
    monkeypatch.setattr(solvers, "solve", lambda program, **_: cvx._failure(program))
    point = solve_over(program, program.patterns, None, solver="native", tol=1e-6)
    assert not point.status.converged
    assert point.objective <= null_point(program, program.patterns).objective * (1.0 + 1e-12)


def test_a_rough_solution_stays_where_a_closer_one_fails(monkeypatch):
    program, honest, found = random_program(7, n=15, d=2), solvers.solve, []

    def once(program, **options):
        if found:
            return cvx._failure(program)
        found.append(honest(program, **options))
        return found[-1]

    monkeypatch.setattr(solvers, "solve", once)
    monkeypatch.setattr(working_set, "_SMALL", 0.9)  # what is solved again has lost neurons
    point = solve_over(program, program.patterns, None, solver="clarabel", tol=1e-6)
    rough = program.objective(found[0].blocks, found[0].unpenalised)
    assert point.status is Status.INACCURATE
    assert point.objective <= rough + 1e-6 * program.loss_before


def test_small_blocks_leave_a_solution_but_where_residuals_are_capped(monkeypatch):
    """Without them the objective is lower: no reason to break a cap that they may help to keep."""
    program = random_program(9, n=15, d=2)
    cap = np.abs(program.y - program.offset) + 1.0

    def roughly(solve):
        def solved(program, *args, **options):
            solution = solve(program, *args, **options)
            gates = program.patterns.gates[:, program.groups.pattern].T
            zero = np.linalg.norm(solution.blocks, axis=1) < 1e-7
            blocks = np.where(zero[:, None], 1e-4 * gates, solution.blocks)
            return replace(solution, blocks=blocks)

        return solved

    monkeypatch.setattr(solvers, "solve", roughly(solvers.solve))
    monkeypatch.setattr(solvers, "solve_within", roughly(solvers.solve_within))
    start = null_point(program, program.patterns)
    free = solve_groups(program, start, program.groups, solver="native")
    assert 0 < len(free.groups) < len(program.groups)
    capped = solve_groups_within(program, start, program.groups, cap, solver="clarabel")
    assert len(capped.groups) == len(program.groups)
    assert free.objective < capped.objective


@pytest.mark.parametrize("solver", ["native", "clarabel"])
def test_a_start_that_no_group_improves_is_returned_only_if_that_proves_it_optimal(
    solver, monkeypatch
):
    """A dual point of zeros prices every group at nothing, and bounds nothing."""
    program = random_program(3, n=15, d=2)
    nothing = np.zeros_like(program.y)
    for module in ("dual", "working_set"):
        name = f"convexgrade.{module}.dual_point"
        monkeypatch.setattr(name, lambda *_: DualPoint(nothing, nothing))
    solved = solve_over(program, program.patterns, None, solver=solver, tol=1e-4)
    assert len(solved.groups) > 0
    assert solved.objective == pytest.approx(reference_optimum(program), rel=1e-6)


def small_penalty(alpha):
    """Labels of pure noise in one dimension: neurons are large, and their gradients hard to get."""
    rng = np.random.default_rng(167)
    x, y = rng.standard_normal(30), rng.integers(0, 2, size=30)
    X = np.column_stack([(x - x.mean()) / x.std(), np.ones(30)])
    return make_program(X, y, alpha=alpha, loss=BinaryLogLoss(), free=[1])


def absolute_errors(n, d, n_patterns):
    """Noise around a saddle, in the absolute error."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((n, d - 1)), np.ones(n)])
    y = X[:, 0] * np.abs(X[:, 1]) + 0.3 * rng.standard_normal(n)
    patterns = sample_patterns(X, n_patterns, rng)
    return make_program(X, y, alpha=1e-3, loss=AbsoluteError(), free=[d - 1], patterns=patterns)


def solved_and_certified(program):
    solved = solve_over(program, program.patterns, None, solver="native", tol=1e-4)
    certificate = certify_network(
        program,
        solved.network(program),
        program.patterns,
        status=Status.OPTIMAL,
        solver_dual=solved.solver_dual,
    )
    return solved, certificate


@pytest.mark.parametrize("alpha", [1e-5, 1e-6, 1e-7])
def test_certificates_of_losses_with_kinks_are_as_sharp_as_solvers(alpha):
    """Where nearly all rows reach their margin, their predictions tell little of the dual."""
    rng = np.random.default_rng(2)
    X = np.column_stack([rng.standard_normal((120, 3)), np.ones(120)])
    labels = np.digitize(np.sin(3.0 * X[:, 0]) + 0.3 * rng.standard_normal(120), [-0.5, 0.5])
    patterns = sample_patterns(X, 100, rng)
    program = make_program(
        X,
        np.eye(3)[labels],
        alpha=alpha,
        loss=SquaredHinge(),
        cones=False,
        free=[3],
        patterns=patterns,
    )
    solved, certificate = solved_and_certified(program)
    assert -1e-12 < certificate.relative_gap < 5e-7
    without = certify_network(
        program, solved.network(program), program.patterns, status=Status.OPTIMAL
    )
    assert without.relative_gap > 5.0 * certificate.relative_gap


@pytest.mark.parametrize("alpha", [1e-4, 1e-5])
def test_certificates_of_log_losses_are_as_sharp_as_solvers(alpha):
    _, certificate = solved_and_certified(small_penalty(alpha))
    assert certificate.relative_gap < 1e-5  # 5e-3 and 1e-1 without the polish
    assert certificate.gap > -1e-12


def test_neurons_of_many_numbers_on_small_faces_are_polished():
    """More than a thousand numbers, but hardly more degrees of freedom than there are rows."""
    solved, certificate = solved_and_certified(absolute_errors(200, 8, 150))
    assert solved.blocks.size > 1000
    assert certificate.relative_gap < 1e-5  # 2e-3 without the polish
    assert certificate.gap > -1e-12


@pytest.mark.parametrize(("loss", "k"), KINDS)
@pytest.mark.parametrize("cones", [True, False])
def test_a_polish_stays_in_the_cones_and_ends_at_the_optimum_of_faces(loss, k, cones):
    program = random_program(4, loss=loss, n=20, d=3, k=k, cones=cones, free=True)
    start = null_point(program, program.patterns)
    rough = solve_groups(program, start, program.groups, solver="native", accuracy=1e-5)
    own = program.over(rough.patterns, rough.groups)
    blocks, c = polish(own, rough.blocks, rough.unpenalised)
    assert own.objective(blocks, c) < rough.objective
    assert own.violation(blocks) <= 1e-8 * np.linalg.norm(blocks, axis=1).max()
    # A step of any size along any of the vectors, or of c, is none down any more.
    least = own.objective(blocks, c) * (1.0 - 1e-11)
    for g, t in np.ndindex(len(blocks), 2):
        moved = blocks.copy()
        moved[g] *= 1.0 + (1e-4, -1e-4)[t]
        assert own.objective(moved, c) >= least
    assert own.objective(blocks, c + 1e-5) >= least


@pytest.mark.parametrize("broken", ["fails", "is not finite"])
def test_a_polish_whose_system_fails_leaves_the_point_as_it_is(broken, monkeypatch):
    program = random_program(4, loss="binary", n=20, d=3, free=True)
    start = null_point(program, program.patterns)
    rough = solve_groups(program, start, program.groups, solver="native", accuracy=1e-5)
    own = program.over(rough.patterns, rough.groups)

    def failing(*_):
        if broken == "fails":
            raise np.linalg.LinAlgError
        return np.full_like(rough.blocks, np.nan), rough.unpenalised

    monkeypatch.setattr(polishing, "_FEW", 0)
    monkeypatch.setattr(_kkt.Factorisation, "solve", failing)
    blocks, c = polish(own, rough.blocks, rough.unpenalised)
    np.testing.assert_array_equal(blocks, rough.blocks)
    np.testing.assert_array_equal(c, rough.unpenalised)


def roughly_solved():
    program = random_program(4, loss="binary", n=20, d=3, free=True)
    start = null_point(program, program.patterns)
    return program, solve_groups(program, start, program.groups, solver="native", accuracy=1e-3)


def test_a_polish_that_raises_the_objective_is_undone(monkeypatch):
    program, rough = roughly_solved()
    monkeypatch.setattr(working_set, "polish", lambda own, blocks, c: (2.0 * blocks, c))
    assert working_set._polished(program, rough, 1e-9) is rough


def test_what_a_polish_leaves_outside_its_cone_is_put_back(monkeypatch):
    program, rough = roughly_solved()

    def outside(own, blocks, c):
        blocks, c = polish(own, blocks, c)
        blocks = blocks + 1e-6 * np.random.default_rng(0).standard_normal(blocks.shape)
        assert own.violation(blocks) > 1e-9
        return blocks, c

    monkeypatch.setattr(working_set, "polish", outside)
    polished = working_set._polished(program, rough, 1e-9)
    assert polished.objective < rough.objective
    own = polished.program(program)
    assert own.violation(polished.blocks) < 1e-12
    assert polished.objective == own.objective(polished.blocks, polished.unpenalised)


def test_neurons_of_which_a_polish_leaves_nothing_are_gone(monkeypatch):
    program, rough = roughly_solved()
    used = program.groups.locate(rough.groups)
    other = program.groups.take(np.setdiff1d(np.arange(len(program.groups)), used)[:1])
    groups = Groups(
        *(
            np.concatenate([getattr(rough.groups, name), getattr(other, name)])
            for name in ("pattern", "sign", "output")
        )
    )
    blocks = np.vstack([rough.blocks, 1e-3 * rough.patterns.gates[:, other.pattern].T])
    objective = program.over(rough.patterns, groups).objective(blocks, rough.unpenalised)
    assert objective > rough.objective
    point = replace(rough, groups=groups, blocks=blocks, objective=objective)
    nothing = np.vstack([rough.blocks, np.zeros((1, 3))])
    monkeypatch.setattr(working_set, "polish", lambda own, blocks, c: (nothing, c))
    polished = working_set._polished(program, point, 1e-9)
    assert len(polished.groups) == len(rough.groups)
    np.testing.assert_allclose(polished.blocks, rough.blocks, atol=1e-9)


@pytest.mark.parametrize("few", [1000, 0], ids=["over variables", "over rows"])
def test_late_grades_of_absolute_errors_are_polished(few, monkeypatch):
    """Of neurons with nearly as many numbers as there are rows; a solve leaves a gap of 7e-6."""
    monkeypatch.setattr(polishing, "_FEW", few)
    solved, certificate = solved_and_certified(absolute_errors(60, 41, 60))
    assert solved.blocks.size > 2 * 60
    assert -1e-12 < certificate.relative_gap < 1e-8


@pytest.mark.parametrize("max_neurons", [4, None])
def test_coefficients_are_drawn_in_next_to_the_loss_before_the_grade(max_neurons):
    """Neurons that cancel with a linear term have losses of 1e26 without it."""
    X = np.random.default_rng(0).standard_normal((30, 2))
    rng = np.random.default_rng(2)
    y = (rng.uniform(size=30) < 0.1) * rng.integers(1, 9, 30) * 1.0
    model = ConvexReLURegressor(
        1e-3,
        loss="poisson",
        n_patterns=4,
        linear_term=True,
        max_neurons=max_neurons,
        max_iter=2,
        random_state=0,
    ).fit(X, y)
    assert model.train_loss_[0] < 0.05
    np.testing.assert_allclose(model.predict(X)[y > 0.0], y[y > 0.0], rtol=0.1)


def test_the_grade_without_neurons_takes_the_place_of_a_worse_one():
    program = random_program(0)
    null = null_point(program, program.patterns)
    start = random_neurons(program, 5, np.random.default_rng(0))
    far = start.times(1e3)
    worse = point_of(program, far, null.unpenalised)
    replaced = no_worse_than_null(program, worse)
    assert worse.objective > replaced.objective == null.objective
    assert len(replaced.groups) == 0
    assert replaced.status is worse.status
    solved = solve_over(program, program.patterns, None, solver="native", tol=1e-6)
    assert no_worse_than_null(program, solved) is solved


def test_neurons_whose_gain_is_rounding_are_not_worth_it():
    program = random_program(0)
    null = null_point(program, program.patterns)
    solved = solve_over(program, program.patterns, None, solver="native", tol=1e-6)
    for ulps, n_neurons in ((1, 0), (1000, len(solved.groups))):
        point = replace(solved, objective=null.objective * (1.0 - ulps * 2.0**-53))
        assert len(no_worse_than_null(program, point).groups) == n_neurons


def test_a_start_that_has_lost_neurons_is_far_from_the_optimum(monkeypatch):
    program = random_program(0)
    point = solve_over(program, program.patterns, None, solver="native", tol=1e-8)
    assert point.gap < 1e-6
    starts = []

    def solve(*arguments, start, solved=solvers.solve, **options):
        starts.append(start)
        return solved(*arguments, start=start, **options)

    monkeypatch.setattr(solvers, "solve", solve)
    for groups in (point.groups, point.groups.take(np.arange(1, len(point.groups)))):
        solve_groups(program, point, groups, solver="native")
    assert [start.gap for start in starts] == [point.gap, FAR]


def test_shorter_unpenalised_coefficients_come_with_their_objective():
    program = random_program(0, loss="binary")
    point = null_point(program, program.patterns)
    far = replace(point, unpenalised=point.unpenalised + 1e3)
    drawn = drawn_in(program, replace(far, objective=np.inf))
    unpenalised = drawn.unpenalised
    assert drawn.objective == pytest.approx(
        program.mean_loss(program.offset + program.Z @ unpenalised)
    )


def test_the_grade_without_neurons_is_fitted_once_for_all_patterns(monkeypatch):
    whole, fits = random_program(0), []

    def counting(*arguments, fit=program_module.fit_unpenalised):
        fits.append(fit(*arguments))
        return fits[-1]

    monkeypatch.setattr(program_module, "fit_unpenalised", counting)
    solve_over(whole, whole.patterns, None, solver="native", tol=1e-6)
    few = whole.take(np.arange(2))
    assert few.null_coefficients is whole.null_coefficients
    assert len(fits) == 1


@pytest.mark.parametrize("loss", [SquaredError(), BinaryLogLoss(), Poisson()])
@pytest.mark.parametrize("size", [1e-9, 1e-4, 1e4, 1e7, 1e9])
def test_unpenalised_columns_of_any_size_are_fitted(size, loss):
    """Newton's systems forgot the flattest of two columns of very different sizes."""
    rng = np.random.default_rng(0)
    Z = np.column_stack([rng.standard_normal(40) + 0.5, np.ones(40)])
    y = (Z @ [1.0, 0.3] + 0.5 * rng.standard_normal(40) > 0.4).astype(float)[:, None]
    mean_loss, offset = MeanLoss(loss, y, np.full(40, 1.0 / 40.0)), np.zeros_like(y)
    c = unpenalised.fit_unpenalised(mean_loss, Z, offset)
    rescaled = unpenalised.fit_unpenalised(mean_loss, Z * [size, 1.0], offset)
    np.testing.assert_allclose(rescaled * [[size], [1.0]], c, rtol=1e-7)
    assert np.abs(Z.T @ mean_loss.gradient(Z @ c)).max() < 1e-9


@pytest.mark.parametrize("far", [-100.0, -30.0, 40.0, 60.0, 300.0])
@pytest.mark.parametrize(("loss", "best"), [(Poisson(), np.log(2.0)), (BinaryLogLoss(), 0.0)])
def test_unpenalised_columns_find_back_from_far_off(loss, best, far):
    """Newton's steps from there are next to nothing, or overflow."""
    y = np.array([[1.0], [2.0], [3.0]]) if loss.name == "poisson" else np.array([[0.0], [1.0]])
    mean_loss = MeanLoss(loss, y, np.full(len(y), 1.0 / len(y)))
    c = unpenalised.fit_unpenalised(mean_loss, np.ones_like(y), np.full_like(y, far))
    assert far + c[0, 0] == pytest.approx(best, abs=1e-8)


@pytest.mark.parametrize(
    "loss", [SquaredError(), AbsoluteError(), AbsoluteError(smoothing=0.8), Huber(0.5)]
)
def test_nothing_is_refitted_where_nothing_is_left(loss, monkeypatch):
    monkeypatch.setattr(unpenalised, "_descended", None)  # which is not called
    Z, y = np.ones((5, 1)), np.arange(5.0)[:, None]
    found = unpenalised.fit_unpenalised(MeanLoss(loss, y, np.full(5, 0.2)), Z, y)
    np.testing.assert_array_equal(found, [[0.0]])


def test_what_a_certificate_finds_wanting_a_second_solver_finishes(monkeypatch):
    program = random_program(0, n=10)
    tol, optimum = 1e-6, reference_optimum(program)

    def boasting(program, start, accuracy, solve=solvers._SOLVERS["native"]):
        solution = solve(program, start, accuracy)
        return replace(solution, blocks=0.5 * solution.blocks, multipliers=None, gap=0.0)

    monkeypatch.setitem(solvers._SOLVERS, "native", boasting)
    asked = []

    def second(program, start, accuracy, solve=solvers._SOLVERS["clarabel"]):
        asked.append(solve(program, start, accuracy))
        return asked[-1]

    monkeypatch.setitem(solvers._SOLVERS, "clarabel", second)
    alone = solve_over(program, program.patterns, None, solver="native", tol=tol)
    assert alone.objective > optimum + 1e-3 * loss_before(program)
    assert not asked
    point = solve_over(program, program.patterns, None, solver="auto", tol=tol)
    assert point.objective == pytest.approx(optimum, abs=1e-8 * loss_before(program))
    # Where that solver fails, what there was stays, and nobody hears of it.
    failed = replace(asked[-1], status=Status.FAILED)
    monkeypatch.setitem(solvers._SOLVERS, "clarabel", lambda program, start, accuracy: failed)
    kept = solve_over(program, program.patterns, None, solver="auto", tol=tol)
    assert optimum < kept.objective <= alone.objective + 1e-12
    # Nor is one that leaves the cones taken as it is.
    outside = replace(asked[-1], blocks=-asked[-1].blocks)
    monkeypatch.setitem(solvers._SOLVERS, "clarabel", lambda program, start, accuracy: outside)
    kept = solve_over(program, program.patterns, None, solver="auto", tol=tol)
    assert optimum < kept.objective <= alone.objective + 1e-12
    assert program.over(kept.patterns, kept.groups).violation(kept.blocks) < 1e-12
    # Nor is a point given up for a worse one.
    monkeypatch.setattr(
        working_set, "_by_columns", lambda full, *_, **__: null_point(full, full.patterns)
    )
    kept = solve_over(program, program.patterns, None, solver="auto", tol=tol)
    assert kept.objective == alone.objective


def test_a_second_solver_is_not_asked_about_what_is_proved(monkeypatch):
    program = random_program(0, n=10)
    monkeypatch.setitem(solvers._SOLVERS, "clarabel", None)  # which is not called
    point = solve_over(program, program.patterns, None, solver="auto", tol=1e-4)
    assert point.objective == pytest.approx(reference_optimum(program), abs=1e-6)


def test_a_second_solver_is_not_believed_for_its_gap_alone(monkeypatch):
    program = random_program(0, n=10)
    point = solve_over(program, program.patterns, None, solver="native", tol=1e-6)
    null = null_point(program, program.patterns)
    assert null.objective > point.objective
    monkeypatch.setattr(working_set, "_by_columns", lambda *_, **__: null)
    monkeypatch.setattr(working_set, "gap_of", lambda _, one: 1.0 if one is point else 0.0)
    assert working_set._confirmed(program, point, solver="auto", tol=1e-6) is point


def test_a_gap_that_is_not_proved_settles_nothing():
    program = random_program(0, n=10)
    every = np.arange(len(program.groups))
    point = solve_over(program, program.patterns, None, solver="native", tol=1e-8)
    assert working_set._settled(program, replace(point, gap=0.0), every)
    assert not working_set._settled(program, replace(point, gap=1e-3), every)
    blocks = 0.5 * point.blocks
    objective = point.program(program).objective(blocks, point.unpenalised)
    boasting = replace(point, blocks=blocks, objective=objective, gap=0.0)
    assert not working_set._settled(program, boasting, every)


def test_a_solution_at_once_that_is_not_proved_optimal_is_not_taken(monkeypatch):
    program = random_program(0, n=10)
    monkeypatch.setattr(working_set, "_FEW", 0)
    monkeypatch.setattr(
        solvers, "solve_at_once", lambda program, *, solver: solvers._without_neurons(program)
    )
    found = solve_over(program, program.patterns, None, solver="auto", tol=1e-6)
    assert found.objective < 0.9 * null_point(program, program.patterns).objective
