"""The depth separation target: its law, and that two corrected grades learn it."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gamma, jv
from scipy.stats import kstest

from convexgrade import ConvexReLURegressor, MultigradeRegressor, certify
from convexgrade.datasets import make_depth_separation


def radial_distribution(d, truncate):
    """Return P(||x|| <= r | ||x|| <= truncate) by quadrature of phi^2 over spheres."""
    R = gamma(d / 2 + 1) ** (1 / d) / np.sqrt(np.pi)
    area = 2 * np.pi ** (d / 2) / gamma(d / 2)

    def density(
        rho,
    ):  # phi^2 times the sphere's surface, at the radius before the division by sqrt(d)
        return area * rho ** (d - 1) * (R / rho) ** d * jv(d / 2, 2 * np.pi * R * rho) ** 2

    knots = np.sqrt(d) * np.linspace(0.0, truncate, 241)
    masses = [quad(density, a, b)[0] for a, b in pairwise(knots)]
    kept = np.sum(masses)
    grid, values = knots / np.sqrt(d), np.concatenate([[0.0], np.cumsum(masses)]) / kept
    return kept, lambda r: np.interp(r, grid, values)


@pytest.mark.parametrize("d", [1, 2, 5, 20, 50])
def test_radii_follow_the_law(d):
    kept, distribution = radial_distribution(d, 3.0)
    assert 0.92 < kept < 0.97
    X, y = make_depth_separation(20_000, d, random_state=0)
    radii = np.linalg.norm(X, axis=1)
    assert kstest(radii, distribution).pvalue > 1e-3
    np.testing.assert_allclose(y, np.maximum(0.0, 1.0 - radii), atol=1e-12)


def test_the_law_test_would_notice_another_scale():
    _, distribution = radial_distribution(5, 3.0)
    X, _ = make_depth_separation(20_000, 5, random_state=0)
    assert kstest(1.03 * np.linalg.norm(X, axis=1), distribution).pvalue < 1e-6


def test_directions_are_uniform():
    X, _ = make_depth_separation(20_000, 4, random_state=1)
    directions = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(directions.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(directions.T @ directions / len(X), np.eye(4) / 4, atol=0.01)


def test_truncation_bounds_the_norm():
    X, _ = make_depth_separation(5000, 3, truncate=1.5, random_state=0)
    assert np.linalg.norm(X, axis=1).max() <= 1.5


def test_samples_are_reproducible():
    first, again = (make_depth_separation(10, 3, random_state=7)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_features": 2.5}, "n_features"),
        ({"truncate": 0.0}, "truncate=0.0 must be above 0 and"),
        ({"truncate": np.inf}, "truncate"),
    ],
)
def test_bad_input_is_named(parameters, name):
    with pytest.raises(ValueError, match=name):
        make_depth_separation(**parameters)


# --- grades without biases ----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "gated_relu"])
@pytest.mark.parametrize("patterns", ["adaptive", "sampled", "exhaustive"])
def test_first_grades_without_bias_are_homogeneous_and_certified(patterns, activation):
    X, y = make_depth_separation(30, 2, random_state=0)
    model = MultigradeRegressor(
        n_grades=2,
        alpha=1e-3,
        alpha_decay=1.0,
        patterns=patterns,
        n_patterns=12,
        max_iter=1,
        early_stopping=False,
        first_bias=False,
        standardize=False,
        activation=activation,
        max_neurons=None,
        random_state=0,
    )
    model.set_params(n_grades=1 if patterns == "exhaustive" else 2).fit(X, y)
    network = model.grades_[0].network
    assert network.n_neurons > 0
    np.testing.assert_array_equal(network.hidden_intercept, 0.0)
    np.testing.assert_allclose(
        network.forward(3.0 * X) - network.intercept,
        3.0 * (network.forward(X) - network.intercept),
        rtol=1e-9,
    )
    certificates = certify(model, X, y)
    assert all(c.gap >= -1e-12 and c.relative_gap <= model.tol for c in certificates)
    if patterns != "exhaustive":
        assert np.any(model.grades_[1].network.hidden_intercept != 0.0)


def test_a_global_optimum_without_biases_is_no_lower_than_one_with_them():
    x = np.linspace(0.1, 1.0, 12)
    X, y = np.concatenate([-x, x])[:, None], np.concatenate([x, x])
    options = {"alpha": 0.05, "patterns": "exhaustive", "standardize": False}
    free = ConvexReLURegressor(**options).fit(X, y).certificate_.primal
    bound = MultigradeRegressor(n_grades=1, first_bias=False, **options).fit(X, y).certificates_[0]
    assert bound.price_is_exact
    assert bound.primal >= free - 1e-9
    assert bound.relative_gap < 1e-6


# --- grades of several fits, or whose estimator has changed since -------------------------------

SMALL = {
    "n_grades": 2,
    "alpha": 0.01,
    "patterns": "sampled",
    "n_patterns": 12,
    "first_bias": False,
    "early_stopping": False,
    "random_state": 0,
}


def assert_certified_as_fitted(model, X, y):
    for again, fitted in zip(certify(model, X, y), model.certificates_, strict=True):
        assert again.gap == pytest.approx(fitted.gap, abs=1e-12)
        assert again.price == pytest.approx(fitted.price, rel=1e-9)
        assert again.status is fitted.status


@pytest.mark.parametrize(
    "changed",
    [
        {"first_bias": True},
        {"fit_intercept": False},
        {"linear_term": True},
        {"activation": "gated_relu"},
        {"tol": 1e-15, "n_patterns": 3, "correction": "backward", "refinement": "pointwise"},
    ],
)
def test_certificates_are_of_the_programs_that_were_fitted(changed):
    X, y = make_depth_separation(40, 2, random_state=0)
    model = MultigradeRegressor(**SMALL).fit(X, y)
    assert_certified_as_fitted(model.set_params(**changed), X, y)


def test_every_grade_is_certified_for_its_own_program():
    X, y = make_depth_separation(60, 2, random_state=0)
    model = MultigradeRegressor(**{**SMALL, "n_grades": 1}, warm_start=True).fit(X, y)
    model.set_params(n_grades=2, activation="gated_relu", linear_term=True, fit_intercept=False)
    model.fit(X, y)
    assert [grade.network.gate_coef is None for grade in model.grades_] == [True, False]
    assert all(certificate.relative_gap < 1e-4 for certificate in model.certificates_)
    assert_certified_as_fitted(model, X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_penalties_that_decay_to_nothing_end_at_one_that_can_be_divided_by():
    X, y = make_depth_separation(20, 2, random_state=0)
    parameters = {**SMALL, "n_grades": 3, "n_patterns": 4, "alpha_decay": 1e-200}
    model = MultigradeRegressor(**parameters).fit(X, y)
    assert [grade.alpha for grade in model.grades_] == [0.01, 1e-100, 1e-100]
    assert np.all(np.diff(model.train_loss_) <= 0.0)


# --- the experiment, small ----------------------------------------------------------------------


def test_two_corrected_grades_learn_what_one_of_as_many_neurons_does_not():
    d = 4
    X, y = make_depth_separation(400, d, random_state=0)
    X_test, y_test = make_depth_separation(4000, d, random_state=1)
    options = {"max_iter": 1, "tol": 1e-2, "standardize": False}
    starts = [
        MultigradeRegressor(
            alpha=1e-4,
            n_grades=2,
            n_patterns=20,
            alpha_decay=1.0,
            passthrough="output",
            keep_inputs=False,
            first_bias=False,
            correction="backward",
            early_stopping=False,
            random_state=seed,
            **options,
        ).fit(X, y)
        for seed in range(2)
    ]
    # Corrections end in optima of their own: the best of some, by what they minimise.
    two = min(starts, key=lambda model: model.objective_path_[-1])
    ones = [
        ConvexReLURegressor(alpha=alpha, n_patterns=80, random_state=0, **options).fit(X, y)
        for alpha in (3e-4, 1e-4)
    ]
    assert ones[1].grades_[0].n_neurons >= sum(g.n_neurons for g in two.grades_)
    *singles, deep = [
        np.mean((m.predict(X_test) - y_test) ** 2) / np.var(y_test) for m in (*ones, two)
    ]
    assert deep < 0.1 * min(singles)


@pytest.mark.parametrize(("d", "truncate"), [(1, 1e-3), (2, 1e-3), (10, 1e-3), (300, 0.002)])
def test_near_the_origin_the_density_is_constant(d, truncate):
    """There radii are distributed as r^d; with 300 columns the density itself is no number."""
    radius = np.linalg.norm(make_depth_separation(20_000, d, truncate=truncate)[0], axis=1)
    assert radius.mean() / truncate == pytest.approx(d / (d + 1.0), abs=3.0 / (d + 1) / 140)


def test_a_law_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"truncate=0.05 keeps so little of the law"):
        make_depth_separation(5, 1000, truncate=0.05)
