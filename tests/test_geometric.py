"""Nested tables, moduli and the geometric estimator, against brute force and known functions."""

import pickle
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from convexgrade import GeometricLayerwiseRegressor, check_readout_bound
from convexgrade.geometric import Box, Tables, as_box, cell_centers, cell_codes, digits
from convexgrade.moduli import as_modulus, empirical_modulus, lp_norm, spread_points
from tests.samples import FUNCTIONS, cone, jump, noise, root, spike

DEPTHS = [(1, 2, 7), (1, 3, 4), (2, 2, 4), (2, 3, 3), (3, 2, 3), (3, 3, 2)]


@parametrize_with_checks([GeometricLayerwiseRegressor(), GeometricLayerwiseRegressor(3, 2)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_contract(estimator, check):
    check(estimator)


# Cells and tables


@pytest.mark.parametrize("base", [2, 3, 10, 1000])
def test_digits_are_those_of_exact_arithmetic(base):
    unit = np.concatenate([np.random.default_rng(0).uniform(0, 1, 50), [0.0, 0.5, 1 / 3, 1.0]])
    computed = np.array(list(digits(unit[:, None], base, 6)))[:, :, 0]
    for x, column in zip(unit, computed.T, strict=True):
        rest = min(Fraction(int(x * 2**53), 2**53), 1 - Fraction(1, 2**53))
        for digit in column:
            rest *= base
            assert digit == rest.numerator // rest.denominator
            rest -= int(digit)


@pytest.mark.parametrize(("d", "base", "layer"), [(1, 5, 2), (2, 2, 3), (3, 3, 1)])
def test_cells_are_numbered_in_the_order_of_their_centers(d, base, layer):
    centers = cell_centers(d, base, layer)
    assert len(np.unique(centers, axis=0)) == len(centers) == base ** (d * layer)
    codes = np.zeros(len(centers), dtype=np.int64)
    for cell_digits in digits(centers, base, layer):
        codes = cell_codes(cell_digits, base, codes)
    np.testing.assert_array_equal(codes, np.arange(len(centers)))


def brute_force(X, y, w, rows, base, n_layers):
    """Average over the rows in the same cell, found by comparing integers; else the parent's."""
    low, width = X.min(axis=0), np.ptp(X, axis=0)
    width[width == 0.0] = 1.0

    def cells(A, layer):
        unit = np.clip((A - low) / width, 0.0, 1.0 - 2.0**-53)
        return np.floor(unit * base**layer).astype(int)

    values, levels = [], []
    value, level = np.full(len(rows), np.average(y, weights=w)), np.zeros(len(rows), dtype=int)
    for layer in range(1, n_layers + 1):
        train, asked = cells(X, layer), cells(rows, layer)
        value, level = value.copy(), level.copy()
        for i, cell in enumerate(asked):
            inside = np.all(train == cell, axis=1)
            if inside.any():
                value[i], level[i] = np.average(y[inside], weights=w[inside]), layer
        values.append(value)
        levels.append(level)
    return values, levels


@pytest.mark.parametrize(("d", "base", "n_layers"), [(1, 2, 6), (2, 3, 3), (5, 2, 3), (40, 2, 2)])
def test_tables_are_averages_and_empty_cells_inherit(d, base, n_layers):
    X, y = noise(200, d)
    X[:, -1] = 4.0 if d == 5 else X[:, -1]  # a constant column
    weights = np.random.default_rng(1).uniform(0.1, 2.0, len(X))
    rows = np.vstack([X[:20], noise(60, d, seed=2)[0]])
    model = GeometricLayerwiseRegressor(base, n_layers).fit(X, y, sample_weight=weights)
    values, levels = brute_force(X, y, weights, rows, base, n_layers)
    staged = list(model.staged_predict(rows, return_level=True))
    for (value, level), expected, expected_level in zip(staged, values, levels, strict=True):
        np.testing.assert_array_equal(level, expected_level)
        np.testing.assert_allclose(value, expected, atol=1e-12)
    assert np.all(staged[-1][1][:20] == n_layers)  # training rows are in cells with rows
    assert np.any(staged[-1][1] < n_layers)
    for value, (again, _) in zip(model.staged_predict(rows), staged, strict=True):
        np.testing.assert_array_equal(value, again)
    np.testing.assert_array_equal(model.predict(rows), staged[-1][0])


def test_memory_grows_with_occupied_cells():
    X, y = noise(150, 12)
    model = GeometricLayerwiseRegressor(3, 12).fit(X, y)  # 3**144 cells in the last layer
    assert np.all(model.n_cells_ <= 150)
    stored = sum(sum(k.size for k in layer.keys) for layer in model.tables_.layers)
    assert stored <= 150 * 12
    np.testing.assert_allclose(model.predict(X), y, atol=1e-12)  # one row a cell


@pytest.mark.parametrize("decoder", ["table", "sine"])
@pytest.mark.parametrize("base", [2, 3])
def test_one_more_layer_changes_none_before(decoder, base):
    X, y = noise(200, 1)
    short = GeometricLayerwiseRegressor(base, 2, decoder=decoder).fit(X, y)
    long = GeometricLayerwiseRegressor(base, 3, decoder=decoder).fit(X, y)
    asked = np.linspace(-4, 4, 101)[:, None]
    for a, b in zip(short.staged_predict(asked), list(long.staged_predict(asked))[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(short.codes_, long.codes_, strict=False):
        assert a.multiple == b.multiple


def test_a_function_seen_at_the_same_points_has_the_same_earlier_layers():
    short = GeometricLayerwiseRegressor(3, 2).fit_function(root, 2, 6)
    long = GeometricLayerwiseRegressor(3, 3).fit_function(root, 2, 2)
    for a, b in zip(short.tables_.layers, long.tables_.layers, strict=False):
        np.testing.assert_array_equal(a.terms, b.terms)


def test_weights_are_copies_and_zero_leaves_out():
    X, y = noise(60)
    weights = np.random.default_rng(0).integers(0, 3, 60).astype(float)
    weights[np.argmax(X[:, 0])] = 0.0  # this row must not widen the box
    weighted = GeometricLayerwiseRegressor().fit(X, y, sample_weight=weights)
    copied = GeometricLayerwiseRegressor().fit(
        *(np.repeat(a, weights.astype(int), 0) for a in (X, y))
    )
    np.testing.assert_array_equal(weighted.box_.high, copied.box_.high)
    np.testing.assert_allclose(weighted.predict(X), copied.predict(X), atol=1e-12)


def test_several_outputs_are_fitted_one_by_one():
    X, y = noise()
    Y = np.column_stack([y, X[:, 0], np.ones(len(X))])
    model = GeometricLayerwiseRegressor(3, 2).fit(X, Y)
    for column, target in zip(model.predict(X).T, Y.T, strict=True):
        alone = GeometricLayerwiseRegressor(3, 2).fit(X, target)
        np.testing.assert_allclose(column, alone.predict(X), atol=1e-14)


def test_rows_outside_count_as_the_nearest_point_of_the_box():
    X, y = noise(100, 2)
    for domain in (None, (-1.0, [0.5, 1.0])):
        model = GeometricLayerwiseRegressor(domain=domain).fit(X, y)
        far = 10.0 * X
        near = np.clip(far, model.box_.low, model.box_.high)
        np.testing.assert_array_equal(model.predict(far), model.predict(near))
    np.testing.assert_array_equal(model.box_.low, [-1.0, -1.0])
    np.testing.assert_array_equal(model.box_.high, [0.5, 1.0])


def test_huge_and_constant_columns_neither_overflow_nor_divide_by_zero():
    X = np.array([[-1.7e308, 5.0], [1.7e308, 5.0], [0.0, 5.0]])
    model = GeometricLayerwiseRegressor(3, 1).fit(X, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(model.predict(X), [1.0, 2.0, 3.0])
    assert Box.around(np.ones((2, 3))).unit(np.ones((1, 3))).tolist() == [[0.0, 0.0, 0.0]]


def test_data_frames_pickles_clones_and_searches():
    X, y = noise(200)
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = GeometricLayerwiseRegressor(domain=(-4, 4)).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    assert clone(model).get_params() == model.get_params()
    search = GridSearchCV(GeometricLayerwiseRegressor(), {"n_layers": [1, 4]}, cv=3)
    assert search.fit(X, cone(X)).best_params_ == {"n_layers": 4}


# Bounds


@pytest.mark.parametrize("p", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("d", "base", "n_layers"), DEPTHS)
def test_every_readout_is_within_its_bound(d, base, n_layers, name, p):
    f, modulus = FUNCTIONS[name]
    model = GeometricLayerwiseRegressor(base, n_layers, p=p).fit_function(f, d, 4)
    checks = check_readout_bound(model, f, modulus(p), n_points=20_000)
    assert [check.layer for check in checks] == list(range(1, n_layers + 1))
    for check, bound in zip(checks, model.readout_bound(modulus(p)), strict=True):
        scale = float(base) ** -check.layer
        assert check.modulus == pytest.approx(as_modulus(modulus(p))(scale))
        assert check.bound == bound == pytest.approx((2 * d + 1) * check.modulus)
        assert check.ratio == check.error / check.bound
        assert 0.0 < check.ratio <= 1.0
        assert check.error <= 1.02 * d * 2 ** (1 / p) * check.modulus  # what averages alone need
    assert checks[0].error > checks[-1].error


@pytest.mark.parametrize(("d", "base", "n_layers"), DEPTHS)
def test_the_error_of_a_plane_is_known_at_every_layer(d, base, n_layers):
    def plane(X):
        return X.sum(axis=1)

    model = GeometricLayerwiseRegressor(base, n_layers).fit_function(plane, d)
    checks = check_readout_bound(model, plane, np.sqrt(d), n_points=20_000)
    expected = np.sqrt(d / 12) * float(base) ** -np.arange(1, n_layers + 1)
    np.testing.assert_allclose([check.error for check in checks], expected, rtol=0.01)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_the_mean_square_exact_tables_never_get_worse(name):
    """Averages over nested cells are projections on nested spaces."""
    f, _ = FUNCTIONS[name]
    model = GeometricLayerwiseRegressor(2, 8).fit_function(f, 1, 8)
    errors = [check.error for check in check_readout_bound(model, f, 1.0)]
    assert np.all(np.diff(errors) <= 1e-6)


@pytest.mark.parametrize(("f", "d"), [(cone, 2), (root, 2), (jump, 2), (spike, 1)])
def test_the_bound_holds_with_the_estimated_modulus_too(f, d):
    model = GeometricLayerwiseRegressor(2, 5).fit_function(f, d)
    checks = check_readout_bound(model, f, n_points=20_000)
    assert all(0.0 < check.ratio <= 1.0 for check in checks)


def test_a_wrong_function_or_modulus_is_found_out():
    model = GeometricLayerwiseRegressor(2, 6).fit_function(jump, 1)
    ratios = [check.ratio for check in check_readout_bound(model, jump, 1.0)]
    assert ratios[-1] > 1.0  # a jump is not 1-Lipschitz
    moved = check_readout_bound(model, lambda X: jump(X + 0.5), (1.0, 0.5))
    assert moved[-1].ratio > 1.0
    flat = check_readout_bound(model, jump, 0.0)
    assert flat[0].ratio == np.inf
    constant = GeometricLayerwiseRegressor(2, 2).fit_function(lambda X: np.zeros(len(X)), 1)
    assert [c.ratio for c in check_readout_bound(constant, lambda X: 0 * X[:, 0], 0.0)] == [0, 0]


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda X: 1.0, r"f returned shape \(\) for 4 rows"),
        (lambda X: X[:1, 0], r"f returned shape \(1,\) for 4 rows"),
        (lambda X: np.ones((4, 1, 1)), r"f returned shape \(4, 1, 1\) for 4 rows"),
        (lambda X: np.full(4, np.nan), r"f must be finite on the box; it is not at \[0.125\]"),
    ],
)
def test_what_a_function_returns_is_checked(f, message):
    with pytest.raises(ValueError, match=message):
        GeometricLayerwiseRegressor(2, 2).fit_function(f, 1, 1)


def test_bounds_of_models_of_named_columns_are_measured_without_a_warning():
    frame = pd.DataFrame({"a": np.linspace(0.0, 1.0, 50)})
    model = GeometricLayerwiseRegressor(2, 3).fit(frame, frame["a"])
    plain = GeometricLayerwiseRegressor(2, 3).fit(frame.to_numpy(), frame["a"])
    found, expected = (check_readout_bound(m, lambda X: X[:, 0], 1.0) for m in (model, plain))
    assert found == expected


def test_the_measured_error_is_the_norm_over_the_box():
    model = GeometricLayerwiseRegressor(4, 1, domain=(2.0, 6.0)).fit_function(lambda X: X[:, 0], 1)
    for p in (1.0, 2.0, 3.0):  # error x - 1/2 on cells of side 1
        [check] = check_readout_bound(model, lambda X: X[:, 0], 1.0, p)
        assert check.error == pytest.approx(0.5 * (1 / (p + 1)) ** (1 / p), rel=1e-3)
        assert check.modulus == 1.0
        assert check.bound == 3.0


@pytest.mark.parametrize("d", [1, 2, 4])
def test_rows_without_noise_are_within_the_bound_of_their_effective_level(d):
    rng = np.random.default_rng(0)
    X, asked = rng.uniform(0, 1, (2, 3000, d))
    model = GeometricLayerwiseRegressor(2, 7, domain=(0.0, 1.0)).fit(X, cone(X))
    for readout, level in model.staged_predict(asked, return_level=True):
        diagonal = np.sqrt(d) * 2.0**-level
        assert np.all(np.abs(readout - cone(asked)) <= diagonal)
    for layer, readout in enumerate(model.staged_predict(X), start=1):
        assert np.abs(readout - cone(X)).max() <= np.sqrt(d) * 2.0**-layer
    assert (level.mean() < 7) == (d > 1)


@pytest.mark.parametrize(("base", "n_layers", "finest"), [(2, 60, 53), (1000, 6, 5)])
def test_no_level_is_finer_than_coordinates_are(base, n_layers, finest):
    X = np.array([[0.0], [float(base) ** -n_layers], [1.0]])
    y = np.sqrt(X[:, 0])
    model = GeometricLayerwiseRegressor(base, n_layers).fit(X, y)
    for readout, level in model.staged_predict(X, return_level=True):
        assert level.max() <= finest
        side = float(base) ** -level
        assert np.all(np.abs(readout - y) <= np.sqrt(side) * (1.0 + 1e-12))
    np.testing.assert_array_equal(level, finest)


def test_bounds_of_sides_too_small_for_numbers_stay_bounds():
    slow = (1.0, 0.001)
    model = GeometricLayerwiseRegressor(2, 1080).fit([[0.0], [1.0]], [0.0, 1.0])
    bounds = model.readout_bound(slow)
    assert np.all(bounds[1074:] == 3.0 * (2.0**-1074) ** 0.001)
    with pytest.raises(ValueError, match="does not get small enough"):
        model.levels_for(0.01, slow)


def test_moduli_of_all_kinds_agree():
    model = GeometricLayerwiseRegressor(3, 4, domain=(0.0, [1.0, 5.0])).fit(*noise())
    expected = 5 * 2.0 * (5.0 / 3.0 ** np.arange(1, 5)) ** 0.5
    np.testing.assert_allclose(model.readout_bound((2.0, 0.5)), expected)
    np.testing.assert_allclose(model.readout_bound(lambda t: 2.0 * t**0.5), expected)
    np.testing.assert_allclose(model.readout_bound(np.float32(2)), model.readout_bound([2, 1]))


@pytest.mark.parametrize("modulus", [3.0, (0.5, 0.25), lambda t: t / (1 + t)])
@pytest.mark.parametrize("eps", [1.0, 1e-2])
def test_levels_for_is_the_first_layer_within_eps(modulus, eps):
    model = GeometricLayerwiseRegressor(2, 1, domain=(0.0, 1.0)).fit(*noise())
    needed = model.levels_for(eps, modulus)
    deep = model.set_params(n_layers=needed).fit(*noise(5)).readout_bound(modulus)
    assert deep[-1] <= eps
    assert np.all(deep[:-1] > eps)


def test_the_estimated_modulus_is_near_the_true_one_from_below():
    for p in (1.0, 2.0):
        modulus = empirical_modulus(jump, 1, p)
        for t in (0.3, 0.1, 0.02):  # the true one: t**(1 / p)
            slack = 2e-3  # one point of the quadrature more or less
            assert t ** (1 / p) - slack <= modulus(t) <= t ** (1 / p) + slack
    plane = empirical_modulus(lambda X: X @ [3.0, 4.0], 2, domain=(0.0, 2.0))
    assert plane(0.1) == pytest.approx(0.4 * np.sqrt(0.95), rel=1e-3)  # a step of 0.1 along y
    assert plane(0.0) == 0.0
    assert plane(2.0) == plane(5.0)  # no larger shift stays inside


def test_norms_neither_overflow_nor_vanish():
    values = np.array([3e-200, -4e-200])
    assert lp_norm(values, 2.0) == pytest.approx(5e-200 / np.sqrt(2))
    assert lp_norm(1e300 * np.ones(4), 50.0) == pytest.approx(1e300)
    assert lp_norm(np.ones(2), 1.0, count=8) == 0.25
    assert lp_norm(np.zeros(3), 2.0) == 0.0


@pytest.mark.parametrize("d", [1, 2, 3])
def test_quadrature_points_fill_every_part_of_the_box(d):
    points = spread_points(as_box((-1.0, 3.0), d), 4000)
    counts = np.bincount(np.ravel(_cells(points, d)), minlength=4**d)
    np.testing.assert_allclose(counts / 4000, 4.0**-d, rtol=0.15)


def _cells(points, d):
    [cell_digits] = digits(as_box((-1.0, 3.0), d).unit(points), 4, 1)
    return cell_codes(cell_digits, 4, np.zeros(len(points), dtype=np.int64))


# Refusals


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("base", 1),
        ("base", 1001),
        ("n_layers", 0),
        ("decoder", "cosine"),
        ("p", 0.5),
        ("p", np.inf),
    ],
)
def test_a_parameter_out_of_range_names_itself(name, value):
    message = f"The '{name}' parameter of GeometricLayerwiseRegressor must be .* Got"
    with pytest.raises(ValueError, match=message):
        GeometricLayerwiseRegressor(**{name: value}).fit(*noise())
    with pytest.raises(ValueError, match=message):
        GeometricLayerwiseRegressor(**{name: value}).fit_function(cone, 1)


