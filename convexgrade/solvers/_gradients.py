"""Conjugate gradients, and with them Newton steps over the columns K of a system.

The step (I + K K^T H)^-1 right is right - K y for the minimiser y of

    E(y) = |y|^2 / 2 + |right - K y|_H^2 / 2,

and its minimum is what a whole Newton step gains, to second order. With the residual r of
(I + K^T H K) y = K^T H right, a step from y gains less by (|r|^2 - r^T (I + K^T H K)^-1 r) / 2 at most.
From y = 0 every iteration makes a direction of descent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from convexgrade.losses import Hessian

Array = NDArray[np.float64]

CLOSE = 0.001  # error of a step, relative to what a whole one gains


class Map(Protocol):
    """What is needed of the columns."""

    def forward(self, y: Array) -> Array:
        """Return K y."""

    def adjoint(self, theta: Array) -> Array:
        """Return K^T theta."""


class Found(NamedTuple):
    """Where iterations have led: to y, in so many, and whether it is close enough."""

    y: Array
    taken: int
    close: bool


def minimised(
    K: Map,
    H: Hessian,
    right: Array,
    y: Array,
    precondition: Callable[[Array], Array],
    limit: int,
) -> Found:
    """Go on from y until E is close to its minimum, for so many iterations at most.

    Parameters
    ----------
    K : Map
        Columns.
    H : Hessian
        Hessian of the rows.
    right : ndarray of shape (n_samples, n_outputs)
        Right side.
    y : ndarray
        Where to begin.
    precondition : callable
        Multiplies by about (I + K^T H K)^-1; where it is found not to be positive, iterations end.
    limit : int
        Iterations.
    """
    rest = right - K.forward(y)
    weighted = H.times(rest)
    energy = 0.5 * float(y @ y + np.vdot(rest, weighted))

    def apply(way: Array) -> Array:
        return way + K.adjoint(H.times(K.forward(way)))

    def close(left: float, gained: float) -> bool:
        return left <= CLOSE * (energy - gained)

    return conjugate(apply, K.adjoint(weighted) - y, y, precondition, close, limit)


def conjugate(
    apply: Callable[[Array], Array],
    r: Array,
    y: Array,
    precondition: Callable[[Array], Array],
    close: Callable[[float, float], bool],
    limit: int,
) -> Found:
    """Go on from y, where a positive definite system has the residual r, until that is small enough.

    Parameters
    ----------
    apply : callable
        Multiplies by the matrix A of the system A y = b.
    r : ndarray
        b - A y.
    y : ndarray
        Where to begin.
    precondition : callable
        Multiplies by about the inverse of A; where it is found not to be positive, iterations end.
    close : callable
        Returns whether ``|r|^2`` is small enough, given that and the fall of y^T A y / 2 - b^T y so far.
    limit : int
        Iterations.
    """
    way, old, gained = np.zeros_like(y), np.inf, 0.0
    for taken in range(limit):
        if close(float(np.vdot(r, r)), gained):
            return Found(y, taken, True)
        z = precondition(r)
        along = float(np.vdot(r, z))
        if not along > 0.0:
            return Found(y, taken, False)
        way = z + (along / old) * way
        old = along
        image = apply(way)
        length = old / float(np.vdot(way, image))
        y = y + length * way
        r = r - length * image
        gained += 0.5 * length * old
    return Found(y, limit, False)
