"""How targets become a chain's outputs: reals standardised, counts by their mean, classes indicators.

The mixins stand before a chain among the bases of an estimator; what they take from it, they annotate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_softmax, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from convexgrade.estimators.rows import checking, in_twelve_digits, validated
from convexgrade.kinks import AbsoluteError, Hinge, Huber, Quantile, SquaredHinge
from convexgrade.losses import BinaryLogLoss, Loss, Poisson, SoftmaxLogLoss, SquaredError
from convexgrade.scaling import Scaling, target_scaling
from convexgrade.span import UNLIMITED, Span

Array = NDArray[np.float64]


_NORMAL = 1.4826  # median absolute deviations in the standard deviation of a normal distribution
_FARTHEST = 1e4  # spreads from the median that a target is away, at most, for a robust loss
_LARGEST = 700.0  # exponent of a predicted mean: e to the power of more is no number
_LARGEST_CODED = 1e150  # size of a coded target whose square is a number

REGRESSION_LOSSES: Mapping[str, Callable[[RegressorTargets], Loss]] = {
    "squared_error": lambda estimator: SquaredError(),
    "absolute_error": lambda estimator: AbsoluteError(),
    "huber": lambda estimator: Huber(float(estimator.epsilon)),
    "quantile": lambda estimator: Quantile(quantile=float(estimator.quantile)),
    "poisson": lambda estimator: Poisson(),
}

# By the number of outputs: one logit or margin for two classes, one each for more.
CLASSIFICATION_LOSSES: Mapping[str, Callable[[int], Loss]] = {
    "log_loss": lambda k: BinaryLogLoss() if k == 1 else SoftmaxLogLoss(),
    "squared_hinge": lambda k: SquaredHinge(),
    "hinge": lambda k: Hinge(),
}

# Parameters that only one kind of estimator has.
REGRESSION: dict[str, list[Any]] = {
    "loss": [StrOptions(set(REGRESSION_LOSSES))],
    "quantile": [Interval(Real, 0, 1, closed="neither")],
    "epsilon": [Interval(Real, 1e-4, 1e100, closed="both")],  # below, an absolute error
    "extrapolation": [Interval(Real, 0, None, closed="left"), None],
}
CLASSIFICATION: dict[str, list[Any]] = {
    "loss": [StrOptions(set(CLASSIFICATION_LOSSES))],
    "class_weight": [dict, StrOptions({"balanced"}), None],
}


@dataclass(frozen=True)
class Coding:
    """How targets relate to a chain's output: its loss, and ``target = output * scale + center``.

    ``span`` is what outputs keep to where they predict.
    """

    loss: Loss
    scaling: Scaling
    span: Span = UNLIMITED

    def coded(self, y: Array) -> Array:
        """Return targets (n_samples, n_outputs) as the loss takes them."""
        return self.scaling.apply(y)

    def span_around(self, y: Array, extrapolation: float) -> Span:
        """Return where outputs are whose predictions are in the range of y, or near it."""
        return Span.of(self.coded(y)).wider(extrapolation)

    def uncoded(self, output: Array) -> Array:
        """Return the predictions that outputs stand for."""
        return np.asarray(self.span.apply(output) * self.scaling.scale + self.scaling.center)


class RobustCoding(Coding):
    """Outputs of losses that grow in proportion to the error of an outlier.

    Beyond where predictions come, the distance of a target moves no prediction. It only adds a
    constant to the objective, beside which everything else would be less than the tolerance.
    """

    def coded(self, y: Array) -> Array:
        """Return targets in units of the spread, those far out as if they were ``_FARTHEST`` away."""
        return np.clip(super().coded(y), -_FARTHEST, _FARTHEST)


class LogCoding(Coding):
    """Outputs that are logarithms of means, relative to ``e^center``."""

    def coded(self, y: Array) -> Array:
        """Return targets divided by their mean."""
        if (y < 0.0).any():
            raise ValueError(
                f"loss='poisson' needs y that is nowhere negative; its least value is {y.min():g}."
            )
        return np.asarray(y / np.exp(self.scaling.center))

    def span_around(self, y: Array, extrapolation: float) -> Span:
        """Return logarithms of the range of means."""
        means = super().span_around(y, extrapolation)
        with np.errstate(divide="ignore"):
            return Span(np.log(np.maximum(means.low, 0.0)), np.log(means.high))

    def uncoded(self, output: Array) -> Array:
        """Return means."""
        return np.exp(np.minimum(super().uncoded(output), _LARGEST))


class RegressorTargets(RegressorMixin):
    """Real targets, standardised column by column."""

    loss: str
    quantile: float
    epsilon: float
    extrapolation: float | None

    _coding: Coding
    _one_dimensional: bool
    _last_output: Callable[[ArrayLike], Array]

    def predict(self, X: ArrayLike) -> Array:
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, shaped like the y of `fit`.
        """
        return self._shaped(self._last_output(X))

    @property
    def prediction_range_(self) -> tuple[Array, Array]:
        """Least and greatest prediction of each output.

        Where ``extrapolation`` is None, all numbers; of counts, those from 0 on whose logarithm is one.
        """
        check_is_fitted(self)
        outputs = np.zeros_like(self._coding.scaling.center)
        low, high = outputs - np.inf, outputs + np.inf
        return self._coding.uncoded(low), self._coding.uncoded(high)

    def _shaped(self, output: Array) -> Array:
        return output[:, 0] if self._one_dimensional else output

    def _validate(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, Array]:
        return validated(self, X, y, reset=reset)

    def _learn_coding(self, y: Array, weights: Array) -> Coding:
        self._one_dimensional = y.ndim == 1
        columns, loss = _as_columns(y), self._loss_of(1)
        if self.loss == "poisson":
            coding: Coding = LogCoding(loss, _log_scaling(columns, weights))
        elif loss.kinked:
            coding = RobustCoding(loss, robust_scaling(columns, weights))
        else:
            coding = Coding(loss, target_scaling(columns, weights))
        return replace(coding, span=self._span(coding, columns))

    def _loss_of(self, n_outputs: int) -> Loss:
        return REGRESSION_LOSSES[self.loss](self)

    def _span(self, coding: Coding, columns: Array) -> Span:
        if self.extrapolation is None:
            return UNLIMITED
        return coding.span_around(columns, float(self.extrapolation))

    def _continued(self, y: Array) -> Coding:
        """Return the coding of the fitted grades, with room for further targets."""
        self._coded(y)
        self._one_dimensional = y.ndim == 1
        coding = self._coding
        return replace(coding, span=coding.span.joined(self._span(coding, _as_columns(y))))

    def _coded(self, y: Array) -> Array:
        columns, fitted = _as_columns(y), self._coding.scaling.center.size
        if columns.shape[1] != fitted:
            raise ValueError(
                f"y has {columns.shape[1]} outputs, but this {type(self).__name__} was fitted with "
                f"{fitted}."
            )
        with np.errstate(over="ignore"):
            coded = self._coding.coded(columns)
        largest = float(np.abs(coded).max())
        if not largest <= _LARGEST_CODED:
            raise ValueError(
                f"y has values of up to {np.abs(y).max():.3g}, {largest:.3g} in the units of the "
                f"targets of the fit: squares of such errors are no numbers."
            )
        return coded

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = getattr(self, "loss", "") == "poisson"
        return tags


