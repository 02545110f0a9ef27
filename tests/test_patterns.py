"""Patterns: enumeration against brute force, sampling, bookkeeping."""

from itertools import product

import numpy as np
import pytest

from convexgrade import MultigradeRegressor
from convexgrade.dual import dual_point, lower_bound
from convexgrade.patterns import (
    Patterns,
    _faces,
    activation,
    count_patterns,
    enumerate_patterns,
    sample_patterns,
)
from convexgrade.solution import Status
from tests.bank import brute_force_patterns, make_program


def _rows(case):
    rng = np.random.default_rng(case)
    n, d = int(rng.integers(2, 8)), 1 + case % 3
    if case % 2:
        features = rng.standard_normal((n, d - 1))
    else:  # ties: parallel rows, three lines through a point, duplicates
        features = rng.integers(-2, 3, (n, d - 1)).astype(float)
    return np.column_stack([features, np.ones(n)])


@pytest.mark.parametrize("case", range(18))
def test_enumeration_agrees_with_brute_force(case):
    X = _rows(case)
    patterns = enumerate_patterns(X, limit=1000)
    assert patterns.exhaustive
    assert {tuple(mask) for mask in patterns.masks.T} == brute_force_patterns(X)
    np.testing.assert_array_equal(patterns.masks, activation(X, patterns.gates))


def test_enumeration_in_rank_four_agrees_with_brute_force():
    X = np.random.default_rng(0).standard_normal((7, 4))
    patterns = enumerate_patterns(X, limit=1000)
    found = {tuple(mask) for mask in patterns.masks.T}
    assert found == brute_force_patterns(X) | {(True,) * 7}  # that of the zero gate


@pytest.mark.parametrize(("n", "rank"), [(40, 2), (60, 3), (15, 4)])
def test_enumeration_in_general_position_meets_covers_count(n, rank):
    X = np.random.default_rng(1).standard_normal((n, rank))
    found = enumerate_patterns(X, limit=10_000).masks
    n_empty = int((~found.any(axis=0)).sum())
    complement = {tuple(~m) for m in found.T} | {tuple(m) for m in found.T}
    assert n_empty == 0
    assert len(complement) == count_patterns(n, rank) + 2  # the zero gate's, and its complement


@pytest.mark.parametrize(("n", "rank"), [(10, 10), (12, 11), (14, 5)])
def test_enumeration_takes_no_longer_than_its_list_in_any_rank(n, rank):
    """In every order of the rows, each facet of a facet was met again: 13 rows took years."""
    X = np.column_stack([np.random.default_rng(0).standard_normal((n, rank - 1)), np.ones(n)])
    patterns = enumerate_patterns(X, limit=10_000)
    assert patterns.exhaustive
    assert len(patterns) == count_patterns(n, rank) - 1  # all but the one where nothing is active
    np.testing.assert_array_equal(patterns.masks, activation(X, patterns.gates))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_faces_on_dependent_rows_are_met_in_every_order_of_the_rows(order):
    """Three planes of R^3 through one line cut another one into 6 cells and 6 rays; a fourth, across."""
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])[order]
    flat = [[0, 0], *product([-1, 1], [0]), *product([0], [-1, 1]), [1, -1], [-1, 1]]
    flat += [[1, 1], [-1, -1], [2, -1], [-2, 1], [1, -2], [-1, 2]]
    points = np.array([[*point, height] for point in flat for height in (-1, 0, 1)])
    signs = {tuple(np.sign(rows @ point)) for point in points}
    found = np.round(rows @ _faces(rows, 1e-12), 9)
    assert {tuple(sign) for sign in np.sign(found.T)} == {s for s in signs if 0.0 in s and any(s)}


def test_enumeration_sees_rank_behind_many_columns_and_duplicate_rows():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((5, 2))
    X = np.repeat(rows, 2, axis=0) @ rng.standard_normal((2, 9))
    assert len(enumerate_patterns(X, limit=1000)) == len(enumerate_patterns(rows, limit=1000))


def test_enumeration_refuses_with_the_count():
    X = np.random.default_rng(0).standard_normal((50, 3))
    message = f"'exhaustive' would list up to {count_patterns(50, 3)} patterns"
    with pytest.raises(ValueError, match=message):
        enumerate_patterns(X, limit=100)


def test_rows_of_zeros_have_no_pattern_in_which_anything_is_active():
    patterns = enumerate_patterns(np.zeros((5, 2)), limit=100)
    assert len(patterns) == 0
    assert patterns.exhaustive
    chain = MultigradeRegressor(
        first_bias=False, patterns="exhaustive", n_grades=1, early_stopping=False
    )
    np.testing.assert_allclose(
        chain.fit(np.ones((5, 2)), np.arange(5.0)).predict(np.ones((1, 2))), 2.0
    )


@pytest.mark.parametrize("offset", [0.0, 2.0**20, -(2.0**30)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-8])
def test_an_offset_or_the_units_of_columns_hide_no_pattern(offset, scale):
    F = np.random.default_rng(3).integers(0, 6, (12, 2)).astype(float)
    plain = np.column_stack([F, np.ones(12)])
    X = np.column_stack([offset + scale * F[:, 0], 1e7 * F[:, 1], np.full(12, 0.1), np.ones(12)])
    expected, patterns = (enumerate_patterns(rows, limit=10_000) for rows in (plain, X))
    assert patterns.exhaustive
    assert {tuple(m) for m in patterns.masks.T} == {tuple(m) for m in expected.masks.T}
    np.testing.assert_array_equal(patterns.masks, activation(X, patterns.gates))
    sampled = sample_patterns(X, 20, np.random.default_rng(0))
    assert len(sampled) > 0
    assert np.all(patterns.find(sampled.masks) >= 0)