@pytest.mark.parametrize(
    "domain",
    [(1.0, 0.0), (0.0,), (0.0, np.inf), ([0, 0, 0], 1), ("a", "b"), (-1e308, 1e308)],
)
def test_a_domain_that_is_no_box_is_refused(domain):
    with pytest.raises(ValueError, match=r"domain=.* must"):
        GeometricLayerwiseRegressor(domain=domain).fit(*noise())


@pytest.mark.parametrize("domain", [[(0, 1), (0, 1)], (0.0, [1.0, 0.0]), (2, 2)])
def test_a_domain_with_a_side_of_no_length_is_refused(domain):
    """One pair a column, as other libraries take it, is two equal corners where columns are alike."""
    X, y = noise(100, 2)
    message = (
        r"domain=.* must have .* low < high .* \(low, high\), each of them a number or one number"
    )
    with pytest.raises(ValueError, match=message):
        GeometricLayerwiseRegressor(domain=domain).fit(X, y)
    with pytest.raises(ValueError, match=message):
        GeometricLayerwiseRegressor(n_layers=2, domain=domain).fit_function(cone, 2)
    with pytest.raises(ValueError, match=message):
        empirical_modulus(cone, 2, domain=domain)


def test_a_box_around_rows_of_one_value_in_a_column_can_be_measured():
    X, _ = noise(200, 2)
    X[:, 1] = 3.0
    model = GeometricLayerwiseRegressor(n_layers=2).fit(X, X[:, 0])
    checks = check_readout_bound(model, lambda X: X[:, 0], n_points=2000)
    assert all(0.0 < check.ratio <= 1.0 for check in checks)


