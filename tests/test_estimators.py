"""The estimators as scikit-learn citizens, and the chain behind them."""

import pickle
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.sparse import csr_array
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from convexgrade import (
    ConvexReLUClassifier,
    ConvexReLURegressor,
    GeometricLayerwiseRegressor,
    MultigradeClassifier,
    MultigradeRegressor,
    certify,
    correct,
)
from convexgrade.certificate import certify_network
from convexgrade.chain import state_grade
from convexgrade.datasets import load_energy
from convexgrade.grade import fit_grade
from convexgrade.solution import Status
from tests.samples import make_data, targets

REGRESSORS = [ConvexReLURegressor, MultigradeRegressor]
CLASSIFIERS = [ConvexReLUClassifier, MultigradeClassifier]
ESTIMATORS = REGRESSORS + CLASSIFIERS
CHAINS = [MultigradeRegressor, MultigradeClassifier]


def small(estimator, **parameters):
    depth = {"n_grades": 2, "early_stopping": False} if estimator in CHAINS else {}
    return estimator(**{"alpha": 0.1, "n_patterns": 8, "random_state": 0, **depth, **parameters})


# Small searches, as scikit-learn's own slow estimators are checked; the checks are the same ones.
# The search for patterns is that of the first estimator, and takes most of the time; the last fits
# gated units, the others ReLU. (Some checks set no seed, and of thousands of fits to so loose a
# tolerance one ends above it, and warns.)
LOOSE = {"tol": 0.1, "random_state": 0}
OF_CHAINS = {"patterns": "sampled", "n_patterns": 3, "n_grades": 2, "early_stopping": False}


