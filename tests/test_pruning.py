"""Pruning: the same function and no higher penalty down to the rank; below it, the least loss."""

from dataclasses import replace

import numpy as np
import pytest

from convexgrade import pruning
from convexgrade.cutting import select
from convexgrade.patterns import Patterns, sample_patterns
from convexgrade.point import point_at, pruned
from convexgrade.pruning import prune
from convexgrade.quadratics import null_space
from convexgrade.solution import Solution, Status
from convexgrade.working_set import solve_over
from tests.bank import make_program, random_program


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("k", [1, 3])
def test_fit_is_kept_penalty_is_not_raised_and_neurons_stay_in_their_cones(cones, k):
    rng = np.random.default_rng(0)
    program = random_program(0, n=9, d=3, k=k, cones=cones)
    # A neuron inside its cone: the gate of its pattern, at a random size.
    gates = program.patterns.gates[:, program.groups.pattern].T
    blocks = gates * rng.uniform(0.1, 1.0, len(gates))[:, None]
    assert program.violation(blocks) == 0.0
    c = np.zeros((program.free.size, k))

    pruned = prune(program, blocks)
    np.testing.assert_allclose(program.predict(pruned, c), program.predict(blocks, c), atol=1e-8)
    assert program.penalty(pruned) <= program.penalty(blocks) * (1.0 + 1e-10)
    assert program.violation(pruned) <= 1e-12
    assert np.count_nonzero(pruned.any(axis=1)) < len(blocks)


def test_independent_neurons_stay_as_they_are():
    program = random_program(1, n=9, d=3)
    chosen = program.take(np.array([0, 5]))
    blocks = program.patterns.gates[:, chosen.groups.pattern].T
    np.testing.assert_allclose(prune(chosen, blocks), blocks, rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-9, 1e-4, 1.0, 1e9])
def test_no_neuron_is_lost_to_the_unit_of_a_column(unit):
    """y = (x_0)_+ + (x_1)_+: both neurons are needed, however short the vector of one is."""
    X = np.random.default_rng(0).standard_normal((20, 2))
    y = np.maximum(X, 0.0).sum(axis=1)
    scales = np.array([unit, 1.0])
    patterns = Patterns.from_gates(X / scales, np.eye(2))
    program = make_program(X / scales, y, alpha=0.1, patterns=patterns)
    program = program.over(patterns, program.groups.take(program.groups.sign > 0.0))
    blocks = np.diag(scales)
    assert program.mean_loss(program.predict(blocks, np.zeros((0, 1)))) < 1e-28
    np.testing.assert_allclose(prune(program, blocks), blocks, rtol=1e-12)
    point = point_at(program, Solution(blocks, np.zeros((0, 1)), None, Status.OPTIMAL, 0))
    assert len(pruned(program, point).groups) == 2


def _rank_of_output(program, blocks, output):
    chosen = program.groups.output == output
    responses = (program.X @ blocks.T) * program.masks() * program.groups.sign
    return np.linalg.matrix_rank(responses[:, chosen], tol=1e-9), np.count_nonzero(
        np.linalg.norm(blocks[chosen], axis=1)
    )


@pytest.mark.parametrize("cones", [True, False])
@pytest.mark.parametrize("k", [1, 2])
def test_neurons_left_are_independent_where_rows_repeat_with_other_weights(cones, k):
    rng = np.random.default_rng(3)
    X = np.repeat(np.column_stack([rng.standard_normal((4, 2)), np.ones(4)]), 3, axis=0)
    program = make_program(
        X,
        rng.standard_normal((12, k)),
        alpha=0.1,
        cones=cones,
        weights=rng.uniform(0.1, 5.0, 12),
        free=[2],
    )
    gates = program.patterns.gates[:, program.groups.pattern].T
    blocks = gates * rng.uniform(0.1, 1.0, len(gates))[:, None]
    c = rng.standard_normal((1, k))
    pruned = prune(program, blocks)
    np.testing.assert_allclose(program.predict(pruned, c), program.predict(blocks, c), atol=1e-9)
    assert program.objective(pruned, c) <= program.objective(blocks, c) * (1.0 + 1e-10)
    for output in range(k):
        before, _ = _rank_of_output(program, blocks, output)
        after, n_neurons = _rank_of_output(program, pruned, output)
        assert n_neurons == after <= before <= 4


