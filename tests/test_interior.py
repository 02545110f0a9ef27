"""The interior point method: against CLARABEL, in corners, and its linear algebra alone."""

from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest

from convexgrade import solvers
from convexgrade.groups import Groups
from convexgrade.losses import BinaryLogLoss, Hessian, SquaredError
from convexgrade.patterns import Patterns, activation, sample_patterns
from convexgrade.search import descend, random_neurons
from convexgrade.solution import Start, Status
from convexgrade.solvers import _kkt, cvx, interior
from convexgrade.solvers import _second_order as soc
from convexgrade.solvers._operator import Operator
from convexgrade.solvers._symmetric import square
from tests.bank import assert_optimal, make_program, random_program
from tests.cases import (
    CLARABEL,
    FREE,
    LOSSES,
    assert_as_good,
    make_case,
    make_rows,
    objective,
    scale,
)


def assert_agrees_with_clarabel(program):
    found, reference = interior.solve(program), cvx.solve(program, solver="clarabel")
    assert found.status is Status.OPTIMAL
    assert program.violation(found.blocks) <= 1e-10
    assert_as_good(program, found, reference, CLARABEL)


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "shape", ["line", "plane", "wide", "duplicated rows", "duplicated columns", "ties"]
)
def test_agrees_with_clarabel_on_rows_of_every_shape(shape, loss, cones):
    assert_agrees_with_clarabel(make_case(shape, loss, cones=cones))


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("loss", LOSSES)
def test_agrees_with_clarabel_for_any_unpenalised_columns(loss, free):
    assert_agrees_with_clarabel(make_case(loss=loss, free=free, seed=1))