@parametrize_with_checks(
    [
        ConvexReLURegressor(0.2, n_patterns=3, max_iter=1, **LOOSE),
        ConvexReLUClassifier(0.1, n_patterns=5, patterns="sampled", **LOOSE),
        MultigradeRegressor(0.2, **LOOSE, **OF_CHAINS),
        MultigradeClassifier(0.1, activation="gated_relu", **LOOSE, **OF_CHAINS),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_fits_with_one_random_state_are_identical(estimator):
    X, y = make_data(40)
    y = targets(estimator, y)
    first, second = (small(estimator).fit(X, y) for _ in range(2))
    for a, b in zip(first.network_.grades, second.network_.grades, strict=True):
        np.testing.assert_array_equal(a.hidden_coef, b.hidden_coef)
        np.testing.assert_array_equal(a.output_coef, b.output_coef)
    threaded = small(estimator, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(threaded.transform(X), first.transform(X))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pickling_cloning_and_numpy_weights_give_the_same_predictions(estimator):
    X, y = make_data()
    model = small(estimator, patterns="sampled").fit(X, targets(estimator, y))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert clone(model).get_params() == model.get_params()
    output = model.network_.forward(X)
    expected = model.predict(X) if estimator in REGRESSORS else model.decision_function(X)
    np.testing.assert_allclose(output[:, 0], expected, atol=1e-9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_certify_reproduces_the_certificates_of_the_fit(estimator):
    X, y = make_data()
    weights = np.random.default_rng(1).uniform(0.0, 2.0, len(X))
    weights[:3] = 0.0
    y = targets(estimator, y, n_classes=3)
    parameters = {"patterns": "sampled"} if estimator in CHAINS else {}
    model = small(estimator, **parameters).fit(X, y, sample_weight=weights)
    again = certify(model, X, y, sample_weight=weights)
    assert len(again) == model.n_grades_
    for fitted, recomputed in zip(model.certificates_, again, strict=True):
        for field in ("primal", "dual", "price"):
            assert getattr(recomputed, field) == pytest.approx(getattr(fitted, field), rel=1e-6)
        assert recomputed.n_patterns == fitted.n_patterns
        assert recomputed.status is fitted.status
        assert fitted.gap >= -1e-12
        assert fitted.relative_gap < 1e-4


def test_exhaustive_patterns_of_a_fit_can_be_listed_again():
    """Rows on two skew lines: 1295 patterns, a tenth of what as many rows in general position have."""
    rng = np.random.default_rng(0)
    X = np.zeros((36, 3))
    X[:18, 0], X[18:, 1], X[18:, 2] = rng.uniform(-1, 1, 18), rng.uniform(-1, 1, 18), 1.0
    y = rng.standard_normal(36)
    model = ConvexReLURegressor(0.05, patterns="exhaustive").fit(X, y)
    assert model.certificate_.status is Status.GLOBALLY_OPTIMAL
    (again,) = certify(model, X, y)
    assert again.status is Status.GLOBALLY_OPTIMAL
    assert again.dual == pytest.approx(model.certificate_.dual, rel=1e-12)
    assert again.n_patterns == model.certificate_.n_patterns
    parameters = {"patterns": "exhaustive", "early_stopping": False, "distances": False}
    MultigradeRegressor(0.05, n_grades=1, correction="backward", **parameters).fit(X, y)


def test_certify_on_other_data_is_a_valid_bound_there():
    X, y = make_data()
    model = small(ConvexReLURegressor, patterns="exhaustive").fit(X[:15], y[:15])
    elsewhere = certify(model, X[15:30], y[15:30])[0]
    assert elsewhere.gap > 1e-3
    assert elsewhere.status is Status.OTHER_DATA
    [grade] = model.grades_
    data = model._training_data(X[15:30], y[15:30], None)
    first, _ = model._progress.chain.walk(data.X)
    program = state_grade(first, data, model._coding.loss, grade.alpha, grade.settings)
    best = fit_grade(program, grade.settings, (0, 0)).certificate
    assert best.relative_gap < 1e-4
    assert elsewhere.dual <= best.primal <= elsewhere.primal


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 1.0, 1: 5.0}])
def test_certify_weighs_classes_as_the_fit_did(class_weight):
    X, y = make_data()
    y = (y > 1.0).astype(int)
    model = small(ConvexReLUClassifier, class_weight=class_weight).fit(X, y)
    model.set_params(class_weight={0: 3.0, 1: 1.0})
    again = certify(model, X, y)[0]
    assert again.primal == pytest.approx(model.certificate_.primal, rel=1e-12)
    assert again.relative_gap < 1e-4


@pytest.mark.parametrize(
    ("estimator", "first", "second"),
    [
        (MultigradeRegressor, {}, {"loss": "absolute_error"}),
        (MultigradeRegressor, {"loss": "quantile"}, {"quantile": 0.9}),
        (MultigradeRegressor, {"loss": "huber"}, {"epsilon": 1.0}),
        (MultigradeClassifier, {"loss": "hinge"}, {"loss": "log_loss"}),
    ],
)
def test_grades_are_not_added_under_another_loss(estimator, first, second):
    X, y = make_data(30)
    y = targets(estimator, y)
    parameters = {"warm_start": True, "n_grades": 1, "patterns": "sampled", **first}
    model = small(estimator, **parameters).fit(X, y)
    before = model.predict(X)
    model.set_params(n_grades=2, **second)
    with pytest.raises(ValueError, match="and its parameters must be those of the grades already"):
        model.fit(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    if estimator is MultigradeClassifier:
        assert not hasattr(model, "predict_proba")


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_added_grades_widen_the_range_of_predictions(loss):
    X, y = make_data(40)
    y = np.exp(y)
    parameters = {"warm_start": True, "patterns": "sampled", "loss": loss}
    model = small(MultigradeRegressor, n_grades=1, **parameters).fit(X, y)
    low, high = (end[0] for end in model.prediction_range_)
    model.set_params(n_grades=2, alpha_decay=0.01).fit(X, 20.0 * y)
    room = 0.25 * np.ptp(20.0 * y)
    assert model.prediction_range_[1][0] == pytest.approx(20.0 * y.max() + room)
    assert model.prediction_range_[0][0] <= low
    assert model.score(X, 20.0 * y) > 0.8
    assert model.predict(X).max() > high
    model.set_params(n_grades=3, extrapolation=None).fit(X, y)
    assert model.prediction_range_[1][0] > 1e300


@pytest.mark.parametrize("weight", [1e-300, 1e308])
def test_weights_of_any_size_are_weights(weight):
    X, y = make_data(20)
    model = small(ConvexReLURegressor).fit(X, y, sample_weight=np.full(20, weight))
    plain = small(ConvexReLURegressor).fit(X, y)
    np.testing.assert_allclose(model.predict(X), plain.predict(X), rtol=1e-6, atol=1e-9)


def test_certify_finds_the_chain_in_a_pipeline_and_in_a_search():
    X, y = make_data()
    pipeline = make_pipeline(StandardScaler(), small(ConvexReLURegressor, patterns="sampled"))
    search = GridSearchCV(pipeline, {"convexreluregressor__alpha": [0.05]}, cv=2).fit(X, y)
    fitted = search.best_estimator_
    expected = fitted[-1].certificates_[0].primal
    alone = make_pipeline(fitted[-1]), fitted[:-1].transform(X)
    for estimator, rows in ((search, X), (fitted, X), alone):
        (found,) = certify(estimator, rows, y)
        assert found.primal == pytest.approx(expected, rel=1e-12)
    with pytest.raises(TypeError, match="that ends in one; got Ridge"):
        certify(make_pipeline(StandardScaler(), Ridge()).fit(X, y), X, y)


@pytest.mark.parametrize("estimator", [MultigradeRegressor(), MultigradeClassifier()])
def test_columns_of_texts_are_refused_with_a_hint(estimator):
    X = np.array([["audi", "1"], ["volvo", "2"], ["audi", "3"]], dtype=object)
    with pytest.raises(ValueError, match="could not convert string to float: 'audi'") as refused:
        estimator.fit(X, [0, 1, 0])
    assert "OneHotEncoder" in refused.value.__notes__[0]


def test_certify_finds_the_chain_however_it_is_nested():
    X, y = make_data()
    grade = small(ConvexReLURegressor, patterns="sampled")
    search = GridSearchCV(grade, {"alpha": [0.05]}, cv=2)
    nested = make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), search)).fit(X, y)
    chain = nested[-1][-1].best_estimator_
    expected = certify(chain, StandardScaler().fit_transform(X), y)[0].primal
    for estimator in (nested, FrozenEstimator(nested)):
        assert certify(estimator, X, y)[0].primal == pytest.approx(expected, rel=1e-9)
    for unfitted in (search, make_pipeline(StandardScaler(), search)):
        with pytest.raises(NotFittedError):
            certify(clone(unfitted), X, y)
    with pytest.raises(ValueError, match="refit=False keeps no estimator: with True, GridSearchCV"):
        certify(clone(search).set_params(refit=False).fit(X, y), X, y)


