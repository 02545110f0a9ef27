"""The losses of the estimators: what each predicts, how it is scaled, what it refuses."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from convexgrade import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeRegressor,
    MultigradeRegressorCV,
    certify,
    correct,
)
from convexgrade.solution import Status

KINKED = ("absolute_error", "huber", "quantile")


def line_with_noise(n=120):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (n, 1))
    return X, 2.0 * np.abs(X[:, 0]) + rng.exponential(0.3, n)


def counts(n=150):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1.0, 1.0, (n, 2))
    return X, rng.poisson(np.exp(1.0 + np.abs(X[:, 0]))).astype(float)


@pytest.fixture(scope="module")
def poisson():
    X, y = counts()
    return ConvexReLURegressor(0.03, loss="poisson", n_patterns=8, random_state=0).fit(X, y)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_a_quantile_has_its_share_of_the_targets_below(quantile):
    # Where the gradient of the intercept vanishes, quantile of the rows are below, up to those that the
    # smoothed kinks hold, no more than there are numbers in the network.
    X, y = line_with_noise()
    model = ConvexReLURegressor(
        0.05, loss="quantile", quantile=quantile, n_patterns=8, max_iter=1
    ).fit(X, y)
    below = y < model.predict(X) - 1e-2
    above = y > model.predict(X) + 1e-2
    assert below.mean() <= quantile <= 1.0 - above.mean()
    assert below.mean() + above.mean() >= 0.9
    assert model.certificate_.relative_gap < 1e-4


@pytest.mark.parametrize("quantile", [0.05, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("n", [1, 3, 10])
def test_quantiles_of_a_constant_leave_nothing_to_fit(quantile, n):
    """Not even rounding of the smoothed loss at its least, which can be negative."""
    X = np.arange(n)[:, None]
    model = ConvexReLURegressor(loss="quantile", quantile=quantile, n_patterns=5).fit(
        X, np.full(n, 3.0)
    )
    np.testing.assert_allclose(model.predict(X), 3.0, rtol=1e-2)
    assert model.grades_[0].n_neurons == 0
    assert model.certificate_.relative_gap == 0.0


def test_the_median_is_the_absolute_error():
    X, y = line_with_noise(60)
    given = {"alpha": 0.03, "n_patterns": 8, "max_iter": 1, "random_state": 0}
    median = ConvexReLURegressor(loss="quantile", quantile=0.5, **given).fit(X, y)
    absolute = ConvexReLURegressor(loss="absolute_error", **given).fit(X, y)
    np.testing.assert_array_equal(median.predict(X), absolute.predict(X))


@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_outliers_hardly_move_a_robust_fit(loss):
    rng = np.random.default_rng(1)
    X = rng.uniform(-1.0, 1.0, (100, 1))
    true = np.abs(X[:, 0])
    y = true + 0.02 * rng.standard_normal(100)
    y[::10] += 20.0
    model = ConvexReLURegressor(0.01, n_patterns=8, max_iter=1, random_state=0)
    squared = np.abs(model.fit(X, y).predict(X) - true).mean()
    robust = np.abs(model.set_params(loss=loss).fit(X, y).predict(X) - true).mean()
    assert robust < 0.03 < 0.5 < squared
    assert model.certificate_.relative_gap < 1e-4


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("alpha", [10.0, 1e4])
@pytest.mark.parametrize("loss", ["poisson", "huber", "quantile", "log_loss", "squared_hinge"])
def test_no_neuron_stays_far_above_the_alpha_that_none_is_worth(loss, alpha, fit_intercept):
    """Descents leave some so small that rounding hides their penalty: they were kept, and handed on."""
    chain = MultigradeClassifier if loss in ("log_loss", "squared_hinge") else MultigradeRegressor
    for seed in (1, 3):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((20, 1)), rng.poisson(2.0, 20)
        model = chain(
            alpha=alpha,
            loss=loss,
            n_grades=3,
            n_patterns=20,
            fit_intercept=fit_intercept,
            early_stopping=False,
            random_state=0,
        ).fit(X, y > 1 if chain is MultigradeClassifier else y)
        assert [grade.n_neurons for grade in model.grades_] == [0]
        assert model.certificates_[0].status is Status.TRIVIAL
        assert model.stop_reason_.startswith("Grade 1 is trivial")


def test_hubers_loss_of_a_wide_middle_is_the_squared_error():
    # Twice the width times it is the squared error: alpha counts by the width less.
    X, y = line_with_noise(60)
    y = (y - np.median(y)) / (1.4826 * np.median(np.abs(y - np.median(y))))
    width, wide = 100.0, {"n_patterns": 8, "random_state": 0, "tol": 1e-8}
    huber = ConvexReLURegressor(0.01 / width, loss="huber", epsilon=width, **wide).fit(X, y)
    scale = np.std(y)
    squared = ConvexReLURegressor(0.01 / scale, **wide).fit(X, y)
    assert width * huber.certificate_.primal == pytest.approx(
        scale**2 * squared.certificate_.primal, rel=1e-4
    )


def test_a_poisson_fit_has_the_mean_of_the_counts(poisson):
    # The intercept's gradient is the difference of the means.
    X, y = counts()
    assert poisson.predict(X).mean() == pytest.approx(y.mean(), rel=1e-7)
    assert poisson.predict(X).min() > 0.0
    assert poisson.certificate_.relative_gap < 1e-8


def test_the_explicit_network_gives_the_logarithm_of_the_mean(poisson):
    X, _ = counts()
    np.testing.assert_allclose(np.exp(poisson.network_.forward(X)[:, 0]), poisson.predict(X))


def test_means_keep_to_a_range_around_the_counts(poisson):
    _, y = counts()
    low, high = poisson.prediction_range_
    assert low[0] == pytest.approx(max(0.0, y.min() - 0.25 * np.ptp(y)))
    assert high[0] == pytest.approx(y.max() + 0.25 * np.ptp(y))
    far = poisson.predict([[1e3, 0.0], [-1e3, 1e3]])
    assert np.all((far >= low[0]) & (far <= high[0] * (1.0 + 1e-12)))
    unlimited = clone(poisson).set_params(extrapolation=None).fit(*counts())
    assert np.all(np.isfinite(unlimited.predict([[1e300, 0.0]])))


@pytest.mark.parametrize("loss", [*KINKED, "poisson"])
def test_predictions_follow_the_units_of_the_targets(loss):
    X, y = counts(60) if loss == "poisson" else line_with_noise(60)
    shift = 0.0 if loss == "poisson" else 7.0
    model = ConvexReLURegressor(
        0.05, loss=loss, n_patterns=8, max_iter=1, quantile=0.7, random_state=0
    )
    expected = 1e3 * model.fit(X, y).predict(X) + shift
    np.testing.assert_allclose(model.fit(X, 1e3 * y + shift).predict(X), expected, rtol=1e-3)


@pytest.mark.parametrize("loss", ["absolute_error", "huber", "poisson"])
def test_a_weight_of_two_is_the_row_twice(loss):
    X, y = counts(40) if loss == "poisson" else line_with_noise(40)
    model = ConvexReLURegressor(0.05, loss=loss, n_patterns=8, max_iter=1, random_state=0)
    twice = np.r_[np.arange(40), np.arange(15)]
    weights = np.r_[np.full(15, 2.0), np.ones(25)]
    expected = model.fit(X[twice], y[twice]).predict(X)
    np.testing.assert_allclose(model.fit(X, y, sample_weight=weights).predict(X), expected)


@pytest.mark.parametrize("loss", [*KINKED, "poisson"])
def test_chains_of_every_loss(loss):
    X, y = counts(60) if loss == "poisson" else line_with_noise(60)
    alpha = 0.05 if loss == "poisson" else 0.1
    model = MultigradeRegressor(alpha, n_grades=2, loss=loss, n_patterns=8, random_state=0)
    model.set_params(early_stopping=False, max_iter=1).fit(X, y)
    assert model.train_loss_[-1] <= model.train_loss_[0]
    assert model.n_grades_ == 2
    again = certify(model, X, y)
    for known, found in zip(model.certificates_, again, strict=True):
        assert -1e-9 <= known.relative_gap < 1e-3
        assert found.primal == pytest.approx(known.primal)
        assert found.dual == pytest.approx(known.dual, rel=1e-6)
    with pytest.raises(AttributeError, match="energy_ needs loss='squared_error'; this is loss='"):
        _ = model.energy_


def test_penalty_and_depth_of_a_quantile_by_cross_validation():
    X, y = line_with_noise(60)
    model = MultigradeRegressorCV(
        alphas=[0.1, 0.01],
        n_grades=2,
        loss="quantile",
        quantile=0.9,
        n_patterns=8,
        cv=2,
        random_state=0,
    ).fit(X, y)
    assert model.alpha_ in (0.1, 0.01)
    assert 0.75 < np.mean(y <= model.predict(X)) <= 1.0


@pytest.mark.parametrize("two", [True, False])
@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_hinges_separate_classes(loss, two):
    X, y = load_iris(return_X_y=True)
    X, y = (X[50:], y[50:]) if two else (X, y)
    model = ConvexReLUClassifier(0.02, loss=loss, n_patterns=8, max_iter=1, random_state=0).fit(
        X, y
    )
    assert model.score(X, y) > 0.95
    margins = model.decision_function(X)
    assert margins.shape == ((len(X),) if two else (len(X), 3))
    expected = margins > 0.0 if two else np.argmax(margins, axis=1)
    np.testing.assert_array_equal(model.predict(X), model.classes_[expected.astype(int)])
    assert model.certificate_.relative_gap < 1e-4
    missing = 1.0 - (2.0 * (y == 2) - 1.0) * margins if two else None
    if two:
        cost = np.maximum(missing, 0.0) ** (2 if loss == "squared_hinge" else 1)
        assert model.train_loss_[0] == pytest.approx(cost.mean(), abs=1e-3)


def test_margins_are_no_probabilities():
    X, _ = load_iris(return_X_y=True)
    for model in (ConvexReLUClassifier(loss="hinge"), MultigradeClassifier(loss="squared_hinge")):
        assert not hasattr(model, "predict_proba")
        with pytest.raises(AttributeError) as caught:
            model.predict_proba(X)
        assert "loss='log_loss'" in str(caught.value.__cause__)
    assert not hasattr(MultigradeClassifier(loss="hinge"), "staged_predict_proba")
    with pytest.raises(NotFittedError):
        ConvexReLUClassifier().predict_proba(X)


def test_probabilities_of_the_log_loss_are_those_of_its_logits():
    X, y = load_iris(return_X_y=True)
    model = ConvexReLUClassifier(0.03, n_patterns=8, random_state=0).fit(X[50:], y[50:])
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], expit(model.decision_function(X)))


@pytest.mark.parametrize("y", [[0.0, -1.0, 2.0], [0.0, 0.0, 0.0]])
def test_counts_must_not_be_negative_nor_all_zero(y):
    with pytest.raises(
        ValueError, match="loss='poisson' needs y that is nowhere negative and not 0"
    ):
        ConvexReLURegressor(loss="poisson").fit([[0.0], [1.0], [2.0]], y)


def test_the_output_of_counts_that_are_all_zero_is_told():
    message = "the least value of output 1 is 0 and its greatest 0"
    with pytest.raises(ValueError, match=message):
        ConvexReLURegressor(loss="poisson").fit([[0.0], [1.0]], [[1.0, 0.0], [2.0, 0.0]])


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("loss", "hinge"),
        ("quantile", 1.0),
        ("quantile", 0.0),
        ("epsilon", 1e-5),
        ("epsilon", 1e101),
    ],
)
def test_wrong_values_are_named(parameter, value):
    model = ConvexReLURegressor(**{parameter: value})
    with pytest.raises(
        ValueError, match=f"The '{parameter}' parameter of ConvexReLURegressor must be"
    ):
        model.fit([[0.0], [1.0]], [0.0, 1.0])


@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_targets_of_which_half_are_equal(loss):
    X = np.arange(20.0)[:, None]
    y = np.where(X[:, 0] < 14, 3.0, X[:, 0])
    model = ConvexReLURegressor(5e-3, loss=loss, n_patterns=6, max_iter=1, random_state=0).fit(X, y)
    assert np.median(np.abs(model.predict(X) - y)) < 0.05
    constant = ConvexReLURegressor(loss=loss, n_patterns=3, max_iter=1).fit(X, np.full(20, 5.0))
    np.testing.assert_allclose(constant.predict(X), 5.0, atol=1e-6)


@pytest.mark.parametrize("loss", ["absolute_error", "poisson"])
def test_several_outputs(loss):
    X, y = counts(40)
    Y = np.column_stack([y, y[::-1]])
    model = ConvexReLURegressor(0.05, loss=loss, n_patterns=8, max_iter=1, random_state=0).fit(X, Y)
    assert model.predict(X).shape == (40, 2)
    assert model.certificate_.relative_gap < 1e-4


@pytest.mark.parametrize("linear_term", [False, True])
@pytest.mark.parametrize("far", [1e3, 1e4, 1e5])
def test_predictions_beyond_all_counts_are_certified_to_be_far_off(far, linear_term):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 3)), rng.poisson(3, 50)
    parameters = {"linear_term": linear_term, "n_patterns": 8, "random_state": 0}
    model = ConvexReLURegressor(0.01, loss="poisson", **parameters).fit(X, y)
    [certificate] = certify(model, far * X, y)  # partial sums of corrected chains can be as large
    assert certificate.primal == np.inf if far > 1e3 else certificate.primal > 1e100
    assert certificate.relative_gap > 1e100
    assert -1.0 < certificate.dual < 1.0


@pytest.mark.parametrize("loss", ["huber", "poisson"])
def test_corrections_need_a_curvature(loss):
    X, y = counts(60)
    model = MultigradeRegressor(
        0.05, n_grades=2, loss=loss, n_patterns=5, early_stopping=False, random_state=0
    ).set_params(patterns="sampled")
    model.fit(X, y)
    if loss == "poisson":
        corrected = correct(model, X, y, max_sweeps=2)
        assert corrected.objective_path_[-1] < corrected.objective_path_[0]
        return
    with pytest.raises(ValueError, match="loss='huber' has not everywhere; correct chains of"):
        correct(model, X, y)
    with pytest.raises(ValueError, match="loss='huber' has not everywhere"):
        clone(model).set_params(correction="readouts").fit(X, y)


def test_staged_predictions_need_a_fit():
    with pytest.raises(NotFittedError):
        list(MultigradeRegressor().staged_predict([[0.0]]))


@pytest.mark.parametrize(("outlier", "patterns"), [(1e6, "sampled"), (-1e15, "adaptive")])
@pytest.mark.parametrize("loss", ["absolute_error", "huber"])
def test_how_far_an_outlier_is_does_not_matter(loss, outlier, patterns):
    X, y = line_with_noise(60)
    model = ConvexReLURegressor(0.05, loss=loss, patterns=patterns, n_patterns=4, max_iter=1)
    model.set_params(tol=1e-2, random_state=0)
    true = model.fit(X, y).predict(X)
    y[3] = outlier
    robust = model.fit(X, y).predict(X)
    assert np.median(np.abs(robust - true)) < 0.2 * y[:3].std()
    assert model.grades_[0].n_neurons > 0
    assert certify(model, X, y)[0].primal == pytest.approx(model.certificate_.primal)


def test_counts_are_checked_wherever_they_are_given():
    X, y = counts(60)
    parameters = {"loss": "poisson", "n_patterns": 6, "patterns": "sampled", "random_state": 0}
    model = MultigradeRegressor(
        0.01, n_grades=1, warm_start=True, early_stopping=False, **parameters
    ).fit(X, y)
    for given in (certify, correct, lambda m, X, y: m.set_params(n_grades=2).fit(X, y)):
        with pytest.raises(ValueError, match="loss='poisson' needs y that is nowhere negative"):
            given(model, X, -y)


@pytest.mark.parametrize("loss", ["squared_error", *KINKED, "poisson"])
def test_targets_whose_sums_are_no_numbers_are_refused(loss):
    X, y = counts(20)
    with pytest.raises(ValueError, match=r"y has values of up to 1e\+301"):
        ConvexReLURegressor(loss=loss).fit(X, 1e301 * (y > y.min()))


def test_columns_of_other_scales_than_the_response_are_no_failure():
    """Rounding leaves a projection off its cone by a share of the lengths of row and vector."""
    rng = np.random.default_rng(1)
    age, income = rng.uniform(20.0, 70.0, 80), rng.normal(5e4, 1e4, 80)
    y = np.abs(age - 45.0) / 10.0 + (income - 5e4) / 1e4 + 0.3 * rng.standard_normal(80)
    model = ConvexReLURegressor(
        0.05, loss="absolute_error", max_neurons=6, standardize=False, random_state=0
    ).fit(np.column_stack([age, income]), y)  # no warning
    assert model.certificate_.relative_gap < 1e-6
    assert model.certificate_.primal < 0.42  # .432 where good points were thrown away


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_probabilities_are_those_of_the_loss_that_was_fitted():
    X = np.linspace(-1.0, 1.0, 20)[:, None]
    y = (X[:, 0] > 0.2).astype(int)
    margins = ConvexReLUClassifier(0.1, loss="hinge", n_patterns=5, random_state=0).fit(X, y)
    margins.set_params(loss="log_loss")
    assert not hasattr(margins, "predict_proba")
    logits = ConvexReLUClassifier(0.1, n_patterns=5, random_state=0).fit(X, y)
    expected = logits.predict_proba(X)
    np.testing.assert_array_equal(logits.set_params(loss="hinge").predict_proba(X), expected)