@pytest.mark.parametrize("refused", [{"domain": (1.0, 0.0)}, {"decoder": "sine", "n_layers": 5}])
def test_a_refused_refit_leaves_the_estimator_as_it_was(refused):
    X, y = noise()
    model = GeometricLayerwiseRegressor().fit(X, y)
    before = model.predict(X)
    wider, narrower = np.column_stack([X, X]), X.shape[1]
    model.set_params(**refused)
    with pytest.raises(ValueError, match=r"domain=|cells in the last layer"):
        model.fit(wider, y)
    with pytest.raises(ValueError, match=r"domain=|cells in the last layer"):
        model.fit_function(lambda rows: rows[:, 0], 3, 1)
    assert model.n_features_in_ == model.box_.n_features == narrower
    np.testing.assert_array_equal(model.predict(X), before)


def test_a_function_may_write_on_what_it_gets():
    def twice(rows):
        rows *= 2.0
        return rows[:, 0]

    model = GeometricLayerwiseRegressor(n_layers=6).fit_function(twice, 1)
    assert model.predict([[0.4]])[0] == pytest.approx(0.8, abs=0.02)
    assert all(report.ratio <= 1.0 for report in check_readout_bound(model, twice, 2.0))


def test_bad_input_is_refused_by_name():
    X, y = noise()
    with pytest.raises(
        ValueError, match=r"y has values of up to 1e\+301, whose sums are no numbers"
    ):
        GeometricLayerwiseRegressor().fit(X, np.full(len(X), 1e301))
    with pytest.raises(ValueError, match="could not convert string to float"):
        GeometricLayerwiseRegressor().fit(X, ["a"] * len(X))
    model = GeometricLayerwiseRegressor()
    with pytest.raises(NotFittedError):
        model.readout_bound(1.0)
    with pytest.raises(ValueError, match="zero"):
        model.fit(X, y, sample_weight=np.zeros(len(X)))
    with pytest.raises(ValueError, match="Negative values in"):
        model.fit(X, y, sample_weight=-np.ones(len(X)))
    with pytest.raises(ValueError, match="more than 20000000 in all"):
        model.fit_function(cone, 5)
    with pytest.raises(ValueError, match="more than 20000000 in all"):
        model.fit_function(cone, np.int64(9))  # 128^9 points, no 0 of numpy's integers
    with pytest.raises(ValueError, match="points_per_side == 0, must be >= 1"):
        model.fit_function(cone, 1, 0)
    with pytest.raises(ValueError, match=r"f returned shape \(3,\) for 128 rows"):
        model.fit_function(lambda X: np.zeros(3), 1)
    with pytest.raises(
        ValueError, match=r"f returned shape \(128, 0\) for 128 rows; one number a row"
    ):
        model.fit_function(lambda X: X[:, :0], 1)
    with pytest.raises(ValueError, match="n_features == 0, must be >= 1"):
        model.fit_function(cone, 0)
    model.fit(X, y)
    for modulus in (-1.0, (1.0, 0.0), (1.0, 1.5), np.nan):
        with pytest.raises(ValueError, match=r"modulus=.* finite constant >= 0 .* in \(0, 1\]"):
            model.readout_bound(modulus)
    with pytest.raises(TypeError, match="modulus='one' must be a Lipschitz constant"):
        model.readout_bound("one")
    for modulus in (lambda t: -t, lambda t: np.nan, lambda t: [t], lambda t: "t"):
        with pytest.raises(ValueError, match=r"modulus returned .* must be a number, at least 0"):
            model.readout_bound(modulus)
    with pytest.raises(ValueError, match=r"eps=0.0 must be positive"):
        model.levels_for(0.0, 1.0)
    with pytest.raises(ValueError, match="does not get small enough"):
        model.levels_for(0.1, lambda t: 1.0)
    with pytest.raises(ValueError, match=r"p=0.5 must be at least 1"):
        check_readout_bound(model, cone, 1.0, 0.5)
    with pytest.raises(TypeError, match="p must be an instance of float, not str"):
        check_readout_bound(model, cone, 1.0, "a")
    with pytest.raises(ValueError, match=r"f returned shape \(100000, 1\)"):
        check_readout_bound(model, lambda X: X[:, :1], 1.0)
    with pytest.raises(ValueError, match="f must be finite on the box; it is not at"):
        check_readout_bound(model, lambda X: np.full(len(X), np.nan), 1.0)