def test_certify_needs_a_fitted_estimator_of_this_package():
    X, y = make_data()
    with pytest.raises(
        TypeError,
        match="Pipeline or search that ends in one; got Ridge",
    ):
        certify(Ridge().fit(X, y), X, y)
    with pytest.raises(NotFittedError):
        certify(ConvexReLURegressor(), X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_doubling_a_weight_is_duplicating_the_row(estimator):
    X, y = make_data(16)
    y = targets(estimator, y)
    weights = np.ones(16)
    weights[:6] = 2.0
    rows = np.concatenate([np.arange(16), np.arange(6)])
    parameters = {"patterns": "exhaustive"} if estimator not in CHAINS else {"n_grades": 1}
    weighted = small(estimator, **parameters).fit(X, y, sample_weight=weights)
    doubled = small(estimator, **parameters).fit(X[rows], y[rows])
    for a, b in zip(weighted.certificates_, doubled.certificates_, strict=True):
        assert a.primal == pytest.approx(b.primal, rel=1e-4)


@pytest.mark.parametrize("estimator", CHAINS)
def test_training_loss_never_rises_and_bounds_hold(estimator):
    X, y = make_data(40)
    model = small(estimator, n_grades=3, patterns="sampled").fit(X, targets(estimator, y))
    losses = np.concatenate([[np.inf], model.train_loss_])
    for k, certificate in enumerate(model.certificates_):
        assert losses[k + 1] <= losses[k] + max(certificate.gap, 0.0)
        assert certificate.primal >= losses[k + 1]
    assert model.n_grades_ == len(model.train_loss_) >= 2
    assert model.stop_reason_ == "All 3 grades were fitted."


@pytest.mark.parametrize("estimator", CHAINS)
def test_warm_start_adds_grades_without_touching_the_old(estimator):
    X, y = make_data()
    y = targets(estimator, y)
    model = small(estimator, n_grades=1, warm_start=True).fit(X, y)
    first = model.grades_[0]
    model.set_params(n_grades=2).fit(X, y)
    assert model.grades_[0] is first
    cold = small(estimator, n_grades=2).fit(X, y)
    np.testing.assert_allclose(model.predict(X), cold.predict(X))
    np.testing.assert_allclose(model.train_loss_, cold.train_loss_)
    with pytest.raises(ValueError, match=r"n_grades=1 must be at least the 2 grades"):
        model.set_params(n_grades=1).fit(X, y)
    with pytest.raises(ValueError, match=r"keep_inputs=False must be those of the grades already"):
        model.set_params(n_grades=3, keep_inputs=False).fit(X, y)
    model.set_params(keep_inputs=True)
    for name, other in {"standardize": False, "distances": True, "first_bias": False}.items():
        fitted = model.get_params()[name]
        with pytest.raises(
            ValueError, match=f"{name}={other} must be that of .*, {fitted!r}, when"
        ):
            model.set_params(**{name: other}).fit(X, y)
        model.set_params(**{name: fitted})
    assert model.fit(X, y).n_grades_ == 3


def test_a_last_grade_of_a_linear_term_alone_stays_where_it_lowers_the_loss():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((150, 1))
    y = np.abs(2.0 * np.abs(X[:, 0]) - 1.5) + 0.1 * rng.standard_normal(150)
    chain = MultigradeRegressor(
        0.005,
        n_grades=3,
        n_patterns=20,
        early_stopping=False,
        linear_term=True,
        warm_start=True,
        random_state=0,
    )
    model = clone(chain).fit(X, y)
    assert [grade.n_neurons for grade in model.grades_][1:] == [0]
    assert model.train_loss_[1] < 0.7 * model.train_loss_[0]
    assert model.stop_reason_.startswith("Grade 2 is trivial")
    first, second = (certificate.primal for certificate in certify(model, X, y))
    assert second == pytest.approx(model.train_loss_[1], rel=1e-12)
    assert second < first
    np.testing.assert_allclose(model.network_.forward(X)[:, 0], model.predict(X), atol=1e-12)
    stepwise = clone(chain).set_params(n_grades=1).fit(X, y)
    for depth in (2, 3):
        stepwise.set_params(n_grades=depth).fit(X, y)
    assert stepwise.n_grades_ == 2
    np.testing.assert_array_equal(stepwise.predict(X), model.predict(X))


def test_a_last_grade_of_a_linear_term_alone_goes_where_it_lowers_the_loss_by_less_than_tol():
    rng = np.random.default_rng(7)
    X = rng.standard_normal((150, 1))
    y = np.abs(2.0 * np.abs(X[:, 0]) - 1.5) + 0.1 * rng.standard_normal(150)
    model = MultigradeRegressor(
        0.005, n_grades=3, n_patterns=20, early_stopping=False, linear_term=True, random_state=0
    )
    assert [clone(model).set_params(tol=tol).fit(X, y).n_grades_ for tol in (1e-4, 1.0)] == [2, 1]


def test_targets_of_another_shape_than_those_of_the_fit_are_errors():
    X, y = make_data(30)
    two = small(MultigradeRegressor, n_grades=1, patterns="sampled").fit(
        X, np.stack([y, -y], axis=1)
    )
    one = small(MultigradeRegressor, n_grades=1, patterns="sampled").fit(X, y)
    assert certify(one, X, y[:, None])[0].gap == pytest.approx(certify(one, X, y)[0].gap)
    with pytest.raises(
        ValueError, match=r"y has 1 outputs, but this MultigradeRegressor was .* 2\."
    ):
        certify(two, X, y)
    with pytest.raises(ValueError, match="y has 1 outputs"):
        two.set_params(warm_start=True, n_grades=2).fit(X, y)
    assert two.n_grades_ == 1


@pytest.mark.parametrize("names", [[3, 5, 7], ["a", "b", "c"]])
def test_classes_that_the_fit_did_not_see_are_errors(names):
    X, y = make_data(30)
    labels = np.array(names)[targets(MultigradeClassifier, y, n_classes=3)]
    known = labels != names[2]
    model = small(MultigradeClassifier, n_grades=1, patterns="sampled").fit(X[known], labels[known])
    assert len(certify(model, X[known][:5], labels[known][:5])) == 1
    message = rf"not fitted with: \[{names[2]!r}\]; it knows \[{names[0]!r}, {names[1]!r}\]"
    with pytest.raises(ValueError, match=message):
        certify(model, X, labels)
    with pytest.raises(ValueError, match=message):
        model.set_params(warm_start=True, n_grades=2).fit(X, labels)


def test_why_a_chain_ended_is_said_of_the_chain_that_stays(monkeypatch):
    X, y = make_data(30)
    tried = SimpleNamespace(losses=(0.4, 0.3, 0.2, 0.1), verdict="All 4 grades were fitted.")
    monkeypatch.setattr(
        MultigradeRegressor, "_best_tried", lambda self, folds, plan, before: (tried, plan)
    )
    model = small(MultigradeRegressor, alpha=0.3, alpha_decay=3.0, n_grades=4, early_stopping=True)
    model.set_params(patterns="sampled", distances=False).fit(X, y)
    assert model.n_grades_ < 4
    assert model.stop_reason_.startswith(f"Grade {model.n_grades_ + 1} is trivial")
    model.set_params(alpha=0.02, alpha_decay=1.0).fit(X, y)
    assert model.stop_reason_ == "All 4 grades were fitted."


@pytest.mark.parametrize("estimator", [ConvexReLURegressor, MultigradeRegressor])
@pytest.mark.parametrize("warm_start", [True, False])
def test_a_fit_that_fails_leaves_no_half_of_two_models(estimator, warm_start):
    X, y = make_data()
    parameters = {"n_grades": 1} if estimator is MultigradeRegressor else {}
    model = small(estimator, **parameters).fit(X, y)
    expected = model.predict(X)
    with pytest.raises(ValueError, match="NaN"):  # found before anything is forgotten
        model.fit(X, np.full(len(y), np.nan))
    np.testing.assert_array_equal(model.predict(X), expected)
    model.set_params(
        patterns="exhaustive", warm_start=warm_start and estimator is ConvexReLURegressor
    )
    many = np.concatenate([X + shift for shift in np.arange(10.0)])
    with pytest.raises(ValueError, match="patterns='exhaustive' would list"):
        model.fit(many, np.tile(1000.0 * y, 10))
    np.testing.assert_array_equal(model.predict(X), expected)
    model.set_params(patterns="sampled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convexgrade.multigrade.fit_grade", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # once it is known how to code these targets
            model.fit(many, np.tile(1000.0 * y, 10))
    np.testing.assert_array_equal(model.predict(X), expected)
    assert model.transform(X).shape == (60, model.grades_[-1].n_neurons)


@pytest.mark.parametrize("estimator", [ConvexReLUClassifier, MultigradeClassifier])
@pytest.mark.parametrize("seed", range(2))
def test_few_neurons_without_biases_and_intercepts(estimator, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((60, 4)), rng.integers(0, 2, 60)
    chain = {"n_grades": 1, "early_stopping": False, "first_bias": False}
    model = small(
        estimator,
        alpha=0.02,
        max_neurons=1,
        fit_intercept=False,
        **chain if estimator is MultigradeClassifier else {},
    ).fit(X, y)
    assert model.grades_[0].n_neurons == 1
    assert model.train_loss_[0] <= np.log(2.0)


def test_a_cut_says_what_its_gap_is_measured_against():
    X, y = make_data(40, d=3)
    model = small(ConvexReLURegressor, alpha=0.05, max_neurons=3, tol=1e-2).fit(
        X, np.column_stack([y, X[:, 2] * X[:, 1]])
    )  # and does not warn
    assert model.certificate_.relative_gap > model.tol
    assert model.certificate_.status is Status.CUT
    one = small(ConvexReLURegressor, alpha=0.3, max_neurons=3).fit(X, y)
    assert one.certificate_.status.converged


@pytest.mark.parametrize("unit_of_X", [2.0**900, 2.0**-900])
@pytest.mark.parametrize("unit_of_y", [2.0**900, 2.0**-900])
def test_units_of_any_size_change_nothing(unit_of_X, unit_of_y):
    X, y = make_data(30)
    X[0, 0] = 1e3  # a heavy tail
    model = small(MultigradeRegressor, patterns="sampled").fit(X, y)
    other = small(MultigradeRegressor, patterns="sampled").fit(X * unit_of_X, y * unit_of_y)
    np.testing.assert_allclose(
        other.predict(X * unit_of_X) / unit_of_y, model.predict(X), rtol=1e-12
    )


@pytest.mark.parametrize("value", [1.0, 0.1, -1e6 / 3])
def test_a_constant_column_has_no_linear_term(value):
    X, y = make_data()
    X = np.column_stack([X, np.full(len(X), value)])
    model = small(ConvexReLURegressor, linear_term=True).fit(X, y)
    # Penalties keep neurons off it as well, up to the accuracy of the solve.
    assert model.network_.grades[0].linear_coef[-1] == pytest.approx(0.0, abs=1e-12)
    moved = X + np.append(np.zeros(X.shape[1] - 1), 1.0)
    np.testing.assert_allclose(model.predict(moved), model.predict(X), atol=1e-3)


def test_warm_start_of_one_grade_starts_from_its_neurons():
    X, y = make_data()
    model = small(ConvexReLURegressor, warm_start=True, max_iter=1).fit(X, y)
    before = model.certificate_.primal
    model.set_params(random_state=1).fit(X, y)
    assert model.certificate_.primal <= before * (1.0 + 1e-6)


def test_a_warm_start_on_data_of_another_shape_begins_anew():
    X, y = make_data(30)
    parameters = {"alpha": 0.2, "max_iter": 1, "tol": 1e-3}
    model = small(ConvexReLURegressor, warm_start=True, **parameters)
    for columns, labels in ((X, y), (X[:, :1], y), (X, np.stack([y, -y], axis=1)), (X, y)):
        model.fit(columns, labels)
        cold = small(ConvexReLURegressor, **parameters).fit(columns, labels)
        assert model.predict(columns).shape == labels.shape
        assert model.certificate_.primal == pytest.approx(cold.certificate_.primal, rel=1e-2)


@pytest.mark.parametrize("estimator", CHAINS)
def test_staged_predictions_end_at_the_prediction(estimator):
    X, y = make_data()
    model = small(estimator, patterns="sampled").fit(X, targets(estimator, y, n_classes=3))
    staged = list(model.staged_predict(X))
    assert len(staged) == model.n_grades_
    np.testing.assert_array_equal(staged[-1], model.predict(X))
    if estimator is MultigradeClassifier:
        probabilities = list(model.staged_predict_proba(X))
        np.testing.assert_array_equal(probabilities[-1], model.predict_proba(X))
        np.testing.assert_allclose(probabilities[0].sum(axis=1), 1.0)


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_predictions_far_out_keep_to_the_range_of_the_targets(estimator):
    X, y = make_data(30, d=1)
    Y = np.column_stack([y, 10.0 - 3.0 * y])
    far = np.array([[1e6], [2e6]])
    for extrapolation in (0.0, 0.5):
        model = small(estimator, patterns="sampled", extrapolation=extrapolation).fit(X, Y)
        low, high, more = Y.min(axis=0), Y.max(axis=0), extrapolation * np.ptp(Y, axis=0)
        found = model.predict(far)
        np.testing.assert_allclose(found[:, 0], (high + more)[0])  # y grows as |x| does
        np.testing.assert_allclose(found[:, 1], (low - more)[1])
        np.testing.assert_allclose(model.prediction_range_, (low - more, high + more))
    free = small(estimator, patterns="sampled", extrapolation=None).fit(X, Y)
    np.testing.assert_allclose(free.predict(far), free.network_.forward(far), rtol=1e-9)
    assert np.abs(free.predict(far)).min() > 1e5
    constant = small(estimator).fit(X, np.full(len(X), 3.0))
    np.testing.assert_allclose(constant.predict(far), 3.0)


@pytest.mark.parametrize(
    "way", [{"early_stopping": False}, {"early_stopping": True}, {"correction": "backward"}]
)
@pytest.mark.parametrize("estimator", CHAINS)
def test_later_grades_add_to_no_row_what_they_add_to_no_training_row(estimator, way):
    X, y = make_data()
    Y = np.column_stack([y, 10.0 - 3.0 * X[:, 1] ** 2])
    Y = Y if estimator is MultigradeRegressor else targets(estimator, y, n_classes=3)
    unlimited = {"extrapolation": None} if estimator is MultigradeRegressor else {}
    model = small(estimator, patterns="adaptive", **way, **unlimited).fit(X, Y)
    far = np.vstack([X, 3.0 * X, 100.0 * X])
    net = model.network_
    features = inputs = net.reading.apply(far)
    output = np.tile(net.baseline, (len(far), 1))
    n_cut = []
    for grade in net.grades:
        hidden = np.maximum(features @ grade.hidden_coef + grade.hidden_intercept, 0.0)
        added = hidden @ grade.output_coef + features @ grade.linear_coef + grade.intercept
        seen = added[: len(X)] if n_cut else added
        kept = np.clip(added, seen.min(axis=0), seen.max(axis=0))
        n_cut.append(np.count_nonzero(kept != added))
        output, features = output + kept, np.hstack([hidden, inputs])
    assert model.n_grades_ > 1
    assert min(n_cut[1:]) > 0
    np.testing.assert_allclose(net.forward(far), output, rtol=1e-9, atol=1e-9)
    if estimator is MultigradeRegressor:
        np.testing.assert_allclose(model.predict(far), output, rtol=1e-9, atol=1e-9)
    else:
        logits = np.log(model.predict_proba(X)) - output[: len(X)]
        np.testing.assert_allclose(logits - logits[:, :1], 0.0, atol=1e-9)


@pytest.mark.parametrize("estimator", CHAINS)
def test_a_trivial_grade_ends_the_chain_and_says_so(estimator):
    X, y = make_data()
    model = small(estimator, alpha=100.0, n_grades=5).fit(X, targets(estimator, y))
    assert model.n_grades_ == 1
    assert model.grades_[0].n_neurons == 0
    assert model.certificates_[0].status is Status.TRIVIAL
    assert "Grade 1 is trivial" in model.stop_reason_


def test_a_trivial_first_grade_ends_a_chain_in_later_fits_too_unless_alpha_is_lower():
    """Under the lower penalty of a second grade, neurons would be worth it here."""
    X, y = make_data(40)
    model = small(MultigradeRegressor, alpha=1.0, n_grades=3, alpha_decay=0.01, patterns="sampled")
    model.set_params(early_stopping=False, warm_start=True)
    at_once = clone(model).fit(X, y)
    model.set_params(n_grades=1).fit(X, y)
    model.set_params(n_grades=3).fit(X, y)
    for chain in (at_once, model):
        assert [grade.n_neurons for grade in chain.grades_] == [0]
        assert chain.stop_reason_.startswith("Grade 1 is trivial")
    assert model.set_params(alpha=0.5).fit(X, y).n_grades_ == 3
    assert model.train_loss_[-1] < 0.5 * model.train_loss_[0]


def test_a_tolerance_of_few_digits_is_the_same_tolerance():
    X, y = make_data()
    single = small(ConvexReLURegressor, tol=np.float32(0.25)).fit(X, y)
    expected = small(ConvexReLURegressor, tol=0.25).fit(X, y).predict(X)
    np.testing.assert_array_equal(single.predict(X), expected)


def test_grades_added_without_rows_held_out_have_no_validation_loss():
    X, y = make_data(60)
    model = small(MultigradeRegressor, n_grades=2, warm_start=True, early_stopping=True)
    model.set_params(patterns="sampled").fit(X, y)
    assert model.validation_loss_.size == model.n_grades_
    model.set_params(n_grades=model.n_grades_ + 1, early_stopping=False, alpha_decay=0.01)
    assert model.fit(X, y).n_grades_ == model.n_grades
    assert model.validation_loss_.size == 0


def test_an_interrupted_fit_keeps_finished_grades(monkeypatch):
    from convexgrade import multigrade

    X, y = make_data()
    original, calls = multigrade.fit_grade, []

    def interrupted(*args):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(multigrade, "fit_grade", interrupted)
    model = small(MultigradeRegressor, alpha=0.02, n_grades=3, patterns="sampled")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.n_grades_ == 2
    assert model.stop_reason_ == ""
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 0.0),
        ("alpha", "small"),
        ("activation", "tanh"),
        ("patterns", "all"),
        ("n_patterns", 0),
        ("max_neurons", 0),
        ("loss", "zero_one"),
        ("solver", "mosek"),
        ("tol", -1.0),
        ("tol", 1.5),
        ("max_iter", 0),
        ("n_jobs", 1.5),
        ("n_jobs", 0),
    ],
)
def test_a_parameter_out_of_range_names_itself(estimator, name, value):
    X, y = make_data()
    message = rf"The '{name}' parameter of {estimator.__name__} must be .* Got {value!r}"
    with pytest.raises(ValueError, match=message):
        estimator(**{name: value}).fit(X, targets(estimator, y))


