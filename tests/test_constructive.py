"""The constructive scheme: what it promises, measured at points it has not seen."""

import itertools
import pickle

import numpy as np
import pytest

from convexgrade import ConstructiveMultigrade


def wave(X):
    return np.sin(7.0 * X[:, 0]) + np.abs(X[:, 0] - 0.3)


def saddle(X):
    return np.sin(3.0 * X[:, 0]) - X[:, 1] ** 2


def corner(X):
    return np.maximum(X[:, 0] - X[:, 1], 0.3 - X[:, 2])


def root(X):
    return np.sqrt(np.abs(X[:, 0] - 0.4))


# name: function, dimension, modulus (Lipschitz constant or omega), stages
CASES = {
    "wave": (wave, 1, 8.0, 4),
    "root": (root, 1, np.sqrt, 2),
    "saddle": (saddle, 2, 3.7, 2),
    "corner": (corner, 3, np.sqrt(2.0), 1),
}


def fitted(case, *, proved):
    f, d, modulus, n_stages = CASES[case]
    return f, ConstructiveMultigrade(n_stages, modulus=modulus if proved else None).fit(f, d)


def new_points(d, n=20_000):
    return np.random.default_rng(123).random((n, d))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("proved", [True, False])
def test_residuals_never_grow_and_halve_at_every_stage(case, proved):
    f, model = fitted(case, proved=proved)
    d, n_stages = CASES[case][1], CASES[case][3]
    assert model.n_stages_ == n_stages
    assert model.guaranteed_ == proved
    assert np.all(model.sup_norms_[1:] <= 0.5 * model.sup_norms_[:-1])
    check = model.check(f, new_points(d))
    assert check.increase <= 1e-14
    assert check.sup_norms.shape == (n_stages + 1,)
    # What the fit met, it met at other points; after a stage, 2 eps holds everywhere.
    assert np.all(check.sup_norms[1:] <= 2.0 * np.array([s.oscillation for s in model.stages_]))
    assert np.all(check.sup_norms[1:] <= 0.5 * model.sup_norms_[:-1])
    residuals = [f(new_points(d)) - p for p in model.staged_predict(new_points(d))]
    assert np.abs(residuals[-1]).max() == pytest.approx(check.sup_norms[-1])


@pytest.mark.parametrize("case", CASES)
def test_bounds_hold_and_are_not_claimed_without_a_modulus(case):
    f, model = fitted(case, proved=True)
    check = model.check(f, new_points(CASES[case][1]))
    assert np.all(check.sup_norms <= model.bounds_)
    assert np.all(model.sup_norms_ <= model.bounds_)
    assert np.all(model.bounds_ <= 3.0 * check.sup_norms)  # or they would be worth little
    _, sampled = fitted(case, proved=False)
    assert np.all(np.isinf(sampled.bounds_))


@pytest.mark.parametrize(("case", "n_stages"), [("wave", 2), ("saddle", 1), ("corner", 1)])
def test_the_network_is_the_formula_and_no_grade_raises_a_residual(case, n_stages):
    f, d, _, _ = CASES[case]
    model = ConstructiveMultigrade(n_stages).fit(f, d)
    network = model.to_network()
    X = np.vstack([new_points(d, 60), list(itertools.product((0.0, 0.5, 1.0), repeat=d))])
    sizes = np.abs(f(X) - np.array([np.zeros(len(X)), *network.staged(X)]))
    assert np.diff(sizes, axis=0).max() <= 1e-14
    assert np.abs(network.forward(X) - model.predict(X)).max() <= 1e-13
    assert network.n_grades == model.n_grades_ == len(sizes) - 1
    assert network.width == model.width_ == d + 2
    assert network.coef.shape == (model.n_grades_, d + 1, d + 2, d + 2)
    assert network.n_layers == (d + 1) * model.n_grades_


def test_the_network_by_hand():
    """One layer after the other, each a plain matrix product and a ReLU."""
    model = ConstructiveMultigrade(1).fit(wave, 1)
    network = model.to_network()
    x, output = np.array([0.37]), 0.0
    state = np.array([x[0], 0.0, 0.0])
    for g in range(network.n_grades):
        for layer in range(2):
            state = np.maximum(network.coef[g, layer] @ state + network.intercept[g, layer], 0.0)
        output += network.output_coef[g] * state[1]
    assert output == pytest.approx(model.predict(x[:, None])[0], abs=1e-13)


