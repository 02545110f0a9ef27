"""The estimator inside a fitted pipeline or search, and the rows that reach it."""

from __future__ import annotations

from typing import Any, NamedTuple

from sklearn.pipeline import Pipeline


class Unwrapped(NamedTuple):
    """An estimator, and the rows as it reads them."""

    estimator: Any
    X: Any


def unwrapped(estimator: Any, X: Any) -> Unwrapped:
    """Return the last step of a fitted pipeline, or of a search's best one, and what it reads of X.

    Any other estimator is returned as it is.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    if not isinstance(estimator, Pipeline):
        return Unwrapped(estimator, X)
    return Unwrapped(estimator[-1], estimator[:-1].transform(X) if len(estimator) > 1 else X)
