"""The estimator inside a fitted pipeline or search, and the rows that reach it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted


class Unwrapped(NamedTuple):
    """An estimator, and the rows as it reads them."""

    estimator: Any
    X: Any


def unwrapped(estimator: Any, X: Any) -> Unwrapped:
    """Return what fitted pipelines, searches and frozen estimators end in, and what it reads of X.

    However these are nested; of a pipeline it is the last step, of a search the best estimator. Any
    other estimator is returned as it is.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If a pipeline or search is not fitted.
    ValueError
        If a search has kept no estimator.
    """
    if isinstance(estimator, BaseSearchCV):
        check_is_fitted(estimator)
        if not estimator.refit:
            raise ValueError(
                f"refit={estimator.refit!r} keeps no estimator: with True, {type(estimator).__name__} "
                f"fits the best one to all rows."
            )
    if hasattr(estimator, "best_estimator_"):
        return unwrapped(estimator.best_estimator_, X)
    if isinstance(estimator, FrozenEstimator):
        return unwrapped(estimator.estimator, X)
    if isinstance(estimator, Pipeline):
        return unwrapped(estimator[-1], estimator[:-1].transform(X) if len(estimator) > 1 else X)
    return Unwrapped(estimator, X)
