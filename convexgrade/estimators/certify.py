"""Certificates of a fitted estimator, recomputed from data."""

from __future__ import annotations

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from convexgrade.certificate import Certificate
from convexgrade.estimators.base import BaseChain
from convexgrade.estimators.unwrapped import unwrapped


def certify(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
) -> list[Certificate]:
    """Recompute the certificate of every grade of a fitted estimator from data.

    Uses the network, the gates of its patterns and the data alone; which solver ran does not matter.
    On the training data and weights it reproduces ``certificates_``: each grade is held against the
    program that it was fitted to, whatever parameters the estimator has been given since. (There, the
    multipliers of the solver served to bound prices: sought anew, they can make ``price``, where it is
    below ``alpha``, and the gap a little smaller. And for losses with kinks, the solver's dual point,
    which is not kept, can have proved more than the gradient at the prediction: then the gap is larger
    here, many times in the worst case, and the status another if it exceeds ``tol``.)

    Parameters
    ----------
    estimator : estimator, Pipeline or search
        A fitted estimator of this package; or a fitted pipeline, search (such as
        `sklearn.model_selection.GridSearchCV`) or `sklearn.frozen.FrozenEstimator` that ends in one,
        however nested.
    X : array-like of shape (n_samples, n_features)
        Rows, as the pipeline or search reads them.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights.

    Returns
    -------
    list of Certificate
        One for each grade: it bounds the distance of that grade from its optimum over the patterns
        which its gates (and neurons) have on X, given the grades before it.

    Raises
    ------
    TypeError
        If ``estimator`` neither is nor ends in one of this package's.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If a search has kept no estimator (``refit=False``); if X or y do not have the columns, outputs
        or classes of the fit; or if ``patterns="exhaustive"`` would list many more patterns on these
        rows than on those of the fit.

    See Also
    --------
    ConvexReLURegressor : Has the certificate of its fit in ``certificate_``.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressor, certify
    >>> X = np.linspace(-2, 2, 40).reshape(-1, 1)
    >>> model = MultigradeRegressor(n_grades=2, alpha=0.01, random_state=0).fit(X, np.cos(X[:, 0]))
    >>> [bool(c.gap >= -1e-12 and c.relative_gap < 1e-4) for c in certify(model, X, np.cos(X[:, 0]))]
    [True, True]
    """
    chain, X = unwrapped(estimator, X)
    if not isinstance(chain, BaseChain):
        raise TypeError(
            f"certify needs a fitted convexgrade estimator, or a fitted Pipeline or search that ends in "
            f"one; got {type(chain).__name__}."
        )
    return chain._certify(X, y, sample_weight)
