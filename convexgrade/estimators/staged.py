"""Predictions by the first grades of a chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from convexgrade.energy import Energy
from convexgrade.estimators.deep import told
from convexgrade.estimators.targets import (
    ClassifierTargets,
    RegressorTargets,
    knows_probabilities,
    probabilities,
)

Array = NDArray[np.float64]


class StagedRegressor(RegressorTargets):
    """Predictions by the first grades of a chain, and where each grade's squared error went."""

    @property
    def energy_(self: Any) -> list[Energy]:
        """Where the squared error before each grade went; for ``loss="squared_error"`` alone."""
        check_is_fitted(self)
        if not self._coding.loss.quadratic:
            raise AttributeError(
                f"energy_ needs loss='squared_error'; this is loss={told(self._coding.loss)}."
            )
        return list(self._progress.energy)

    def staged_predict(self: Any, X: ArrayLike) -> Iterator[Array]:
        """Yield the predictions of the chain after each grade.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Yields
        ------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions of the first 1, 2, ... grades; the last are those of `predict`.
        """
        return map(self._shaped, self._outputs(X))


class StagedClassifier(ClassifierTargets):
    """Predictions by the first grades of a chain."""

    def staged_predict(self: Any, X: ArrayLike) -> Iterator[NDArray[Any]]:
        """Yield the classes predicted by the chain after each grade.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Yields
        ------
        ndarray of shape (n_samples,)
            Classes predicted by the first 1, 2, ... grades.
        """
        return map(self._classes_of, self._outputs(X))

    @available_if(knows_probabilities)  # type: ignore[untyped-decorator]
    def staged_predict_proba(self: Any, X: ArrayLike) -> Iterator[Array]:
        """Yield the class probabilities of the chain after each grade; for ``loss="log_loss"`` alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Yields
        ------
        ndarray of shape (n_samples, n_classes)
            Probabilities by the first 1, 2, ... grades.
        """
        return map(probabilities, self._outputs(X))
