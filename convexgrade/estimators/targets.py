"""How targets become the outputs of a chain: reals are standardised, classes are indicators."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from convexgrade.losses import BinaryLogLoss, Loss, SoftmaxLogLoss, SquaredError
from convexgrade.multigrade import standard_scaling
from convexgrade.network import UNLIMITED, Scaling, Span

Array = NDArray[np.float64]


# Parameters that only one kind of estimator has.
REGRESSION: dict[str, list[Any]] = {
    "loss": [StrOptions({"squared_error"})],
    "extrapolation": [Interval(Real, 0, None, closed="left"), None],
}
CLASSIFICATION: dict[str, list[Any]] = {
    "loss": [StrOptions({"log_loss"})],
    "class_weight": [dict, StrOptions({"balanced"}), None],
}


class Coding(NamedTuple):
    """How targets relate to a chain's output: its loss, and ``target = output * scale + center``.

    ``span`` is what outputs keep to where they predict.
    """

    loss: Loss
    scaling: Scaling
    span: Span = UNLIMITED


class RegressorTargets(RegressorMixin):
    """Real targets, standardised column by column."""

    def predict(self: Any, X: ArrayLike) -> Array:
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
    def prediction_range_(self: Any) -> tuple[Array, Array]:
        """Least and greatest prediction of each output, infinite where ``extrapolation`` is None."""
        check_is_fitted(self)
        scaling, span = self._coding.scaling, self._coding.span
        return (
            span.low * scaling.scale + scaling.center,
            span.high * scaling.scale + scaling.center,
        )

    def _shaped(self: Any, output: Array) -> Array:
        return output[:, 0] if self._one_dimensional else output

    def _validate(self: Any, X: ArrayLike, y: ArrayLike, *, reset: bool) -> tuple[Array, Array]:
        rows, targets = validate_data(
            self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, reset=reset
        )
        return rows, np.asarray(targets, dtype=np.float64)

    def _learn_coding(self: Any, y: Array, weights: Array) -> Coding:
        self._one_dimensional = y.ndim == 1
        scaling = standard_scaling(_as_columns(y), weights)
        if self.extrapolation is None:
            return Coding(SquaredError(), scaling)
        span = Span.around(scaling.apply(_as_columns(y)), float(self.extrapolation))
        return Coding(SquaredError(), scaling, span)

    def _coded(self: Any, y: Array) -> Array:
        columns, fitted = _as_columns(y), self._coding.scaling.center.size
        if columns.shape[1] != fitted:
            raise ValueError(
                f"y has {columns.shape[1]} outputs, but this {type(self).__name__} was fitted with "
                f"{fitted}."
            )
        return self._coding.scaling.apply(columns)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class ClassifierTargets(ClassifierMixin):
    """Classes as indicators: one logit for two of them, one logit each for more."""

    def predict(self: Any, X: ArrayLike) -> NDArray[Any]:
        """Predict classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            The most probable class of each row.
        """
        return self._classes_of(self._last_output(X))

    def decision_function(self: Any, X: ArrayLike) -> Array:
        """Return logits.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes the logit of ``classes_[1]``, otherwise one logit a class.
        """
        output = self._last_output(X)
        return output[:, 0] if output.shape[1] == 1 else output

    def predict_proba(self: Any, X: ArrayLike) -> Array:
        """Return class probabilities.

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

    def _classes_of(self: Any, output: Array) -> NDArray[Any]:
        return self.classes_[np.argmax(probabilities(output), axis=1)]

    def _validate(
        self: Any, X: ArrayLike, y: ArrayLike, *, reset: bool
    ) -> tuple[Array, NDArray[Any]]:
        rows, labels = validate_data(self, X, y, dtype=np.float64, reset=reset)
        check_classification_targets(labels)
        return rows, labels

    def _learn_coding(self: Any, y: NDArray[Any], weights: Array) -> Coding:
        classes = np.unique(y)
        if classes.size < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least two classes of positive weight; "
                f"y has one class: {classes.tolist()[0]!r}."
            )
        self.classes_ = classes
        k = 1 if classes.size == 2 else classes.size
        loss = BinaryLogLoss() if k == 1 else SoftmaxLogLoss()
        return Coding(loss, Scaling(np.zeros(k), np.ones(k)))

    def _reweighted(self: Any, y: NDArray[Any], weights: Array) -> Array:
        return weights * class_weights(self.class_weight, y, weights)

    def _coded(self: Any, y: NDArray[Any]) -> Array:
        unknown = set(y.tolist()) - set(self.classes_.tolist())
        if unknown:
            raise ValueError(
                f"y has classes that this {type(self).__name__} was not fitted with: "
                f"{sorted(unknown, key=str)}; it knows {self.classes_.tolist()}."
            )
        return LabelBinarizer().fit(self.classes_).transform(y).astype(np.float64)


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
    else:
        if not all(isinstance(w, Real) and 0.0 <= float(w) < np.inf for w in class_weight.values()):
            raise ValueError(
                f"class_weight={class_weight!r} must have non-negative finite numbers as weights."
            )
        shares = compute_class_weight(dict(class_weight), classes=classes, y=y)
    return np.asarray(shares[code], dtype=np.float64)


def probabilities(output: Array) -> Array:
    """Return class probabilities of logits: one column for two classes, else one a class."""
    if output.shape[1] == 1:
        return np.column_stack([expit(-output[:, 0]), expit(output[:, 0])])
    return np.asarray(softmax(output, axis=1))


def _as_columns(y: Array) -> Array:
    return y.reshape(len(y), -1)