def test_a_function_that_vanishes_on_dyadic_points_is_not_taken_for_zero():
    model = ConstructiveMultigrade(2).fit(lambda X: np.sin(16.0 * np.pi * X[:, 0]), 1)
    assert model.sup_norms_[0] > 0.99
    assert model.check(lambda X: np.sin(16.0 * np.pi * X[:, 0]), new_points(1)).ratios.max() <= 0.5


@pytest.mark.parametrize("modulus", [0.1, 3.0, 6.0, lambda t: 0.4 * np.sqrt(t)])
def test_a_modulus_that_the_function_contradicts_is_refused(modulus):
    def wave(X):
        return np.sin(2.0 * np.pi * X[:, 0])  # varies by up to 2 pi times the distance

    with pytest.raises(ValueError, match="modulus is too small for f: it allows a change of"):
        ConstructiveMultigrade(n_stages=2, modulus=modulus).fit(wave, 1)
    assert ConstructiveMultigrade(n_stages=2, modulus=2.0 * np.pi).fit(wave, 1).guaranteed_


def test_zero_constant_and_affine_functions_end_early():
    zero = ConstructiveMultigrade(3).fit(lambda X: np.zeros(len(X)), 2)
    assert zero.n_stages_ == 1
    assert zero.n_grades_ == 0
    assert np.all(zero.predict(new_points(2, 5)) == 0.0)
    assert zero.to_network().forward(new_points(2, 5)).shape == (5,)
    constant = ConstructiveMultigrade(3, modulus=0.0).fit(lambda X: np.full(len(X), 2.0), 1)
    assert constant.stop_reason_ == "The residual is zero up to rounding."
    assert constant.bounds_[-1] == 0.0
    assert np.allclose(constant.predict(new_points(1, 5)), 2.0, atol=1e-15)


def narrow_bump(X):
    return np.maximum(0.0, 1e-3 - np.abs(X[:, 0] - 0.3337))


def test_a_bump_between_the_first_points_is_found_on_finer_grids():
    model = ConstructiveMultigrade(2, modulus=1.0, n_samples=1).fit(narrow_bump, 1)
    assert model.n_stages_ == 2
    assert model.n_grades_ > 0
    assert model.stop_reason_ == "All 2 stages were constructed."
    check = model.check(narrow_bump, np.linspace(0.33, 0.34, 10_001)[:, None])
    assert check.sup_norms[0] == pytest.approx(1e-3)
    assert np.all(check.ratios <= 0.5)
    assert np.all(check.sup_norms <= model.bounds_)
    assert model.bounds_[-1] <= 0.25 * 1e-3


def test_a_bump_that_no_allowed_grid_can_see_is_not_ruled_out():
    model = ConstructiveMultigrade(2, modulus=1.0, n_samples=1, max_nodes=100).fit(narrow_bump, 1)
    assert model.n_grades_ == 0
    assert model.bounds_.tolist() == [1 / 64, 1 / 64]
    assert "65 nodes of the finest grid that max_nodes=100 allows" in model.stop_reason_
    assert "Elsewhere, the modulus leaves it up to 0.0156." in model.stop_reason_
    sampled = ConstructiveMultigrade(2, n_samples=1).fit(narrow_bump, 1)
    assert sampled.stop_reason_ == "The residual is zero up to rounding at all points evaluated."


@pytest.mark.parametrize(("dimension", "finest"), [(1, 2.0**-18), (2, 2.0**-8.5), (3, 3**0.5 / 64)])
def test_the_bounds_of_the_zero_function_are_those_of_the_finest_grid(dimension, finest):
    model = ConstructiveMultigrade(modulus=1.0).fit(lambda X: np.zeros(len(X)), dimension)
    assert model.n_stages_ == 1
    np.testing.assert_allclose(model.bounds_, finest)
    assert "max_nodes=300000 allows" in model.stop_reason_


def test_what_is_proved_to_be_rounding_is_said_to_be_zero():
    model = ConstructiveMultigrade(9, modulus=1e-12).fit(lambda X: np.ones(len(X)), 1)
    assert model.stop_reason_ == "The residual is zero up to rounding."
    assert model.bounds_[-1] <= 2e-14
    short = ConstructiveMultigrade(9, modulus=1e-12, max_nodes=9).fit(lambda X: np.ones(len(X)), 1)
    assert "max_nodes=9" in short.stop_reason_
    assert short.bounds_[-1] > 2e-14