@pytest.mark.parametrize(
    "features",
    [
        [[0.0], [1e-15], [1.0]],
        [[0.0], [1.0], [np.nextafter(1.0, 2.0)]],
        [[0.0, 0.0], [1.0, 1.0 + 1e-12], [2.0, 2.0], [3.0, 3.0]],
    ],
)
def test_rows_that_differ_but_cannot_be_told_apart_are_not_all_patterns(features):
    X = np.column_stack([features, np.ones(len(features))])
    assert not enumerate_patterns(X, limit=100).exhaustive
    assert enumerate_patterns(X[[0, 2, 2, 0]], limit=100).exhaustive


def test_a_far_row_does_not_hide_the_others():
    X = np.column_stack([[*range(9), 1e13], np.ones(10)])
    patterns = enumerate_patterns(X, limit=100)
    assert patterns.exhaustive
    assert len(patterns) == 19


def test_a_spline_through_rows_at_an_offset_is_not_ruled_out():
    x = 1e6 + np.arange(10.0)
    y = np.abs(x - 1e6 - 4.5)
    program = make_program(np.column_stack([x, np.ones(10)]), y, alpha=1e-9, free=[1])
    assert len(program.patterns) == 19
    slope = np.sqrt(1.0 + 1004504.5**2) + np.sqrt(1.0 + 1e12 + 9e6)  # two neurons: |x - 4.5|
    for prediction in (np.zeros_like(program.y), program.y):  # of no neuron, and of these
        point = dual_point(program, prediction)
        largest = program.largest_dual_norm(program.adjoint(point.theta))
        assert lower_bound(program, point.q, largest) <= 1e-9 * slope


def test_without_biases_the_zero_gate_is_a_pattern_of_its_own():
    X, y = np.array([[-1.0], [1.0]]), np.array([-1.0, 1.0])
    gated = MultigradeRegressor(
        0.1,
        n_grades=1,
        first_bias=False,
        fit_intercept=False,
        standardize=False,
        activation="gated_relu",
        patterns="exhaustive",
        early_stopping=False,
    ).fit(X, y)
    assert gated.certificates_[0].price_is_exact
    assert gated.certificates_[0].primal == pytest.approx(0.095)  # v = 0.9: 0.1**2 / 2 + 0.1 * 0.9


def test_faces_without_a_gate_in_double_precision_are_not_claimed():
    Z = np.random.default_rng(0).standard_normal((4, 2))
    general, opposite = (enumerate_patterns(X, limit=100) for X in (Z, np.vstack([Z, -Z])))
    assert general.exhaustive
    assert not opposite.exhaustive  # at right angles to a row, that row and its opposite are active
    whole = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    patterns = enumerate_patterns(whole, limit=100)
    assert patterns.exhaustive
    assert len(patterns) == 4 + 4 + 1  # cells, rays, origin
    cells = enumerate_patterns(np.vstack([Z, -Z]), limit=100, faces=False)
    assert cells.exhaustive  # of neurons
    assert len(cells) == 8


def test_neurons_without_biases_need_no_patterns_of_faces():
    """On the face of two opposite rows no gate can be; a neuron is as good in a cell next to it."""
    X = np.stack(np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]), axis=-1).reshape(9, 2)
    y = np.random.default_rng(5).standard_normal(9)
    parameters = {"first_bias": False, "n_grades": 1, "early_stopping": False}
    chain = MultigradeRegressor(0.01, patterns="exhaustive", **parameters).fit(X, y)
    (certificate,) = chain.certificates_
    assert certificate.status is Status.GLOBALLY_OPTIMAL
    assert certificate.n_patterns == 8
    searched = MultigradeRegressor(0.01, random_state=0, **parameters).fit(X, y)
    assert certificate.dual <= searched.certificates_[0].primal + 1e-12
    assert certificate.primal == pytest.approx(searched.certificates_[0].primal, rel=1e-6)


def test_sampled_patterns_are_distinct_reproducible_and_stop_when_there_are_no_more():
    X = np.column_stack([np.random.default_rng(0).standard_normal((30, 4)), np.ones(30)])
    patterns = sample_patterns(X, 50, np.random.default_rng(7))
    again = sample_patterns(X, 50, np.random.default_rng(7))
    assert len(patterns) == 50
    assert len({m.tobytes() for m in patterns.masks.T.copy()}) == 50
    np.testing.assert_array_equal(patterns.gates, again.gates)
    few = sample_patterns(np.array([[0.0, 1.0], [1.0, 1.0]]), 50, np.random.default_rng(0))
    assert 1 <= len(few) <= 3


def test_extend_keeps_positions_and_find_locates():
    X = np.column_stack([np.linspace(-1, 1, 9), np.ones(9)])
    patterns = sample_patterns(X, 4, np.random.default_rng(0))
    longer = patterns.extend(X, np.column_stack([patterns.gates, [1.0, 0.05]]))
    np.testing.assert_array_equal(longer.masks[:, :4], patterns.masks)
    np.testing.assert_array_equal(longer.find(patterns.masks), np.arange(4))
    assert Patterns.from_gates(X, np.array([[0.0], [-1.0]])).masks.shape == (9, 0)
    np.testing.assert_array_equal(patterns.find(np.zeros((9, 1), dtype=bool)), [-1])
