"""Fitted chains whose earlier grades learn from the later ones."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, TypeVar

from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import check_is_fitted

from convexgrade.correction import METHODS, Limits, check_correctable, with_alpha
from convexgrade.estimators.deep import DeepChain

E = TypeVar("E", bound=DeepChain)

_CONSTRAINTS: dict[str, list[Any]] = {
    "method": [StrOptions(set(METHODS))],
    "alpha": [Interval(Real, 0, None, closed="neither"), None],
    "max_sweeps": [Interval(Integral, 1, None, closed="left")],
    "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
    "tol": [Interval(Real, 0, None, closed="left")],
}


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
def correct(
    estimator: E,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None = None,
    *,
    method: str = "backward",
    alpha: float | None = None,
    max_sweeps: int = 25,
    max_seconds: float | None = None,
    tol: float = 1e-5,
) -> E:
    """Return a corrected copy of a fitted chain: earlier grades give the later ones what they need.

    A chain is greedy; this corrects it backward [1]_. Each grade is moved in turn, given the others:
    with the activation patterns frozen, the output is linear in its weights, and a trust-region step is
    a convex least-squares program. A step counts only if the true objective falls: the mean loss of the
    whole chain plus the penalties of all grades. After each sweep over the grades all readouts are
    fitted jointly, which is a convex program too (where grades read the output of the chain so far,
    that of the last one is); and after the first one, all weights go downhill together, by quasi-Newton
    steps. So the objective cannot rise; it need not reach the optimum of the deep network, and no bound
    on the distance to it is claimed. Neurons that the output does not depend on any more are left out.

    Parameters
    ----------
    estimator : MultigradeRegressor, MultigradeClassifier, or one of them with cross-validation
        A fitted chain. It is not changed.
    X : array-like of shape (n_samples, n_features)
        Its training rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Its targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Its weights.
    method : {"backward", "readouts"}, default="backward"
        Correct the grades, or refit only the readouts of all grades jointly.
    alpha : float, default=None
        Penalty of all grades from here on, positive; None keeps what each was fitted with. A strong
        penalty keeps the first grade of a greedy chain from over-fitting and leaves the rest to later
        ones; on all grades at once it may be too strong.
    max_sweeps : int, default=25
        Most sweeps over the grades. Without effect on ``method="readouts"``, which makes none.
    max_seconds : float, default=None
        Seconds after which no further step begins; None sets no limit. With a limit, the result
        depends on the speed of the machine. The first fit of all readouts, which is all there is to
        ``method="readouts"``, and new certificates come on top.
    tol : float, default=1e-5
        Relative fall of the objective over a sweep below which correction ends. Without effect on
        ``method="readouts"``, which is solved to its optimum.

    Returns
    -------
    estimator
        The copy, with ``objective_path_``. Its parameter ``correction``, if it has one, is ``method``;
        the others are those of the fit, and ``grades_`` says what penalties the grades have now. Its
        certificates are computed anew: each bounds the distance of a grade from the optimum of its own
        program, given the grades before it. They no longer aim for that, as the status says. What
        `staged_predict` yields before the last grade are sums that were not fitted to be predictions.

    Raises
    ------
    TypeError
        If ``estimator`` is no chain of this package.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If a parameter is not as described; or if the chain was fitted with ``refinement="pointwise"``,
        whose promise to raise no training residual a correction would break; or with another loss than
        the squared error, the Poisson deviance or the log loss, which alone have curvature everywhere.

    See Also
    --------
    MultigradeRegressor : Does this in `fit` with ``correction="backward"``.

    References
    ----------
    .. [1] Z. Allen-Zhu and Y. Li, "Backward Feature Correction: How Deep Learning Performs Deep
       (Hierarchical) Learning", 2020, arXiv 2001.04413. (What is to be done; the algorithm is not
       theirs.)

    Examples
    --------
    >>> import numpy as np
    >>> from convexgrade import MultigradeRegressor, correct
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-2, 2, (80, 2))
    >>> y = np.sin(2 * np.abs(X[:, 0] + X[:, 1]))
    >>> model = MultigradeRegressor(n_grades=2, alpha=0.01, random_state=0).fit(X, y)
    >>> corrected = correct(model, X, y)
    >>> bool(corrected.objective_path_[-1] < corrected.objective_path_[0])
    True
    """
    if not isinstance(estimator, DeepChain):
        raise TypeError(
            f"correct needs a fitted MultigradeRegressor or MultigradeClassifier; got "
            f"{type(estimator).__name__}."
        )
    check_is_fitted(estimator)
    check_correctable(estimator._progress.chain, estimator._coding.loss)
    corrected = deepcopy(estimator)
    if "correction" in corrected.get_params(deep=False):
        corrected.set_params(correction=method)
    if alpha is not None:
        before = corrected._progress
        corrected._progress = replace(before, chain=with_alpha(before.chain, float(alpha)))
    limits = Limits(max_sweeps, float("inf") if max_seconds is None else max_seconds, tol)
    data = corrected._training_data(X, y, sample_weight)
    corrected._progress = corrected._corrected(corrected._progress, data, method, limits)
    return corrected