def knows_probabilities(estimator: ClassifierTargets) -> bool:
    """Return whether a classifier has probabilities; else raise an error that says why not."""
    loss = estimator._coding.loss.name if hasattr(estimator, "_coding") else estimator.loss
    if loss != "log_loss":
        raise AttributeError(
            f"probabilities need loss='log_loss'; this is loss={loss!r}, whose outputs are "
            f"margins. CalibratedClassifierCV makes probabilities of them."
        )
    return True


class ClassifierTargets(ClassifierMixin):
    """Classes as indicators: one logit for two of them, one logit each for more."""

    loss: str
    class_weight: Mapping[Any, float] | str | None
    classes_: NDArray[Any]

    _coding: Coding
    _class_weight: Mapping[Any, float] | str | None
    _last_output: Callable[[ArrayLike], Array]

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            The class of each row: the most probable one, or that of the largest margin.
        """
        return self._classes_of(self._last_output(X))

    def decision_function(self, X: ArrayLike) -> Array:
        """Return logits, or margins of the hinge losses.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes the logit or margin of ``classes_[1]``, otherwise one for each class.
        """
        output = self._last_output(X)
        return output[:, 0] if output.shape[1] == 1 else output

    @available_if(knows_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: ArrayLike) -> Array:
        """Return class probabilities; for ``loss="log_loss"`` alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of ``classes_``.
        """
        return probabilities(self._last_output(X))

    @available_if(knows_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: ArrayLike) -> Array:
        """Return logarithms of class probabilities, however small; for ``loss="log_loss"`` alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Logarithms in the order of ``classes_``.
        """
        return log_probabilities(self._last_output(X))

    def _classes_of(self, output: Array) -> NDArray[Any]:
        return self.classes_[np.argmax(probabilities(output), axis=1)]

    def _validate(self, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, NDArray[Any]]:
        with checking():
            rows, labels = validate_data(self, X, y, dtype=np.float64, reset=reset)
        try:
            check_classification_targets(labels)
        except (TypeError, ValueError) as error:
            kinds = sorted({type(label).__name__ for label in labels.tolist()})
            if len(kinds) > 1:
                raise ValueError(
                    f"y has labels of types {kinds}, which have no order; all must be of one type."
                ) from error
            if isinstance(error, TypeError):
                raise ValueError(f"y has labels of type {kinds[0]}: {error}") from error
            raise
        return rows, labels

    def _learn_coding(self, y: NDArray[Any], weights: Array) -> Coding:
        classes = np.unique(y)
        if classes.size < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least two classes of positive weight; "
                f"y has one class: {classes.tolist()[0]!r}."
            )
        self.classes_ = classes
        k = 1 if classes.size == 2 else classes.size
        return Coding(self._loss_of(k), Scaling(np.zeros(k), np.ones(k)))

    def _loss_of(self, n_outputs: int) -> Loss:
        return CLASSIFICATION_LOSSES[self.loss](n_outputs)

    def _continued(self, y: NDArray[Any]) -> Coding:
        self._coded(y)
        return self._coding

    def _learn_class_weight(self) -> None:
        self._class_weight = self.class_weight

    def _class_shares(self, y: NDArray[Any], copies: Array) -> Array:
        shares = class_weights(self._class_weight, y, copies)
        if not (shares * copies > 0.0).any():
            raise ValueError(
                f"class_weight={self._class_weight!r} leaves no row a positive weight; at least one "
                f"class must have one."
            )
        return shares

    def _coded(self, y: NDArray[Any]) -> Array:
        unknown = set(y.tolist()) - set(self.classes_.tolist())
        if unknown:
            raise ValueError(
                f"y has classes that this {type(self).__name__} was not fitted with: "
                f"{sorted(unknown, key=str)}; it knows {self.classes_.tolist()}."
            )
        return LabelBinarizer().fit(self.classes_).transform(y).astype(np.float64)


def robust_scaling(y: Array, weights: Array) -> Scaling:
    """Return the scaling by median and spread: 1.4826 median absolute deviations.

    Of normal targets, that is the standard deviation. Where half of the targets are equal, standard
    deviations are used instead.
    """
    center = _median(y, weights)
    spread = _NORMAL * _median(np.abs(y - center), weights)
    return Scaling(center, np.where(spread > 0.0, spread, target_scaling(y, weights).scale))


def _median(y: Array, weights: Array) -> Array:
    """Return the weighted median of each column; of two, the mean."""
    order = np.argsort(y, axis=0, kind="stable")
    ranked = np.take_along_axis(y, order, axis=0)
    total = np.cumsum(weights[order], axis=0)
    half = 0.5 * total[-1]
    tolerance = 1e-12 * half
    columns = np.arange(y.shape[1])
    low = np.argmax(total >= half - tolerance, axis=0)
    high = np.argmax(total > half + tolerance, axis=0)
    return 0.5 * ranked[low, columns] + 0.5 * ranked[high, columns]


def _log_scaling(y: Array, weights: Array) -> Scaling:
    """Return the scaling of logarithms of counts: by the logarithm of their mean."""
    mean = weights @ y / weights.sum()
    wrong = np.flatnonzero((y < 0.0).any(axis=0) | ~(mean > 0.0))
    if wrong.size:
        least, greatest = y[:, wrong[0]].min(), y[:, wrong[0]].max()
        of = "its least value" if y.shape[1] == 1 else f"the least value of output {wrong[0]}"
        raise ValueError(
            f"loss='poisson' needs y that is nowhere negative and not 0 everywhere; {of} is "
            f"{least:g} and its greatest {greatest:g}."
        )
    return Scaling(np.log(mean), np.ones_like(mean))


def class_weights(
    class_weight: Mapping[Any, Any] | str | None, y: NDArray[Any], weights: Array
) -> Array:
    """Return the weight of the class of each row.

    ``"balanced"`` gives every class the same total weight. (scikit-learn's function of that name
    counts rows, so that a row of weight 2 would not be the row twice.)
    """
    if class_weight is None:
        return np.ones(len(y))
    classes, code = np.unique(y, return_inverse=True)
    if isinstance(class_weight, str):
        total = np.bincount(code, weights)
        present = total > 0.0
        shares = np.zeros(classes.size)
        shares[present] = weights.sum() / (present.sum() * total[present])
        shares = in_twelve_digits(shares)
    else:
        if not all(isinstance(w, Real) and 0.0 <= float(w) < np.inf for w in class_weight.values()):
            raise ValueError(
                f"class_weight={class_weight!r} must have non-negative finite numbers as weights."
            )
        shares = compute_class_weight(dict(class_weight), classes=classes, y=y)
        shares = shares / (shares.max() or 1.0)  # only their ratios count
    return np.asarray(shares[code], dtype=np.float64)


def probabilities(output: Array) -> Array:
    """Return class probabilities of logits: one column for two classes, else one for each class."""
    if output.shape[1] == 1:
        return np.column_stack([expit(-output[:, 0]), expit(output[:, 0])])
    return np.asarray(softmax(output, axis=1))


def log_probabilities(output: Array) -> Array:
    """Return the logarithms of `probabilities`."""
    if output.shape[1] == 1:
        return -np.logaddexp(0.0, np.column_stack([output[:, 0], -output[:, 0]]))
    return np.asarray(log_softmax(output, axis=1))


def _as_columns(y: Array) -> Array:
    return y.reshape(len(y), -1)