def optimal_point(seed, *, loss="squared_error", k=1):
    """An optimum of 6 to 9 neurons with independent responses, and the program of its groups.

    Few patterns, far apart: next to each other they would share neurons on their common face.
    """
    program = random_program(seed, loss=loss, n=30, d=3, k=k, alpha=0.003)
    patterns = sample_patterns(program.X, 6 if k == 1 else 2, np.random.default_rng(seed))
    point = solve_over(program, patterns, None, solver="native", tol=1e-8)
    assert 6 <= len(point.groups) <= 9
    return program.over(point.patterns, point.groups), point


def refitted(program, point, kept):
    """The least of F + alpha sum_g t_g ||v_g|| over sizes t of the kept and c, from its equations.

    The quadratic model lets sizes be negative; t_g ||v_g|| is then negative too.
    """
    responses = (program.X @ point.blocks.T) * program.masks() * program.groups.sign
    columns = np.hstack([responses[:, kept], program.Z])
    norms = np.append(np.linalg.norm(point.blocks[kept], axis=1), np.zeros(program.free.size))
    left = (program.y - program.offset)[:, 0]
    weighted = program.weights[:, None] * columns
    t = np.linalg.solve(columns.T @ weighted, weighted.T @ left - program.alpha * norms)
    residual = left - columns @ t
    return 0.5 * program.weights @ residual**2 + program.alpha * norms @ t


@pytest.mark.parametrize("seed", [1, 3, 4, 5, 10, 11])
def test_every_neuron_that_goes_is_the_one_missed_least(seed):
    program, point = optimal_point(seed)
    m = len(point.groups)
    everything = np.arange(m)
    assert refitted(program, point, everything) == pytest.approx(point.objective, rel=1e-7)
    before = everything
    for limit in range(m - 1, 0, -1):
        kept = select(program, point.blocks, point.unpenalised, limit)
        assert kept.size == limit
        assert np.all(np.diff(kept) > 0)
        assert np.isin(kept, before).all()
        values = [refitted(program, point, np.setdiff1d(before, [g])) for g in before]
        (gone,) = np.setdiff1d(before, kept)
        assert values[list(before).index(gone)] <= min(values) + 1e-9
        before = kept


@pytest.mark.parametrize("size", [1e-6, 1e4, 1e6])
def test_which_neurons_go_does_not_hang_on_the_unit_of_an_unpenalised_column(size):
    for seed in (1, 3, 4, 5):
        program, point = optimal_point(seed)
        program = replace(
            program, free=np.array([0, 2])
        )  # a linear term of one column, an intercept
        unit = np.array([size, 1.0, 1.0])
        rescaled = replace(program, X=program.X * unit)
        c, limit = np.array([[0.1], [0.2]]), len(point.groups) // 2
        expected = select(program, point.blocks, c, limit)
        found = select(rescaled, point.blocks / unit, c / unit[[0, 2], None], limit)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("seed", [1, 4])
def test_the_neuron_that_goes_first_need_not_be_the_smallest(seed):
    """What others make up for counts, not size: a large neuron and its near copy."""
    program, point = optimal_point(seed)
    norms = np.linalg.norm(point.blocks, axis=1)
    largest = int(np.argmax(norms))
    groups = point.groups.take(np.append(np.arange(norms.size), largest))
    parts = np.vstack([point.blocks, 0.45 * point.blocks[largest]])
    parts[largest] *= 0.55
    parts[-1] += 1e-4 * norms[largest] * np.array([0.3, -1.0, 0.5])
    twin = program.over(point.patterns, groups)
    kept = select(twin, parts, point.unpenalised, norms.size)
    (gone,) = np.setdiff1d(np.arange(len(parts)), kept)
    assert gone in (largest, len(parts) - 1)
    sizes = np.linalg.norm(parts, axis=1)
    assert sizes[gone] > sizes.min()