def test_check_readout_bound_wants_this_estimator():
    with pytest.raises(TypeError, match="fitted GeometricLayerwiseRegressor; got Ridge"):
        check_readout_bound(Ridge().fit(*noise()), cone, 1.0)
    two = GeometricLayerwiseRegressor().fit(noise()[0], noise()[0])
    with pytest.raises(ValueError, match="one output; this estimator has 2"):
        check_readout_bound(two, cone, 1.0)
    one = GeometricLayerwiseRegressor().fit(*noise())
    for modulus in (None, 1.0):
        with pytest.raises(TypeError, match="f=3 must be a function of rows"):
            check_readout_bound(one, 3, modulus)
    with pytest.raises(TypeError, match="f=None must be a function of rows"):
        GeometricLayerwiseRegressor().fit_function(None, 1)


def test_tables_know_only_what_they_are_given():
    unit = np.array([[0.1], [0.9]])
    tables = Tables.build(unit, np.array([[1.0], [3.0]]), np.array([3.0, 1.0]), 2, 1)
    assert tables.baseline.tolist() == [1.5]
    assert tables.layers[0].terms.tolist() == [[-0.5], [1.5]]
    assert tables.layers[0].weight.tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("weight", "unit"), [(1e-290, 1e-40), (1e-290, 1e-30), (1e10, 1e299), (1e200, 1e200)]
)
def test_units_of_weights_do_not_count(weight, unit):
    X, y = np.arange(4.0)[:, None], np.arange(1.0, 5.0)
    model = GeometricLayerwiseRegressor(2, 2).fit(X, unit * y, sample_weight=np.full(4, weight))
    np.testing.assert_allclose(model.predict(X), unit * y, rtol=1e-14)


def test_a_modulus_of_waves_is_none_of_its_periods():
    modulus = empirical_modulus(lambda X: np.sin(40.0 * np.pi * X[:, 0]), 1)
    found = [modulus(t) for t in (0.025, 0.1, 0.2, 0.4, 0.8)]
    assert min(found) > 1.3  # at its half period, 0.025, it is 2 sin(20 pi x) in norm: sqrt(2)
    assert max(found) < np.sqrt(2.0) + 1e-3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"f": lambda X: np.full(len(X), np.nan)}, "f must be finite"),
        ({"f": lambda X: X}, r"f returned shape \(20000, 1\)"),
        ({"p": 0.5}, "p=0.5 must be a number of at least 1"),
        ({"n_points": 0}, "n_points=0 must be an integer of at least 1"),
        ({"n_shifts": 0}, "n_shifts=0 must be an integer of at least 1"),
        ({"n_features": 0}, "n_features=0 must be an integer of at least 1"),
    ],
)
def test_estimates_of_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        empirical_modulus(**{"f": lambda X: X[:, 0], "n_features": 1, **given})
    with pytest.raises(ValueError, match=r"t=-0.1 must be a scale"):
        empirical_modulus(lambda X: X[:, 0], 1)(-0.1)
