"""Search: descents, neurons that count as one, prices."""

from dataclasses import replace

import numpy as np
import pytest

from convexgrade import proposals, search
from convexgrade.dual import dual_point
from convexgrade.grade import fit_grade, state_problem
from convexgrade.losses import SquaredError
from convexgrade.neurons import Neurons, directions, merged
from convexgrade.point import null_point, point_of
from convexgrade.search import ascend, distinct, price, random_neurons
from convexgrade.settings import Settings
from tests.bank import make_program, random_program


def wide_program(seed=0, n=60, alpha=0.01):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.standard_normal((n, 2)), np.ones(n)])
    y = np.abs(X[:, 0]) - np.maximum(X[:, 1], 0.0)
    return make_program(X, y, alpha=alpha, free=[2])


def test_neurons_that_point_the_same_way_add_up():
    u, v = np.array([3.0, 4.0, 0.0]), np.array([0.0, 0.0, 2.0])
    neurons = Neurons(
        vectors=np.column_stack([u, 1.5 * u, np.add(u, [0.0, 0.01, 0.0]), v, u, -u]),
        sign=np.array([1.0, 1.0, 1.0, 1.0, -1.0, 1.0]),
        output=np.array([0, 0, 0, 0, 0, 0]),
    )
    sums = merged(neurons)
    found = {
        tuple(np.round(column, 9)): s for column, s in zip(sums.vectors.T, sums.sign, strict=True)
    }
    assert found == {(10.5, 14.01, 0.0): 1.0, tuple(v): 1.0, tuple(u): -1.0, tuple(-u): 1.0}


def test_outputs_and_signs_are_never_merged():
    vectors = np.tile(np.array([[1.0], [2.0]]), 4)
    neurons = Neurons(vectors, np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 1, 0, 1]))
    assert len(merged(neurons)) == 4


def test_merging_exact_copies_changes_no_output_and_no_penalty():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((3, 5))
    copies = np.hstack([0.3 * vectors, 0.7 * vectors])
    sign = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    neurons = Neurons(copies, np.tile(sign, 2), np.zeros(10, dtype=int))
    sums = merged(neurons)
    X = rng.standard_normal((20, 3))
    assert len(sums) == 5
    np.testing.assert_allclose(sums.forward(X, 1), neurons.forward(X, 1), atol=1e-12)
    assert np.linalg.norm(sums.vectors, axis=0).sum() == pytest.approx(
        np.linalg.norm(copies, axis=0).sum()
    )


def test_what_a_sketch_finds_does_not_depend_on_the_unit_of_the_residuals():
    """Targets and alpha in another unit: the objective is in its square, and the network in it."""
    rng = np.random.default_rng(0)
    H = rng.standard_normal((200, 3))
    y = (np.sin(2.0 * H[:, 0]) * H[:, 1] + 0.3 * rng.standard_normal(200))[:, None]
    y /= y.std()
    found = []
    for unit in (1.0, 0.1, 0.01, 1e-4, 1e-6):
        settings = Settings(fit_intercept=True, patterns="sketched", max_iter=1)
        nothing, weights = np.zeros_like(y), np.full(200, 1 / 200)
        problem = state_problem(
            H, unit * y, nothing, weights, SquaredError(), 3e-3 * unit, settings
        )
        found.append(fit_grade(problem, settings, (0, 0)).certificate.primal / unit**2)
    assert found[0] < 0.2
    np.testing.assert_allclose(found, found[0], rtol=0.03)


@pytest.mark.parametrize("loss", ["squared_error", "binary", "softmax"])
def test_a_descent_lowers_the_objective_of_the_network(loss):
    program = random_program(2, loss=loss, n=30, k=3 if loss == "softmax" else 1)
    null = null_point(program, program.patterns)
    start = search.random_neurons(program, 12, np.random.default_rng(0))
    neurons, c = search.descend(program, start, null.unpenalised, max_iter=300)
    before = point_of(program, start, null.unpenalised).objective
    after = point_of(program, neurons, c).objective
    assert after < before
    assert after <= null.objective + 1e-9