@pytest.mark.parametrize(
    ("name", "value"), [("n_grades", 0), ("validation_fraction", 1.0), ("early_stopping", "yes")]
)
@pytest.mark.parametrize("estimator", CHAINS)
def test_a_chain_parameter_out_of_range_names_itself(estimator, name, value):
    X, y = make_data()
    with pytest.raises(ValueError, match=f"The '{name}' parameter of {estimator.__name__} must"):
        estimator(**{name: value}).fit(X, targets(estimator, y))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bad_data_is_refused_by_name(estimator):
    X, y = make_data(20)
    y = targets(estimator, y)
    model = small(estimator, patterns="sampled")
    for bad in (np.nan, np.inf):
        broken = X.copy()
        broken[3, 1] = bad
        with pytest.raises(ValueError, match=r"Input X contains"):
            model.fit(broken, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.fit(X, y[:-1])
    with pytest.raises(ValueError, match="Negative values in"):
        model.fit(X, y, sample_weight=-np.ones(20))
    with pytest.raises(ValueError, match=r"zero"):
        model.fit(X, y, sample_weight=np.zeros(20))
    with pytest.raises(NotFittedError):
        small(estimator).predict(X)
    model.fit(X, y)
    with pytest.raises(ValueError, match="expecting 2 features"):
        model.predict(X[:, :1])


@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_one_class_is_refused(estimator):
    with pytest.raises(ValueError, match=r"at least two classes .* one class: 'a'"):
        small(estimator).fit(np.ones((3, 1)), ["a", "a", "a"])
    with pytest.raises(ValueError, match="at least two classes"):
        small(estimator).fit(np.ones((3, 1)), ["a", "a", "b"], sample_weight=[1.0, 1.0, 0.0])


def test_too_many_patterns_to_enumerate_is_an_error_with_the_count():
    X, y = make_data(60, d=8)
    with pytest.raises(
        ValueError, match=r"would list up to \d+ patterns \(60 distinct rows of rank 9"
    ):
        ConvexReLURegressor(patterns="exhaustive").fit(X, y)


def test_numbers_may_be_small_integers_of_numpy():
    X, y = make_data()
    plain, numpys = (
        small(ConvexReLURegressor, patterns="sampled", n_patterns=kind(100)).fit(X, y)
        for kind in (int, np.int8)
    )
    np.testing.assert_array_equal(numpys.predict(X), plain.predict(X))


def test_an_unmet_tolerance_warns_with_gap_and_tolerance(monkeypatch):
    X, y = make_data()
    y = targets(ConvexReLUClassifier, y)
    model = small(ConvexReLUClassifier, tol=1e-3)

    def short_of_it(*arguments, **options):
        return replace(certify_network(*arguments, **options), relative_gap=0.00123)

    monkeypatch.setattr("convexgrade.grade.certify_network", short_of_it)
    expected = r"Grade 1 has relative gap 1\.23e-03, above tol=0\.001\. .* solver, may help\.$"
    with pytest.warns(ConvergenceWarning, match=expected) as warned:
        model.fit(X, y)
    assert [warning.filename for warning in warned] == [__file__]  # the line that called `fit`
    assert model.certificate_.status is Status.INACCURATE
    with pytest.warns(ConvergenceWarning, match=r"So may standardize=True, where columns differ"):
        model.set_params(standardize=False).fit(X, y)


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_odd_shapes_fit(estimator):
    rng = np.random.default_rng(0)
    one = small(estimator).fit([[1.0, 2.0]], [3.0])
    assert one.predict([[5.0, 5.0]]) == pytest.approx([3.0])
    constant = small(estimator).fit(np.ones((10, 2)), np.arange(10.0))
    np.testing.assert_allclose(constant.predict(np.ones((1, 2))), 4.5)
    flat = small(estimator).fit(rng.standard_normal((10, 2)), np.full(10, 7.0))
    np.testing.assert_allclose(flat.predict(np.zeros((1, 2))), 7.0)
    wide = small(estimator).fit(rng.standard_normal((5, 12)), rng.standard_normal(5))
    assert all(c.relative_gap < 1e-4 for c in wide.certificates_)


@pytest.mark.parametrize("scale", [2.0**-27, 2.0**27])  # powers of two: the same digits
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scale_of_the_data_does_not_matter(estimator, scale):
    X, y = make_data(20)
    y = targets(estimator, y)
    parameters = {"patterns": "sampled"} if estimator in CHAINS else {}
    plain = small(estimator, **parameters).fit(X, y)
    scaled = small(estimator, **parameters).fit(scale * X, y)
    np.testing.assert_allclose(scaled.train_loss_, plain.train_loss_, rtol=1e-9)
    if estimator in REGRESSORS:
        rescaled = small(estimator, **parameters).fit(X, scale * y)
        np.testing.assert_allclose(rescaled.predict(X), scale * plain.predict(X), rtol=1e-9)


@pytest.mark.parametrize("estimator", REGRESSORS)
def test_several_outputs(estimator):
    X, y = make_data()
    Y = np.column_stack([y, -2.0 * y + 1.0, X[:, 0]])
    model = small(estimator, alpha=0.02, n_patterns=20, patterns="sampled").fit(X, Y)
    assert model.predict(X).shape == (60, 3)
    assert model.score(X, Y) > 0.9
    assert all(c.relative_gap < 1e-4 for c in model.certificates_)


@pytest.mark.parametrize("estimator", CLASSIFIERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_classifiers_predict_labels_and_probabilities(estimator, n_classes):
    X, y = make_data(90)
    names = np.array(["low", "mid", "top"])[targets(estimator, y, n_classes)]
    model = small(estimator, alpha=0.02, n_patterns=40, patterns="sampled").fit(X, names)
    assert model.score(X, names) > 0.85
    probabilities = model.predict_proba(X)
    assert probabilities.shape == (90, n_classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    np.testing.assert_array_equal(model.classes_[probabilities.argmax(axis=1)], model.predict(X))
    assert model.decision_function(X).shape == ((90,) if n_classes == 2 else (90, 3))


@pytest.mark.parametrize("library", [pd, pl])
def test_data_frames_bring_names_and_set_output_returns_them(library):
    X, y = make_data()
    frame = library.DataFrame({"first": X[:, 0], "second": X[:, 1]})
    model = small(ConvexReLURegressor).fit(frame, y)
    np.testing.assert_array_equal(model.feature_names_in_, ["first", "second"])
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["second", "first"]])
    kind = "pandas" if library is pd else "polars"
    hidden = model.set_output(transform=kind).transform(frame)
    assert isinstance(hidden, library.DataFrame)
    expected = [f"convexreluregressor{j}" for j in range(model.grades_[0].n_neurons)]
    assert list(hidden.columns) == expected


def test_grid_searches_route_sample_weights():
    X, y = make_data(40)
    with config_context(enable_metadata_routing=True):
        model = small(MultigradeRegressor, n_grades=1, patterns="sampled")
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        alone = GridSearchCV(model, {"alpha": [0.01, 1000.0]}, cv=2)
        within = GridSearchCV(
            make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model),
            {"multigraderegressor__alpha": [0.01, 1000.0]},
            scoring=get_scorer("r2").set_score_request(sample_weight=True),
            cv=2,
        )
        for search in (alone, within):
            search.fit(X, y, sample_weight=np.ones(40))
    assert alone.best_params_ == {"alpha": 0.01}
    assert within.best_params_ == {"multigraderegressor__alpha": 0.01}