@pytest.mark.parametrize("loss", ["squared_error", "softmax"])
def test_no_limit_below_the_width_keeps_all(loss):
    program, point = optimal_point(1, loss=loss, k=3 if loss == "softmax" else 1)
    m = len(point.groups)
    for limit in (m, m + 1, 10 * m):
        kept = select(program, point.blocks, point.unpenalised, limit)
        np.testing.assert_array_equal(kept, np.arange(m))


def finite_curvature(program, point):
    """The Hessian of F in (t, c), by differences of its gradient."""
    m, (q, k) = len(point.groups), point.unpenalised.shape

    def gradient(x):
        blocks, c = x[:m, None] * point.blocks, x[m:].reshape(k, q).T
        f = program.predict(blocks, c)
        theta = program.weights[:, None] * program.loss.gradient(f, program.y)
        sizes = np.einsum("gd,gd->g", point.blocks, program.adjoint(theta))
        return np.append(sizes, (program.Z.T @ theta).T.ravel())

    x = np.append(np.ones(m), point.unpenalised.T.ravel())
    steps = 1e-5 * np.eye(x.size)
    return np.array([(gradient(x + s) - gradient(x - s)) / 2e-5 for s in steps])


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_softmax_neurons_go_by_the_curvature_that_outputs_share(seed):
    program, point = optimal_point(seed, loss="softmax", k=3)
    m, curvature = len(point.groups), finite_curvature(program, point)

    def rise(removed):
        """min 1/2 s' M s over steps s with s_g = -1 for the removed."""
        free = np.setdiff1d(np.arange(len(curvature)), removed)
        fixed = -np.ones(len(removed))
        right = curvature[np.ix_(free, removed)] @ fixed
        inner = np.linalg.lstsq(curvature[np.ix_(free, free)], -right, rcond=1e-9)[0]
        s = np.zeros(len(curvature))
        s[removed], s[free] = fixed, inner
        return 0.5 * s @ curvature @ s

    removed = []
    for limit in range(m - 1, 0, -1):
        kept = select(program, point.blocks, point.unpenalised, limit)
        rises = [rise([*removed, g]) for g in range(m) if g not in removed]
        now = np.setdiff1d(np.arange(m), kept).tolist()
        assert set(removed) < set(now)
        assert rise(now) <= min(rises) * (1.0 + 1e-4)
        removed = now


def test_pruning_many_rows_needs_no_square_of_them():
    rng = np.random.default_rng(0)
    responses = np.maximum(rng.standard_normal((40_000, 3)) @ rng.standard_normal((3, 5)), 0.0)
    responses = np.column_stack([responses, responses[:, :2].sum(axis=1)])  # one too many
    null = null_space(responses)  # a square of the rows would be 13 GB
    assert null.shape == (6, 1)
    np.testing.assert_allclose(responses @ null, 0.0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_a_null_vector_that_hardly_has_a_neuron_may_be_the_one_to_lose_it(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    responses = rng.standard_normal((10, 6)) @ rng.standard_normal((6, 14))
    responses /= np.linalg.norm(responses, axis=0)
    null = np.linalg.svd(responses)[2][6:].T
    # A basis whose first vector has 1e-12 of the smallest neuron, and a sum below zero.
    first = np.linalg.svd(null[:1])[2][1]
    first = -np.copysign(1.0, (null @ first).sum()) * first - 1e-12 * null[0] / (null[0] @ null[0])
    turn, _ = np.linalg.qr(np.column_stack([first, rng.standard_normal((8, 7))]))
    turn[:, 0] = first
    monkeypatch.setattr(pruning, "null_space", lambda _: null @ turn)
    size = rng.uniform(1.0, 2.0, 14)
    size[0] = 1e-14
    found = pruning._walk(responses, size)
    assert np.count_nonzero(found) == 6
    assert (found >= 0.0).all()
    np.testing.assert_allclose(responses @ found, responses @ size, atol=1e-11)