def test_a_descent_goes_on_without_withered_neurons_and_ends_where_little_is_gained(monkeypatch):
    program = random_program(2, n=30)
    null = null_point(program, program.patterns)
    start = search.random_neurons(program, 40, np.random.default_rng(0))
    widths = []
    step = search.step

    def recorded(objective, *args):
        widths.append(objective.output.size)
        return step(objective, *args)

    monkeypatch.setattr(search, "step", recorded)
    long, c = search.descend(program, start, null.unpenalised, max_iter=400)
    assert widths[0] == 40
    assert widths[-1] <= 30
    assert long.sign.size <= widths[-1]
    best, total = point_of(program, long, c).objective, len(widths)
    assert total <= 400
    widths.clear()
    settled, c = search.descend(program, start, null.unpenalised, max_iter=400, settled=1e-3)
    assert len(widths) < total
    assert point_of(program, settled, c).objective <= best * 1.05


def test_a_descent_returns_no_withered_neurons(monkeypatch):
    monkeypatch.setattr(search, "_WITHERED", 0.5)
    program = wide_program()
    start = random_neurons(program, 20, np.random.default_rng(0))
    neurons, _ = search.descend(program, start, np.zeros((program.free.size, 1)), max_iter=3)
    sizes = np.linalg.norm(neurons.vectors, axis=0)
    assert 0 < sizes.size < 20
    assert sizes.min() > 0.5 * sizes.max()


@pytest.mark.parametrize(("loss", "k"), [("binary", 1), ("softmax", 3)])
def test_gradient_of_the_descent_is_that_of_its_objective(loss, k):
    program = random_program(3, loss=loss, n=12, k=k)
    output = np.array([0, 1, 2, 0]) % k
    objective = search._Balanced.of(program, output)
    rng = np.random.default_rng(0)
    d, q = program.X.shape[1], program.free.size

    def balanced(flat):
        u, a, c = flat[: 4 * d].reshape(d, 4), flat[4 * d :][:4], flat[4 * d + 4 :].reshape(q, k)
        hidden = np.maximum(program.X @ u, 0.0) * a
        f = program.offset + program.Z @ c
        for neuron, to in enumerate(output):
            f[:, to] += hidden[:, neuron]
        return program.mean_loss(f) + 0.5 * program.alpha * (np.sum(u**2) + np.sum(a**2))

    flat = rng.standard_normal(d * 4 + 4 + q * k)
    value, gradient = objective(flat)
    assert value == pytest.approx(balanced(flat), rel=1e-6)
    for i in range(flat.size):
        step = 1e-6 * np.eye(flat.size)[i]
        slope = (balanced(flat + step) - balanced(flat - step)) / 2e-6
        assert gradient[i] == pytest.approx(slope, abs=2e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e20, 1e45])
def test_scales_beyond_single_precision_are_searched_as_well(scale):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((60, 2))
    y = np.abs(H[:, :1]) - 1.0
    settings = Settings(n_patterns=20, hidden_bias=False)

    def least(scale):
        alpha, weights = 0.01 * scale, np.full(60, 1.0 / 60.0)
        args = (scale * H, y, np.zeros_like(y), weights, SquaredError(), alpha, settings)
        return fit_grade(state_problem(*args), settings, (0, 0)).certificate.primal

    assert least(1.0) < 0.1
    assert least(scale) == pytest.approx(least(1.0), rel=1e-3)


def test_ascent_reaches_the_highest_price_where_all_patterns_are_known():
    program = wide_program()
    null = null_point(program, program.patterns)
    theta = dual_point(program, null.prediction(program)).theta
    full = program.over(program.patterns)
    highest = full.largest_dual_norm(full.adjoint(theta))
    starts = np.random.default_rng(0).standard_normal((3, 64))
    found = search.ascend(program, theta, starts)
    prices = found.sign * search.price(program, theta, found.vectors)[0]
    assert np.all(np.diff(prices) <= 1e-6 * highest)  # prices are climbed in single precision
    assert prices[0] <= highest * (1.0 + 1e-9)
    assert prices[0] == pytest.approx(highest, rel=1e-4)