def test_a_grid_that_would_be_too_large_ends_the_construction():
    model = ConstructiveMultigrade(9, max_nodes=1000).fit(wave, 1)
    assert model.n_stages_ < 9
    assert "max_nodes=1000" in model.stop_reason_
    with pytest.raises(ValueError, match="max_nodes=10 is too small for the first stage"):
        ConstructiveMultigrade(1, max_nodes=10).fit(wave, 1)


@pytest.mark.parametrize("dimension", [0, 4, 1.5, 2.0])
def test_dimensions_that_are_not_allowed(dimension):
    with pytest.raises(ValueError, match="must be 1, 2 or 3"):
        ConstructiveMultigrade().fit(wave, dimension)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda X: X, r"f returned shape \(.*, 1\)"),
        (lambda X: 1.0, r"f returned shape \(\)"),
        (lambda X: np.log(X[:, 0] - 0.5), "must be finite on the box; it is not at"),
    ],
)
def test_functions_that_are_not_allowed(f, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        ConstructiveMultigrade().fit(f, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_stages", 0),
        ("max_nodes", 1),
        ("n_samples", 0.5),
        ("modulus", -1.0),
        ("modulus", (1.0, 2.0)),
        ("modulus", lambda t: np.nan),
        ("modulus", lambda t: [7.0 * t]),
        ("modulus", lambda t: "t"),
    ],
)
def test_parameters_that_are_not_allowed(name, value):
    with pytest.raises(ValueError, match=name):
        ConstructiveMultigrade(**{name: value}).fit(wave, 1)


def test_a_modulus_of_another_type_is_refused():
    with pytest.raises(TypeError, match="takes a function of points in the unit cube"):
        ConstructiveMultigrade().fit([[0.5]], [1.0])
    with pytest.raises(TypeError, match="modulus='big' must be a Lipschitz constant"):
        ConstructiveMultigrade(modulus="big").fit(wave, 1)


def test_a_hoelder_pair_is_the_modulus_that_it_stands_for():
    def root(X):
        return np.sqrt(X[:, 0])

    pair, same = (ConstructiveMultigrade(2, modulus=m).fit(root, 1) for m in ((1.0, 0.5), np.sqrt))
    np.testing.assert_allclose(pair.bounds_, same.bounds_)
    assert pair.guaranteed_


def test_functions_may_write_on_what_they_get():
    def squares(X):
        X *= X
        return X.sum(axis=1)

    model = ConstructiveMultigrade(n_stages=2).fit(squares, 1)
    plain = ConstructiveMultigrade(n_stages=2).fit(lambda X: (X**2).sum(axis=1), 1)
    points = np.linspace(0.0, 1.0, 9)[:, None]
    np.testing.assert_array_equal(model.predict(points), plain.predict(points))
    checked = model.check(squares, points)
    np.testing.assert_array_equal(checked.sup_norms, plain.check(squares, points).sup_norms)


def test_points_outside_the_cube_and_of_other_shapes():
    model = ConstructiveMultigrade(1).fit(wave, 1)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]\^1"):
        model.predict([[1.5]])
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(n_samples, 1\)"):
        model.predict([0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="not fitted"):
        ConstructiveMultigrade().predict([[0.5]])


def test_models_are_pickled_without_the_function():
    model = ConstructiveMultigrade(2).fit(lambda X: X[:, 0] ** 2, 1)
    X = new_points(1, 9)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    assert repr(model).startswith("ConstructiveMultigrade(n_stages=2")


def test_bounds_never_rise_and_nothing_is_told_before_a_fit():
    model = ConstructiveMultigrade(modulus=1.0, n_stages=2).fit(lambda X: np.zeros(len(X)), 1)
    assert (np.diff(model.bounds_) <= 0.0).all()
    for name in ("n_stages_", "n_grades_", "width_"):
        assert not hasattr(ConstructiveMultigrade(), name)
        with pytest.raises(ValueError, match="not fitted"):
            getattr(ConstructiveMultigrade(), name)
    with pytest.raises(ValueError, match="dimension=True must be 1, 2 or 3"):
        ConstructiveMultigrade().fit(lambda X: X[:, 0], True)
    with pytest.raises(ValueError, match="at least one row"):
        model.check(lambda X: X[:, 0], np.empty((0, 1)))
