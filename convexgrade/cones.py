"""The cone of one activation pattern, K = {v : E X v >= 0} with E = 2 D - I, and projections on it.

The neurons that realise a pattern D = diag(mask) on the rows of X are exactly the vectors of K. Two
facts make projections on K the common currency of programs and certificates:

* the largest inner product of b with a unit vector of K is ||Proj_K(b)||, zero if b is in the polar;
* Proj_K(b) = b + (E X)^T rho for the rho >= 0 of least ||b + (E X)^T rho|| (Moreau), so *every*
  rho >= 0 gives an upper bound on that inner product, however inexact the minimisation was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_FEASIBLE = 1e-13  # E X p >= -_FEASIBLE * |x_i| * |b| counts as inside: a few roundings of x . p


class Projection(NamedTuple):
    """Point ``b + (E X)^T rho`` with ``rho >= 0``: rows where rho > 0, and rho there."""

    point: Array
    rows: NDArray[np.intp]
    rho: Array

    @property
    def norm(self) -> float:
        """Euclidean norm of the point: an upper bound on max <b, v> over unit v of the cone."""
        return float(np.linalg.norm(self.point))


def project(X: Array, mask: Mask, b: Array, *, enough: float = 0.0) -> Projection:
    """Project ``b`` on the cone of ``mask``, by non-negative least squares on a few rows.

    Only about d of the n constraints touch a projection. The rows a trial point violates most join
    a working set until none is violated: the distance to the working set's cone grows with every
    round, so the loop ends. Each round costs one product with X and a small dense problem.

    Parameters
    ----------
    X : ndarray of shape (n_samples, d)
        Rows.
    mask : ndarray of bool, shape (n_samples,)
        Pattern.
    b : ndarray of shape (d,)
        Point to project.
    enough : float, default=0
        Stop as soon as the norm of ``b + (E X)^T rho`` is at most this: enough for an upper bound.

    Returns
    -------
    Projection
        Exact up to rounding, unless stopped at ``enough``.
    """
    sign = np.where(mask, 1.0, -1.0)
    tolerance = _FEASIBLE * np.linalg.norm(X, axis=1) * np.linalg.norm(b)
    working = np.empty(0, dtype=np.intp)
    projection = Projection(b, working, np.empty(0))
    batch = max(8, 2 * X.shape[1])
    while projection.norm > enough:
        slack = sign * (X @ projection.point) + tolerance
        slack[working] = np.inf
        violated = np.flatnonzero(slack < 0.0)
        if violated.size == 0:
            break
        worst = violated[np.argsort(slack[violated], kind="stable")[:batch]]
        working = np.concatenate([projection.rows, worst])
        A = (sign[working, None] * X[working]).T
        rho = _nonnegative_least_squares(A, -b)
        keep = rho > 0.0
        point = b + A[:, keep] @ rho[keep]
        # Rounding alone can stop the distance from growing: then the last point is as good.
        if np.linalg.norm(point) >= projection.norm * (1.0 - 1e-15) and projection.rows.size:
            break
        projection = Projection(point, working[keep], rho[keep])
        working = projection.rows
    return projection


def _nonnegative_least_squares(A: Array, target: Array) -> Array:
    scale = np.linalg.norm(A, axis=0)
    scale[scale == 0.0] = 1.0
    rho, _ = nnls(A / scale, target, maxiter=30 * A.shape[1] + 100)
    return np.asarray(rho) / scale


def largest_norm(X: Array, cones: Iterable[tuple[Mask, Array]], *, above: float = 0.0) -> float:
    """Return max over (mask, b) of ||Proj_K(b)||, or ``above`` when none exceeds it.

    Pairs are best given by decreasing ||b||: a projection is abandoned once it cannot win.
    """
    best = above
    for mask, b in cones:
        if np.linalg.norm(b) > best:
            best = max(best, project(X, mask, b, enough=best).norm)
    return best
