"""One grade along a decreasing path of alpha."""

from __future__ import annotations

from copy import deepcopy
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.utils import check_scalar

from convexgrade.certificate import Certificate
from convexgrade.estimators.shallow import OneGrade
from convexgrade.selection import given_alphas


class PathPoint(NamedTuple):
    """A fitted estimator on a path.

    Attributes
    ----------
    alpha : float
        Its penalty.
    estimator : estimator
        The fitted estimator.
    certificate : Certificate
        How far from optimal it can be.
    """

    alpha: float
    estimator: Any
    certificate: Certificate


def alpha_path(
    estimator: OneGrade,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    alphas: ArrayLike | None = None,
    n_alphas: int = 10,
    eps: float = 1e-3,
) -> list[PathPoint]:
    """Fit one grade at each alpha of a decreasing path, each from the neurons of the one before.

    The search of each starts from these neurons as well as from random ones; sampled and listed
    patterns need no search, and no start.

    Parameters
    ----------
    estimator : ConvexReLURegressor or ConvexReLUClassifier
        What to fit; it is cloned, its alpha replaced.
    X : array-like of shape (n_samples, n_features)
        Training rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights.
    alphas : array-like of shape (n_alphas,), default=None
        Values of alpha, positive. None: from ``alpha_max``, at which there is no neuron (as far as a
        search finds it; exact over the patterns where they are all there are), to ``eps`` times that,
        in geometric progression.
    n_alphas : int, default=10
        Number of values, without ``alphas``; at least 2.
    eps : float, default=1e-3
        Last alpha as a fraction of the first, in (0, 1), without ``alphas``.

    Returns
    -------
    list of PathPoint
        In order of decreasing alpha.

    Raises
    ------
    TypeError
        If the estimator has not one grade, or ``n_alphas`` or ``eps`` is no number of its kind.
    ValueError
        If a parameter is not as described.

    See Also
    --------
    MultigradeRegressorCV : Chooses alpha and depth of a chain.

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import ConvexReLURegressor, alpha_path
    >>> X = np.linspace(-2, 2, 40).reshape(-1, 1)
    >>> path = alpha_path(ConvexReLURegressor(random_state=0), X, np.cos(X[:, 0]), n_alphas=4)
    >>> [point.estimator.grades_[0].n_neurons for point in path][0]
    0
    >>> bool(np.all(np.diff([point.certificate.primal for point in path]) < 0))
    True
    """
    if not isinstance(estimator, OneGrade):
        raise TypeError(
            f"alpha_path needs an estimator of one grade; got {type(estimator).__name__}."
        )
    walker = clone(estimator).set_params(warm_start=True)
    walker._validate_params()
    if alphas is None:
        check_scalar(n_alphas, "n_alphas", Integral, min_val=2)
        check_scalar(eps, "eps", Real, min_val=0.0, max_val=1.0, include_boundaries="neither")
        if np.isnan(eps):
            raise ValueError("eps == nan, must be > 0.0 and < 1.0.")
        largest = walker._alpha_max(X, y, sample_weight) or 1.0  # 0 for constant targets
        values = largest * eps ** (np.arange(n_alphas) / (n_alphas - 1))
    else:
        values = given_alphas(alphas)
    path = []
    for alpha in values:
        walker.set_params(alpha=float(alpha)).fit(X, y, sample_weight)
        fitted = deepcopy(walker).set_params(warm_start=estimator.warm_start)
        path.append(PathPoint(float(alpha), fitted, fitted.certificate_))
    return path