@pytest.mark.parametrize("size", [0.9, 1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_worse_than_clarabel_for_any_alpha(loss, size):
    """CLARABEL's own accuracy ends somewhere on this way; nothing lower than the optimum exists."""
    program = make_case(loss=loss, size=size, seed=2)
    found, reference = interior.solve(program), cvx.solve(program, solver="clarabel")
    assert found.status is Status.OPTIMAL
    assert program.violation(found.blocks) <= 1e-10
    assert objective(program, found) <= objective(program, reference) + 1e-8 * scale(program)


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_multipliers_satisfy_the_optimality_conditions(loss, cones):
    program = make_case(loss=loss, cones=cones, size=0.05, seed=3)
    solution = interior.solve(program, tol=1e-12)
    assert (solution.multipliers is not None) == cones
    assert_optimal(program, solution)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_neurons_above_alpha_max(loss):
    program = make_case(loss=loss, size=1.5)
    solution = interior.solve(program)
    assert solution.status is Status.OPTIMAL
    np.testing.assert_allclose(solution.blocks, 0.0, atol=1e-7)
    assert objective(program, solution) == pytest.approx(scale(program), rel=1e-9)


def test_patterns_harvested_from_a_descent():
    """Their gates lie on the faces of the cones, where the optimum wants to be: the hard case."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.standard_normal((150, 5)), np.ones(150)])
    y = np.abs(X[:, 0]) * X[:, 1] + np.sin(2.0 * X[:, 2]) + 0.1 * rng.standard_normal(150)
    blind = make_program(X, y, alpha=1e-3, free=[5], patterns=sample_patterns(X, 1, rng))
    start = random_neurons(blind, 40, rng)
    neurons, _ = descend(blind, start, blind.null_coefficients, max_iter=200)
    patterns = Patterns.from_gates(X, neurons.vectors)
    place = patterns.find(activation(X, neurons.vectors))
    own = Groups(place, neurons.sign, neurons.output).take(place >= 0)
    every = blind.every_group(patterns)
    program = blind.over(patterns, every.take(np.unique(every.locate(own))))
    solution = interior.solve(program)
    assert solution.status is Status.OPTIMAL
    assert solution.iterations <= 50
    assert_optimal(program, solution)


def list_patterns(*columns):
    masks = np.array(columns, dtype=bool).T
    return Patterns(np.zeros((1, masks.shape[1])), masks)


def test_a_cone_without_interior():
    program = make_program([[1.0], [-1.0]], [1.0, 2.0], alpha=0.01, patterns=list_patterns([1, 1]))
    solution = interior.solve(program)
    assert solution.status is Status.OPTIMAL
    assert objective(program, solution) == pytest.approx(1.25, abs=1e-8)
    assert program.violation(solution.blocks) <= 1e-9


def test_rows_of_zeros():
    patterns = list_patterns([1, 1, 1])
    program = make_program(np.zeros((3, 2)), np.ones(3), alpha=0.01, patterns=patterns)
    assert objective(program, interior.solve(program)) == pytest.approx(0.5, abs=1e-9)


def test_groups_listed_twice_share_the_penalty():
    program = make_case()
    twice = Groups(*(np.tile(part, 2) for part in vars(program.groups).values()))
    doubled = program.over(program.patterns, twice)
    values = [objective(p, interior.solve(p)) for p in (program, doubled)]
    assert values[0] == pytest.approx(values[1], rel=1e-8)


def test_an_output_without_groups_or_unpenalised_columns():
    program = make_case(loss="two_outputs", free="none")
    first = program.take(program.groups.output == 0)
    assert_agrees_with_clarabel(first)


def test_unpenalised_columns_that_fit_exactly_leave_nothing_to_solve():
    X = make_rows("plane", np.random.default_rng(0))
    patterns = sample_patterns(X, 3, np.random.default_rng(0))
    program = make_program(X, X @ [1.0, 2.0, 3.0], alpha=0.1, free=[0, 1, 2], patterns=patterns)
    solution = solvers.solve(program)
    assert solution.status is Status.OPTIMAL
    np.testing.assert_array_equal(solution.blocks, 0.0)
    np.testing.assert_allclose(solution.unpenalised[:, 0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_units_of_the_targets_do_not_matter(factor):
    program = make_case()
    other = replace(
        program,
        y=factor * program.y,
        offset=factor * program.offset,
        alpha=factor * program.alpha,
    )
    plain, scaled = interior.solve(program), interior.solve(other)
    assert scaled.iterations == plain.iterations
    assert objective(other, scaled) == pytest.approx(factor**2 * objective(program, plain))


def test_separable_classes():
    X = make_rows("line", np.random.default_rng(0))
    patterns = sample_patterns(X, 4, np.random.default_rng(0))
    program = make_program(X, X[:, 0] > 0.2, alpha=1e-5, loss=BinaryLogLoss(), patterns=patterns)
    assert_agrees_with_clarabel(program)


def test_an_offset_that_is_certain_and_wrong():
    """The loss is all but linear there: its Hessian says nothing about where the optimum is."""
    X = make_rows("line", np.random.default_rng(0))
    y = (X[:, 0] > 0.2).astype(float)
    patterns = sample_patterns(X, 4, np.random.default_rng(0))
    program = make_program(
        X, y, alpha=1e-3, loss=BinaryLogLoss(), offset=10.0 - 20.0 * y, patterns=patterns
    )
    assert_agrees_with_clarabel(program)


def test_the_iteration_limit_is_reported():
    solution = interior.solve(make_case(), max_iter=4)
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.iterations == 4


def test_an_impossible_tolerance_ends_in_an_honest_status():
    solution = interior.solve(make_case(), tol=0.0)
    assert solution.status in (Status.INACCURATE, Status.ITERATION_LIMIT)
    assert_optimal(make_case(), solution)


def test_a_loss_that_is_not_finite_fails_without_an_exception():
    class Broken(SquaredError):
        def hessian(self, f, y):
            return Hessian(np.nan * super().hessian(f, y).D)

    assert interior.solve(replace(make_case(free="none"), loss=Broken())).status is Status.FAILED


@pytest.mark.parametrize("shape", ["plane", "wide"])
def test_small_chunks_give_the_same_answer(shape, monkeypatch):
    program = make_case(shape)
    whole = interior.solve(program)
    size = len(program.groups) // 2 * program.X.shape[1] + 1  # two signs share a channel
    monkeypatch.setattr(_kkt, "MAX_FLOATS", min(size, len(program.X)) ** 2)
    chunked = interior.solve(program)
    assert chunked.status is Status.OPTIMAL
    assert objective(program, chunked) == pytest.approx(objective(program, whole), rel=1e-9)


def test_a_program_too_large_for_direct_methods_fails_without_an_exception(monkeypatch):
    monkeypatch.setattr(_kkt, "MAX_FLOATS", 50)
    assert interior.solve(make_case()).status is Status.FAILED


def dense(operator, k, d):
    """The matrix of the map A, groups first."""
    split, q = operator.channel.size * d, operator.Z.shape[1]
    columns = [
        operator.forward(unit[:split].reshape(-1, d), unit[split:].reshape(q, k)).ravel()
        for unit in np.eye(split + q * k)
    ]
    return np.column_stack(columns)


@pytest.mark.parametrize("columns_a_row", [0.0, np.inf])
@pytest.mark.parametrize("coupled", [True, False])
def test_factorisation_solves_the_system(coupled, columns_a_row, monkeypatch):
    monkeypatch.setattr(_kkt, "_COLUMNS_A_ROW", columns_a_row)
    rng = np.random.default_rng(0)
    program = make_case(loss="two_outputs", free="intercept")
    groups = program.groups.take(np.arange(len(program.groups)) != 3)  # one channel has one sign
    program = program.over(program.patterns, groups)
    (n, d), k = program.X.shape, program.n_outputs
    operator = Operator.build(program.X, program.Z, program.patterns.masks, groups, k)
    A = dense(operator, k, d)
    roots = np.triu(rng.standard_normal((len(groups), d, d))) + 3.0 * np.eye(d)
    H = Hessian(rng.uniform(0.1, 3.0, (n, k)), coupled)
    full = A.T @ (H.matrices @ A.reshape(n, k, -1)).reshape(n * k, -1)
    for g, root in enumerate(roots):
        own = slice(g * d, (g + 1) * d)
        full[own, own] += root.T @ root
    expected = rng.standard_normal(len(full))
    expected[-k:] -= expected[-k:].mean()  # coupled outputs do not answer to a common intercept
    right = full @ expected
    factors = _kkt.Factorisation.build(operator, roots, H, _kkt.ChannelGrams(operator))
    found = np.zeros_like(expected)
    for _ in range(3):  # the proximal term takes refinement
        rest = right - full @ found
        v, c = factors.solve(rest[:-k].reshape(-1, d), rest[-k:].reshape(1, k))
        found += np.append(v.ravel(), c.ravel())
    if coupled:
        found[-k:] -= found[-k:].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("simple", [True, False])
def test_outer_products_of_columns_with_and_without_cones(simple):
    """Without cones T^T T is a multiple of the identity plus rank one, which saves most of the work."""
    rng = np.random.default_rng(0)
    n, d, m = 20, 5, 6
    S = rng.standard_normal((m, d, d))
    S = S @ S.transpose(0, 2, 1) + np.eye(d)
    if simple:
        w = rng.standard_normal((m, d, 1))
        S = 0.3 * np.eye(d) + w @ w.transpose(0, 2, 1)
    T = np.linalg.cholesky(S).transpose(0, 2, 1)
    assert (_kkt._level_and_axis(T) is not None) == simple
    X, Z = rng.standard_normal((n, d)), rng.standard_normal((n, 1))
    masks = (rng.random((n, m)) < 0.5).astype(float)
    part = _kkt._Part(X, Z, masks, T, np.array([2.0]))
    expected = 4.0 * Z @ Z.T
    for mask, block in zip(masks.T, S, strict=True):
        expected += (mask[:, None] * X) @ block @ (mask[:, None] * X).T
    scale = rng.random((n, 1))
    np.testing.assert_allclose(square(part.outer(scale)), scale * expected * scale.T, atol=1e-12)


@pytest.mark.parametrize("few", [True, False])
def test_adjoint(few):
    """Of few channels for each output, which one product serves, and of many."""
    program = make_case(loss="softmax", free="all")
    if few:
        patterns = program.patterns.take(np.arange(2))
        program = program.over(patterns)
    operator = Operator.build(
        program.X,
        program.Z,
        program.patterns.masks,
        program.groups,
        program.n_outputs,
    )
    assert operator._at_once == few
    rng = np.random.default_rng(0)
    v = rng.standard_normal((len(program.groups), 3))
    c, theta = rng.standard_normal((3, 3)), rng.standard_normal(program.y.shape)
    f = operator.forward(v, c)
    np.testing.assert_allclose(program.offset + f, program.predict(v, c))
    groups, free = operator.adjoint(theta)
    np.testing.assert_allclose(groups, program.adjoint(theta))
    assert np.vdot(f, theta) == pytest.approx(np.vdot(v, groups) + np.vdot(c, free))


@pytest.mark.parametrize("spread", [0.0, 30.0])
def test_block_roots(spread):
    """From a sum, and from a QR factorisation where weights spread over thirty orders."""
    rng = np.random.default_rng(0)
    rows, roots = rng.standard_normal((8, 3)), rng.standard_normal((2, 3, 3))
    weights = 10.0 ** (spread * rng.uniform(-0.5, 0.5, (8, 2)))
    triangles = _kkt.block_roots(rows, weights, roots)
    np.testing.assert_array_equal(np.tril(triangles, -1), 0.0)
    for g in range(2):
        parts = np.concatenate([np.sqrt(weights[:, g, None]) * rows, roots[g]])
        expected = np.linalg.svd(parts, compute_uv=False)
        found = np.linalg.svd(triangles[g], compute_uv=False)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14 * expected[0])


def random_cone_points(rng, n_cones=5, d=3):
    v = rng.standard_normal((n_cones, d))
    return soc.join(np.linalg.norm(v, axis=1) * rng.uniform(1.01, 3.0, n_cones), v)


def test_jordan_algebra():
    rng = np.random.default_rng(0)
    x, y = random_cone_points(rng), random_cone_points(rng)
    np.testing.assert_allclose(soc.product(y, soc.divide(x, y)), x)
    identity = soc.join(np.ones(5), np.zeros((5, 3)))
    np.testing.assert_allclose(soc.product(x, identity), x)
    np.testing.assert_allclose(soc.clip_eigenvalues(x, -np.inf, np.inf), x)
    clipped = soc.clip_eigenvalues(x, 0.5, 1.0)
    size = np.linalg.norm(clipped[:, 1:], axis=1)
    assert np.all((clipped[:, 0] - size >= 0.5 - 1e-12) & (clipped[:, 0] + size <= 1.0 + 1e-12))


def test_reach_ends_on_the_boundary():
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, step = random_cone_points(rng), rng.standard_normal((5, 4))
        a = soc.reach(x, step)
        nearest = min(a, 1e6)
        assert np.min(soc.determinant(x + 0.999 * nearest * step)) > 0.0
        if np.isfinite(a):
            assert np.min(soc.determinant(x + 1.001 * a * step)) < 0.0
    assert soc.reach(x, x) == np.inf


def exact_reach(x, step):
    """Return the reach of one element, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x, step = ([Decimal(float(number)) for number in each] for each in (x, step))
        b, det, bend = (
            p[0] * q[0] - sum(i * j for i, j in zip(p[1:], q[1:], strict=True))
            for p, q in ((x, step), (x, x), (step, step))
        )
        root = (b * b - bend * det).sqrt()
        return float(det / (root - b)) if root > b else np.inf


@pytest.mark.parametrize("distance", [1e-15, 1e-12, 1e-6, 1e-2])
def test_reach_has_its_digits_near_the_boundary_as_well(distance):
    """From there, steps that lead along it and those that lead inside first: either form cancels."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        direction, step = rng.standard_normal(3), rng.standard_normal(4)
        x = np.append(np.linalg.norm(direction) * (1.0 + distance), direction)
        expected = exact_reach(x, step)
        nearest = soc.reach(x[None], step[None])
        # The element itself is only so far from the boundary, give or take its rounding.
        assert nearest == pytest.approx(expected, rel=4e-16 / distance + 1e-9)
    outwards = np.array([[0.0, -3.0]])
    for offset in (1e-12, 1e-14):
        x = np.array([[1.0, 1.0 - offset]])
        assert soc.reach(x, outwards) == pytest.approx((2.0 - offset) / 3.0, rel=1e-12)
    x = np.array([[2.0, 1.0, 0.5]])  # straight through the apex, where the two roots are one
    assert soc.reach(x, -x) == pytest.approx(1.0, rel=1e-7)


def test_scaling_of_nesterov_and_todd():
    rng = np.random.default_rng(2)
    s, z = random_cone_points(rng), random_cone_points(rng)
    scaling = soc.NesterovTodd.between(s, z)
    np.testing.assert_allclose(scaling.apply(z), scaling.point)
    np.testing.assert_allclose(scaling.invert(s), scaling.point)
    np.testing.assert_allclose(scaling.invert(scaling.apply(s)), s)


def test_elimination_of_the_axis():
    """The step it gives solves W dz + W^-1 ds = u with dz_0 = 0."""
    rng = np.random.default_rng(3)
    scaling = soc.NesterovTodd.between(random_cone_points(rng), random_cone_points(rng))
    u, step = rng.standard_normal((5, 4)), rng.standard_normal((5, 3))
    p = scaling.invert(u)
    ds = soc.join(scaling.axis_step(p, step), step)
    dz = soc.join(np.zeros(5), scaling.reduce(p) - scaling.multiply(step))
    np.testing.assert_allclose(scaling.apply(dz) + scaling.invert(ds), u)
    roots = scaling.roots()
    S = roots.transpose(0, 2, 1) @ roots
    np.testing.assert_allclose(np.einsum("gij,gj->gi", S, step), scaling.multiply(step))


def starts_around(program, solution):
    """Points from which a solver may have to set out, by name."""
    rng = np.random.default_rng(0)
    v, c = solution.blocks, solution.unpenalised
    size = np.linalg.norm(v, axis=1).max()
    noise, noise_c = rng.standard_normal(v.shape), rng.standard_normal(c.shape)
    return {
        "optimum": Start(v, c, 1e-7),
        "optimum, said to be far": Start(v, c, 1.0),
        "perturbed": Start(v + 0.1 * size * noise, c + 0.1 * noise_c, 1e-2),
        "perturbed, said to be exact": Start(v + 0.1 * size * noise, c + 0.1 * noise_c, 1e-9),
        "zero": Start(0.0 * v, 0.0 * c, 0.1),
        "outside the cones": Start(-v, -c, 1e-2),
        "in other units": Start(1e6 * v, 1e6 * c, 1e-3),
        "in tiny units": Start(1e-9 * v, 1e-9 * c, 1e-3),
        "huge": Start(1e8 * noise, 1e8 * noise_c, 1e-9),
    }


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_any_start_leads_to_the_same_objective(loss, cones):
    program = make_case(loss=loss, cones=cones, size=0.05, seed=4)
    cold = interior.solve(program)
    for name, start in starts_around(program, cold).items():
        warm = interior.solve(program, start=start)
        assert warm.status is Status.OPTIMAL, name
        assert program.violation(warm.blocks) <= 1e-10, name
        rise = objective(program, warm) - objective(program, cold)
        assert abs(rise) <= 1e-8 * scale(program), name


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", ["plane", "wide", "duplicated rows"])
def test_a_start_at_the_optimum_saves_iterations(shape, loss, cones):
    program = make_case(shape, loss, cones=cones, size=0.05, seed=4)
    cold = interior.solve(program, tol=1e-9)
    warm = interior.solve(program, start=Start(cold.blocks, cold.unpenalised, 1e-7), tol=1e-9)
    assert warm.status is Status.OPTIMAL
    assert warm.iterations < cold.iterations


def test_a_point_around_a_start_is_inside_all_cones_with_equal_products():
    program = make_case(loss="softmax", size=0.05)
    cold = interior.solve(program, tol=1e-5)
    setup = interior._Setup.of(program)
    starts = starts_around(program, cold)
    point = setup.around(starts.pop("huge"))  # mu is less than the rounding of ||v||
    assert np.all(point.slack > 0.0)
    assert np.isfinite(point.multiplier).all()
    for name, start in starts.items():
        point = setup.around(start)
        assert np.all(point.primal[:, 0] > np.linalg.norm(point.v, axis=1)), name
        assert np.all(point.dual[:, 0] >= np.linalg.norm(point.dual[:, 1:], axis=1)), name
        assert np.all(point.slack > 0.0), name
        assert np.all(point.multiplier > 0.0), name
        np.testing.assert_array_equal(point.v, start.blocks)
    point = setup.around(starts["perturbed"])
    mu = 1e-2 * scale(program) / point.n_products
    np.testing.assert_allclose(point.slack * point.multiplier, mu)
    products = soc.product(point.primal, point.dual)
    np.testing.assert_allclose(products[:, 0], mu, rtol=1e-6)
    np.testing.assert_allclose(products[:, 1:], 0.0, atol=1e-9 * program.alpha)
    assert point.gap == pytest.approx(1e-2 * scale(program), rel=1e-6)


def test_a_start_that_is_not_finite_is_given_up():
    program = make_case(size=0.05)
    cold = interior.solve(program)
    bad = Start(np.full_like(cold.blocks, np.nan), cold.unpenalised, 1e-3)
    found = interior.solve(program, start=bad)
    assert found.status is Status.OPTIMAL
    assert objective(program, found) == pytest.approx(objective(program, cold), rel=1e-12)


def test_beginning_anew_does_not_lose_what_a_start_has_led_to():
    program = make_case(size=0.05)
    near = interior.solve(program, tol=1e-5)
    start = Start(near.blocks, near.unpenalised, near.gap)
    warm = interior.solve(program, start=start, max_iter=1)
    cold = interior.solve(program, max_iter=1)
    assert warm.status is Status.ITERATION_LIMIT
    assert warm.gap < 1.0 < cold.gap  # from where a point is no better than none


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_solvers_of_any_name_take_a_start(solver):
    program = make_case("line", size=0.05)
    cold = interior.solve(program)
    for start in starts_around(program, cold).values():
        found = solvers.solve(program, solver=solver, start=start, accuracy=1e-7)
        assert found.status is Status.OPTIMAL
        assert abs(objective(program, found) - objective(program, cold)) <= 2e-7 * scale(program)


@pytest.mark.parametrize("solver", ["auto", "native"])
@pytest.mark.parametrize("loss", LOSSES)
def test_accuracy_is_met_and_saves_iterations(solver, loss):
    program = make_case(loss=loss, size=0.05)
    exact = interior.solve(program, tol=1e-10)
    last = exact.iterations + 1
    for accuracy in (1e-8, 1e-4, 1e-2):
        found = solvers.solve(program, solver=solver, accuracy=accuracy)
        rise = objective(program, found) - objective(program, exact)
        assert -1e-9 * scale(program) <= rise <= 1.1 * accuracy * scale(program)
        assert found.iterations < last
        last = found.iterations


@pytest.mark.parametrize("name", ["stationarity", "unpenalised", "slack"])
def test_every_residual_of_an_interior_point_adds_to_its_error(name):
    setup = interior._Setup.of(random_program(0, n=12))
    point = setup.start()
    none = setup.residuals(point, setup.predict(point)).none()
    some = replace(none, **{name: 1e-3 + getattr(none, name)})
    assert setup.error(point, some) > setup.error(point, none) * (1.0 + 1e-9)
