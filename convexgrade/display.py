"""Pictures of chains, in the manner of scikit-learn's displays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import is_classifier
from sklearn.metrics import (
    mean_absolute_error,
    mean_pinball_loss,
    mean_poisson_deviance,
    root_mean_squared_error,
    zero_one_loss,
)

from convexgrade.estimators.unwrapped import unwrapped

Array = NDArray[np.float64]
Metric = Callable[..., float]  # of targets, predictions and, by name, sample_weight


def error_metric(estimator: Any) -> tuple[str, Metric]:
    """Return name and function of the error shown for an estimator: one of what its loss predicts.

    That is the loss of its last fit; before the first, the one that its parameters ask for. Classes
    have the rate of wrong ones, whatever the loss. Huber's loss has the mean absolute error: the
    outliers for which it is chosen would rule its own, as they rule the RMSE.

    Examples
    --------
    >>> from convexgrade import MultigradeClassifier, MultigradeRegressor
    >>> from convexgrade.display import error_metric
    >>> name, metric = error_metric(MultigradeClassifier())
    >>> name, float(metric(["a", "b"], ["a", "a"]))
    ('error rate', 0.5)
    >>> error_metric(MultigradeRegressor(loss="quantile", quantile=0.9))[0]
    'pinball loss at 0.9'
    """
    if is_classifier(estimator):
        return "error rate", zero_one_loss
    loss, level = _loss(estimator)
    match loss:
        case "absolute_error" | "huber":
            return "mean absolute error", mean_absolute_error
        case "quantile":
            return f"pinball loss at {level:g}", partial(mean_pinball_loss, alpha=level)
        case "poisson":
            return "Poisson deviance", _poisson_deviance
        case _:
            return "RMSE", root_mean_squared_error


def _loss(estimator: Any) -> tuple[str, float]:
    """Return the name of the loss of an estimator, and the quantile, if it predicts one."""
    if hasattr(estimator, "_coding"):
        fitted = estimator._coding.loss
        return fitted.name, float(getattr(fitted, "quantile", 0.5))
    asked = getattr(estimator, "loss", "squared_error")
    return asked, float(getattr(estimator, "quantile", 0.5))


def _poisson_deviance(y: Any, predicted: Any, sample_weight: Any = None) -> float:
    """Return the mean deviance, also of means that were too small to be numbers."""
    means = np.maximum(predicted, np.finfo(np.float64).tiny)
    n_outputs = means.size // len(means)
    weights = None if sample_weight is None else np.repeat(sample_weight, n_outputs)
    return float(mean_poisson_deviance(np.ravel(y), np.ravel(means), sample_weight=weights))


class GradesDisplay:
    """Error of a chain after each of its grades.

    It is best made by `from_estimator`. Training and test rows go into one picture by drawing the
    second display on the axes of the first.

    Parameters
    ----------
    errors : ndarray of shape (n_grades,)
        Error of the chain after each grade.
    metric : str
        What the errors are.
    name : str, default=None
        Label of the line; None for none.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The line, after `plot`.
    ax_ : matplotlib Axes
        Axes that were drawn on.
    figure_ : matplotlib Figure
        Figure of the axes.

    See Also
    --------
    sklearn.metrics.PredictionErrorDisplay : Predicted against observed values.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressor
    >>> from convexgrade.display import GradesDisplay
    >>> X = np.linspace(-2, 2, 40).reshape(-1, 1)
    >>> y = np.sin(3 * X[:, 0])
    >>> model = MultigradeRegressor(n_grades=2, alpha=0.01, random_state=0).fit(X, y)
    >>> display = GradesDisplay.from_estimator(model, X, y, name="training")
    >>> display.errors.shape, display.ax_.get_ylabel()
    ((2,), 'RMSE')
    """

    def __init__(self, *, errors: Array, metric: str, name: str | None = None) -> None:
        self.errors = errors
        self.metric = metric
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Compute and draw the error after each grade.

        Parameters
        ----------
        estimator : estimator, Pipeline or search
            A fitted chain; or a fitted pipeline, search (such as
            `sklearn.model_selection.GridSearchCV`) or `sklearn.frozen.FrozenEstimator` that ends in
            one, however nested.
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the error.
        name : str, default=None
            Label of the line.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        **kwargs : dict
            Passed on to `plot`.

        Returns
        -------
        GradesDisplay

        Raises
        ------
        TypeError
            If the estimator is no chain.
        """
        estimator, X = unwrapped(estimator, X)
        if not (hasattr(type(estimator), "grades_") and hasattr(estimator, "staged_predict")):
            raise TypeError(
                f"{type(estimator).__name__} has no grades to show one after the other; GradesDisplay "
                f"needs a fitted chain, such as MultigradeRegressor, or a Pipeline or search that ends "
                f"in one."
            )
        metric, error = error_metric(estimator)
        stages = estimator.staged_predict(X)
        errors = np.array([error(y, stage, sample_weight=sample_weight) for stage in stages])
        return cls(errors=errors, metric=metric, name=name).plot(ax=ax, **kwargs)

    def plot(self, ax: Any = None, *, name: str | None = None, **kwargs: Any) -> Self:
        """Draw the error against the number of grades.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        name : str, default=None
            Label of the line; None takes the display's own.
        **kwargs : dict
            Passed on to matplotlib's ``plot``.

        Returns
        -------
        GradesDisplay
            Itself.
        """
        from matplotlib.ticker import MaxNLocator

        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(layout="constrained")
        name = self.name if name is None else name
        style = {"marker": "o", "label": name} | kwargs
        grades = np.arange(1, len(self.errors) + 1)
        (self.line_,) = ax.plot(grades, self.errors, **style)
        ax.set(xlabel="Number of grades", ylabel=self.metric)
        ax.autoscale(axis="y")
        if ax.get_yscale() == "linear":
            ax.set_ylim(bottom=0.0)  # a cut axis would flatter the chain
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if style["label"]:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