def test_the_length_of_what_a_search_is_given_does_not_matter():
    """Corrections let neurons fade to lengths whose squares are no numbers."""
    program = wide_program()
    theta = dual_point(program, program.offset).theta
    starts = np.random.default_rng(0).standard_normal((3, 8))
    starts[:, 0] = 0.0
    sizes = np.ldexp(1.0, np.array([0, 0, -600, -1000, 600, 1000, -1, 1]))
    sized = starts * sizes
    np.testing.assert_array_equal(directions(sized), directions(starts))
    np.testing.assert_allclose(np.linalg.norm(directions(sized), axis=0), [0.0] + [1.0] * 7)
    np.testing.assert_array_equal(price(program, theta, sized), price(program, theta, starts))
    expected, found = ascend(program, theta, starts), ascend(program, theta, sized)
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    faded = Neurons(starts * 2.0**-600, np.ones(8), np.zeros(8, dtype=np.intp))
    grown, c = search.descend(program, faded, program.null_coefficients, max_iter=5)
    assert np.all(np.isfinite(grown.vectors))
    assert np.all(np.isfinite(c))


def test_many_rows_begin_on_a_sample(monkeypatch):
    rng = np.random.default_rng(0)
    H = rng.standard_normal((600, 3))
    y = np.abs(H[:, :1]) + 0.1 * rng.standard_normal((600, 1))
    weights = np.full(600, 1 / 600)
    problem = state_problem(H, y, np.zeros((600, 1)), weights, SquaredError(), 0.01, Settings())
    rows_seen = []
    descend = search.descend

    def watched(problem, *args, **kwargs):
        rows_seen.append(len(problem.X))
        assert problem.weights.sum() == pytest.approx(1.0)
        return descend(problem, *args, **kwargs)

    monkeypatch.setattr(search, "descend", watched)
    whole = fit_grade(problem, Settings(n_patterns=50, max_iter=1), (0,))
    assert set(rows_seen) == {600}
    rows_seen.clear()
    monkeypatch.setattr(proposals, "_SAMPLE", 200)
    sampled = fit_grade(problem, Settings(n_patterns=50, max_iter=1), (0,))
    assert rows_seen[0] == 200
    assert set(rows_seen[1:]) == {600}
    assert sampled.certificate.primal == pytest.approx(whole.certificate.primal, rel=2e-3)
    assert sampled.certificate.relative_gap < 1e-6


@pytest.mark.parametrize("n_outputs", [1, 2, 3])
def test_random_neurons_have_both_signs_on_every_output(n_outputs):
    program = random_program(0, n=20, k=n_outputs)
    neurons = random_neurons(program, 4 * n_outputs, np.random.default_rng(0))
    for k in range(n_outputs):
        assert sorted(neurons.sign[neurons.output == k]) == [-1.0, -1.0, 1.0, 1.0]


def test_neurons_of_one_pattern_are_distinct_by_sign_and_output():
    program = random_program(0, n=20, k=2)
    vectors = np.outer(program.patterns.gates[:, 0], [1.0, 2.0, 1.0, 1.0])
    neurons = Neurons(vectors, np.array([1.0, 1.0, -1.0, 1.0]), np.array([0, 0, 0, 1]))
    found = distinct(program, neurons)
    np.testing.assert_array_equal(found.sign, [1.0, -1.0, 1.0])
    np.testing.assert_array_equal(found.output, [0, 0, 1])
    np.testing.assert_array_equal(found.vectors, vectors[:, [0, 2, 3]])


def test_random_neurons_are_of_their_usual_size_where_the_offset_leaves_nothing():
    program = random_program(0, n=20)
    fitted = replace(program, offset=program.y)
    neurons = random_neurons(fitted, 8, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(neurons.vectors, axis=0), search._START)


def test_neurons_that_an_ascent_reaches_belong_to_the_output_whose_price_they_climbed():
    program = random_program(0, n=40, d=3, k=2)
    theta = np.column_stack([np.sin(np.arange(40.0)), 0.1 * np.cos(3.0 * np.arange(40.0))])
    found = ascend(program, theta, np.random.default_rng(0).standard_normal((3, 20)))
    prices = found.sign * price(program, theta, found.vectors)[found.output, np.arange(80)]
    assert np.all(np.diff(prices) <= 1e-6 * prices.max())
    assert np.bincount(found.output).tolist() == [40, 40]