def test_real_data_beats_a_linear_model():
    X, y = load_energy(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(X))[:300]
    model = small(MultigradeRegressor, alpha=0.02, n_grades=1, max_iter=1)
    ours = cross_val_score(model, X[rows], y[rows], cv=2)
    linear = cross_val_score(Ridge(), X[rows], y[rows], cv=2)
    assert np.mean(ours) > np.mean(linear) + 0.02


def test_progress_is_printed_when_asked(capsys):
    X, y = make_data(30)
    small(MultigradeRegressor, patterns="sampled", verbose=1).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Grade 1: ")
    assert "relative gap" in lines[0]
    assert lines[-1] == "All 2 grades were fitted."
    small(MultigradeRegressor, patterns="sampled").fit(X, y)
    assert capsys.readouterr().out == ""


def test_explicit_networks_refuse_rows_of_other_shapes():
    X, y = make_data(40)
    network = small(ConvexReLURegressor).fit(X, y).network_
    np.testing.assert_array_equal(network.forward(X.tolist()), network.forward(X))
    for wrong in (X[0], X[:, :1], X[None]):
        with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 2\); got \("):
            network.forward(wrong)


@pytest.mark.parametrize("keep_inputs", [True, False])
@pytest.mark.parametrize("passthrough", ["hidden", "output", "both"])
def test_passthrough_decides_what_a_grade_reads(passthrough, keep_inputs):
    X, y = make_data(40, d=3)
    Y = np.column_stack([7.0 * y + 3.0, -np.abs(X[:, 1])])
    model = small(
        MultigradeRegressor,
        n_grades=3,
        patterns="sampled",
        n_patterns=4,
        passthrough=passthrough,
        keep_inputs=keep_inputs,
    ).fit(X, Y)
    hidden, output = passthrough != "output", passthrough != "hidden"
    for before, grade in zip(model.grades_, model.grades_[1:], strict=False):
        width = before.n_neurons * hidden + 2 * output + 3 * keep_inputs
        assert grade.network.hidden_coef.shape[0] == width
    np.testing.assert_allclose(model.network_.forward(X), model.predict(X), rtol=1e-10)
    assert [c.primal for c in certify(model, X, Y)] == pytest.approx(
        [c.primal for c in model.certificates_]
    )


def test_alpha_decay_is_the_factor_from_grade_to_grade():
    X, y = make_data()
    model = small(MultigradeRegressor, n_grades=3, alpha_decay=0.5, patterns="sampled").fit(X, y)
    assert [grade.alpha for grade in model.grades_] == [0.1, 0.05, 0.025]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_any_positive_penalty_has_a_grade(estimator):
    X, y = make_data()
    model = small(estimator, alpha=1e300).fit(X, targets(estimator, y))
    assert model.grades_[0].n_neurons == 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_columns_whose_differences_are_no_numbers_are_refused(estimator):
    X, y = make_data()
    y = targets(estimator, y)
    model = small(estimator).fit(X / np.abs(X).max() * 1e307, y)
    assert np.all(np.isfinite(model.predict(X)))
    message = (
        r"X has values of up to 1.7e\+308, whose differences are no numbers; they need another"
    )
    with pytest.raises(ValueError, match=message):
        small(estimator).fit(X / np.abs(X).max() * 1.7e308, y)


def test_other_targets_of_such_a_size_that_errors_have_no_squares_are_refused():
    X, y = make_data()
    model = small(MultigradeRegressor).fit(X, y)
    before = model.predict(X)
    for call in (
        lambda: certify(model, X, 1e200 * y),
        lambda: correct(model, X, 1e200 * y),
        lambda: model.set_params(warm_start=True, n_grades=4).fit(X, 1e200 * y),
    ):
        with pytest.raises(ValueError, match=r"in the units of the targets of the fit: squares of"):
            call()
    np.testing.assert_array_equal(model.predict(X), before)


def test_predictions_may_go_so_far_beyond_the_targets_that_it_is_no_number():
    X, y = make_data()
    model = small(ConvexReLURegressor, extrapolation=1e308, patterns="sampled").fit(X, 10.0 * y)
    assert model.prediction_range_[0][0] == -np.inf
    assert np.isfinite(model.predict(X)).all()


def test_weights_too_small_to_be_averaged_are_weights():
    X, y = make_data()
    model = small(MultigradeRegressor, patterns="sampled")
    expected = model.fit(X, y).predict(X)
    tiny = model.fit(X, y, np.full(len(X), 5e-324)).predict(X)
    np.testing.assert_array_equal(tiny, expected)


def test_more_input_that_no_fit_can_use():
    X, y = make_data()
    with pytest.raises(ValueError, match=r"class_weight=\{0: 0, 1: 0\} leaves no row a positive"):
        small(MultigradeClassifier, class_weight={0: 0, 1: 0}).fit(X, (y > 1.0).astype(int))
    with pytest.raises(
        ValueError, match="too large to be read as they are: they need standardize=True"
    ):
        small(ConvexReLURegressor, standardize=False).fit(1.1e50 * X / np.abs(X).max(), y)
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        small(ConvexReLURegressor).fit(X, csr_array(y[:, None]))
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        GeometricLayerwiseRegressor().fit(X, csr_array(y[:, None]))
    with pytest.raises(ValueError, match="refinement='pointwise' needs loss='squared_error'"):
        small(MultigradeRegressor, refinement="pointwise", loss="huber").fit(X, y)


def test_values_just_below_those_that_are_too_large_are_read_as_they_are():
    X, y = make_data()
    model = small(ConvexReLURegressor, patterns="sampled", standardize=False, fit_intercept=False)
    expected = clone(model).fit(X / np.abs(X).max(), y)
    large = clone(model).set_params(alpha=0.9e50 * model.alpha).fit(0.9e50 * X / np.abs(X).max(), y)
    assert np.isfinite(large.predict(X)).all()
    assert large.certificate_.relative_gap < 1e-4 > expected.certificate_.relative_gap


def test_a_warm_start_predicts_in_the_shape_of_its_targets():
    X, y = make_data()
    model = small(MultigradeRegressor, warm_start=True, patterns="sampled").fit(X, y)
    assert model.predict(X).shape == (60,)
    with pytest.warns(UserWarning, match="adds no grade to the 2 grades there are") as told:
        model.fit(X, y[:, None])
    assert [warning.filename for warning in told] == [__file__]
    assert model.predict(X).shape == (60, 1)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logarithms_of_probabilities_have_all_digits_far_out(n_classes):
    X, y = make_data()
    model = small(MultigradeClassifier, n_grades=1, patterns="sampled")
    model.fit(X, targets(MultigradeClassifier, y, n_classes))
    logarithms = model.predict_log_proba(X)
    np.testing.assert_allclose(np.exp(logarithms), model.predict_proba(X), rtol=1e-12)
    far = model.predict_log_proba(1e6 * X)  # where probabilities are 0
    assert np.isfinite(far).all()
    assert far.min() < -1e3
    assert not hasattr(small(MultigradeClassifier, loss="hinge"), "predict_log_proba")


@pytest.mark.parametrize("estimator", [*REGRESSORS, MultigradeClassifier])
def test_input_that_is_refused_leaves_the_last_fit_as_it_was(estimator):
    X, y = make_data(40)
    frame = pd.DataFrame(X, columns=list("abcdefgh"[: X.shape[1]]))
    labels = targets(estimator, y)
    model = small(estimator).fit(frame, labels)
    expected, before = model.predict(frame), vars(model).copy()
    with pytest.raises(ValueError, match=r"(?i)sample.weight"):  # scikit-learn's words, or ours
        model.fit(frame[frame.columns[::-1]], labels, np.zeros(len(y)))
    if estimator is MultigradeClassifier:
        model.set_params(class_weight={0: 1.0, 1: 9.0})
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(X[:, :1], labels, np.ones(3))
    np.testing.assert_array_equal(model.predict(frame), expected)
    assert list(model.feature_names_in_) == list(frame.columns)
    if estimator is MultigradeClassifier:
        model.set_params(class_weight=None)
    assert vars(model) == before


def test_weights_of_all_sizes_fit():
    model = ConvexReLURegressor(0.01, random_state=0)
    model.fit([[0.0], [1.0], [3.0]], [0.0, 1.0, 0.0], [1e-200, 1.0, 1e200])
    assert model.predict([[3.0]]) == pytest.approx(0.0, abs=1e-6)


def test_a_grade_that_has_nothing_to_read_but_a_constant_fits():
    model = MultigradeClassifier(
        early_stopping=True, keep_inputs=False, passthrough="output", whiten=True, random_state=0
    )
    model.fit([[0.0, 0.0], [-2.0, 0.0], [1.0, -2.0]], [0, 1, 0])
    assert np.isfinite(model.predict_proba([[0.0, 0.0]])).all()


def test_bytes_are_no_labels():
    X, _ = make_data(4)
    with pytest.raises(ValueError, match="y has labels of type bytes: Support for labels"):
        small(MultigradeClassifier).fit(X, np.array([b"a", b"b", b"b", b"a"]))


@pytest.mark.parametrize("label", [None, 1])
def test_labels_of_several_types_are_an_error_that_names_them(label):
    X, _ = make_data(4)
    kinds = f"'{type(label).__name__}', 'str'"
    for y in (["a", "b", label, "b"], [label, "b", "a", "b"]):
        with pytest.raises(
            ValueError, match=rf"y has labels of types \[{kinds}\], which have no order"
        ):
            small(MultigradeClassifier).fit(X, np.array(y, dtype=object))
