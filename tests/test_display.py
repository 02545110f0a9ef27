"""Displays compute what the chain predicts, and draw it."""

from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import (
    mean_absolute_error,
    mean_pinball_loss,
    mean_poisson_deviance,
    root_mean_squared_error,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from convexgrade import (
    ConstructiveMultigrade,
    ConvexReLURegressor,
    MultigradeClassifier,
    MultigradeRegressor,
)
from convexgrade.display import GradesDisplay, error_metric

FAST = {"alpha": 0.05, "n_grades": 2, "patterns": "sampled", "n_patterns": 5, "random_state": 0}
FAST |= {"early_stopping": False}
X = np.random.default_rng(0).normal(size=(30, 2))
Y = np.abs(X[:, 0]) + 0.5 * X[:, 1]


@pytest.fixture
def ax():
    return Figure().add_subplot()


@pytest.fixture(scope="module")
def chain():
    return MultigradeRegressor(**FAST).fit(X, Y)


def test_errors_are_those_of_the_staged_predictions(chain, ax):
    display = GradesDisplay.from_estimator(chain, X, Y, ax=ax)
    expected = [root_mean_squared_error(Y, predicted) for predicted in chain.staged_predict(X)]
    np.testing.assert_allclose(display.errors, expected)
    np.testing.assert_allclose(display.line_.get_ydata(), expected)
    np.testing.assert_array_equal(display.line_.get_xdata(), [1, 2])
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Number of grades", "RMSE")
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("loss", "name", "error"),
    [
        ("squared_error", "RMSE", root_mean_squared_error),
        ("absolute_error", "mean absolute error", mean_absolute_error),
        ("huber", "mean absolute error", mean_absolute_error),
        ("quantile", "pinball loss at 0.8", partial(mean_pinball_loss, alpha=0.8)),
        ("poisson", "Poisson deviance", mean_poisson_deviance),
    ],
)
def test_the_error_is_one_of_what_the_loss_predicts(loss, name, error, ax):
    y = Y - Y.min() + 1.0
    model = MultigradeRegressor(**FAST, loss=loss, quantile=0.8).fit(X, y)
    display = GradesDisplay.from_estimator(model, X, y, ax=ax)
    assert display.errors[-1] == pytest.approx(error(y, model.predict(X)))
    assert ax.get_ylabel() == name
    other = "quantile" if loss != "quantile" else "squared_error"
    assert error_metric(model.set_params(loss=other, quantile=0.1))[0] == name  # of the fit
    weights = np.linspace(0.0, 1.0, len(y))
    weighted = GradesDisplay.from_estimator(model, X, y, sample_weight=weights, ax=ax)
    expected = error(y, model.predict(X), sample_weight=weights)
    assert weighted.errors[-1] == pytest.approx(expected)


def test_means_too_small_to_be_numbers_have_a_deviance():
    _, error = error_metric(MultigradeRegressor(loss="poisson"))
    assert error([0.0, 1.0], [0.0, 1.0]) == pytest.approx(0.0, abs=1e-300)
    assert 700.0 < error([0.0, 1.0], [0.0, 0.0]) < 720.0


def test_classifiers_show_the_error_rate(ax):
    y = np.where(Y > 0.5, "high", "low")
    model = MultigradeClassifier(**FAST).fit(X, y)
    display = GradesDisplay.from_estimator(model, X, y, ax=ax)
    assert display.errors[-1] == pytest.approx(1.0 - model.score(X, y))
    assert ax.get_ylabel() == "error rate"


def test_one_grade_has_no_ticks_between_grades(ax):
    model = MultigradeRegressor(**{**FAST, "n_grades": 1}).fit(X, Y)
    GradesDisplay.from_estimator(model, X, Y, ax=ax)
    assert all(float(tick).is_integer() for tick in ax.get_xticks())
    low, high = ax.get_xlim()
    assert sum(low <= tick <= high for tick in ax.get_xticks()) == 1


def test_two_displays_share_axes(chain, ax):
    GradesDisplay.from_estimator(chain, X, Y, ax=ax, name="training")
    second = GradesDisplay.from_estimator(chain, X, Y + 3.0, ax=ax, name="shifted", color="red")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "shifted"]
    assert second.line_.get_color() == "red"
    low, high = ax.get_ylim()
    assert low == 0.0
    assert high > second.errors.max()


def test_plot_can_be_called_again_with_another_name(chain, ax):
    display = GradesDisplay.from_estimator(chain, X, Y, ax=ax, name="one")
    other = Figure().add_subplot()
    assert display.plot(ax=other, name="two") is display
    assert other.get_legend().get_texts()[0].get_text() == "two"
    assert display.ax_ is other


@pytest.mark.parametrize("name", [None, ""])
def test_without_a_name_there_is_no_legend(chain, ax, name):
    GradesDisplay.from_estimator(chain, X, Y, ax=ax, name=name)
    assert ax.get_legend() is None


def test_axes_may_be_logarithmic_and_lines_have_other_labels(chain, ax):
    ax.set_yscale("log")
    GradesDisplay.from_estimator(chain, X, Y, ax=ax, label="chain")
    assert ax.get_ylim()[0] > 0.0
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["chain"]


def test_axes_are_made_where_none_are_given(chain):
    import matplotlib.pyplot as plt

    display = GradesDisplay.from_estimator(chain, X, Y)
    assert display.ax_.lines
    plt.close(display.figure_)


@pytest.mark.parametrize("steps", [(), (MinMaxScaler(),)])
def test_pipelines_are_followed_to_their_chain(steps, ax):
    pipeline = make_pipeline(*steps, MultigradeRegressor(**FAST)).fit(X, Y)
    display = GradesDisplay.from_estimator(pipeline, X, Y, ax=ax)
    assert display.errors[-1] == pytest.approx(root_mean_squared_error(Y, pipeline.predict(X)))


def test_weights_count_for_every_output_of_counts(ax):
    y = np.column_stack([Y - Y.min() + 1.0, np.abs(X[:, 1])])
    model = MultigradeRegressor(**FAST, loss="poisson").fit(X, y)
    weights = np.linspace(0.0, 1.0, len(y))
    display = GradesDisplay.from_estimator(model, X, y, sample_weight=weights, ax=ax)
    each = [
        mean_poisson_deviance(a, b, sample_weight=weights)
        for a, b in zip(y.T, model.predict(X).T, strict=True)
    ]
    assert display.errors[-1] == pytest.approx(np.mean(each))


def test_searches_show_their_best_chain(ax):
    search = GridSearchCV(MultigradeRegressor(**FAST), {"alpha": [0.05, 10.0]}, cv=2).fit(X, Y)
    display = GradesDisplay.from_estimator(search, X, Y, ax=ax)
    assert display.errors[-1] == pytest.approx(root_mean_squared_error(Y, search.predict(X)))


def test_a_model_of_a_function_has_no_errors_to_display():
    model = ConstructiveMultigrade(n_stages=1).fit(lambda X: X[:, 0], 1)
    with pytest.raises(
        TypeError,
        match="ConstructiveMultigrade has no grades to show one after the other",
    ):
        GradesDisplay.from_estimator(model, [[0.5]], [0.5])


def test_an_estimator_without_stages_is_refused():
    with pytest.raises(
        TypeError, match=r"ConvexReLURegressor has no grades to show .* a fitted chain"
    ):
        GradesDisplay.from_estimator(ConvexReLURegressor(), X, Y)
