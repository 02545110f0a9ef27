"""Limited-memory BFGS whose variables may leave on the way.

scipy's L-BFGS-B takes more time for its bounds, of which there are none here, than a search for its
function; and it has to begin anew, without what it has learnt, when a neuron withers. This is the
method in its compact form (Byrd, Nocedal & Schnabel 1994): all in products of matrices, from which the
rows of variables that leave can be struck.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dtrtrs

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Objective = Callable[[Array], tuple[float, Array]]

_LOWER, _FLATTER = 1e-4, 0.5  # Wolfe's conditions: fall of the value, and of the slope
_CURVED = 1e-6  # cosine between s and y above which they say something
_TRIALS = 30  # lengths of one step that are tried


class Iterate(NamedTuple):
    """A point, and the objective's value and gradient there."""

    x: Array
    value: float
    gradient: Array

    @classmethod
    def of(cls, objective: Objective, x: Array) -> Iterate:
        """Evaluate an objective."""
        return cls(x, *objective(x))


class Pairs:
    """The last steps s, the changes y of the gradient along them, and their inner products.

    In single precision, as they only have to lead downhill; and each divided by (|s| |y|)^1/2, which
    changes no direction and keeps their squares in its range.

    Parameters
    ----------
    size : int
        Number of variables.
    memory : int
        Pairs that are kept: the last ones.
    """

    def __init__(self, size: int, memory: int) -> None:
        self._memory = memory
        self._pairs = np.zeros((2 * memory, size), dtype=np.float32)  # all s, then all y
        self._sy, self._yy = np.zeros((memory, memory)), np.zeros((memory, memory))
        self._order = np.arange(0)  # of the places that are taken, oldest first

    def __len__(self) -> int:
        return self._order.size

    def clear(self) -> None:
        """Forget all pairs."""
        self._order = np.arange(0)

    def add(self, s: Array, y: Array) -> None:
        """Remember a pair, in place of the oldest if there is no other; only one with s . y > 0."""
        size = float(np.linalg.norm(s)) * float(np.linalg.norm(y))
        if not (size > 0.0 and s @ y > _CURVED * size):
            return
        at = len(self) if len(self) < self._memory else int(self._order[0])
        number = min(len(self) + 1, self._memory)
        self._order = np.arange(at + 1 - number, at + 1) % self._memory
        pair = self._pairs[at :: self._memory]
        pair[0], pair[1] = s / np.sqrt(size), y / np.sqrt(size)
        products = self._pairs @ pair.T
        with_s, with_y = products[:, 0], products[:, 1]
        self._sy[at], self._sy[:, at] = with_s[self._memory :], with_y[: self._memory]
        self._yy[at] = self._yy[:, at] = with_y[self._memory :]

    def restricted(self, variables: Mask) -> Pairs:
        """Return the pairs without the other variables; only those whose s . y stays positive."""
        pairs = self._pairs[:, variables]
        kept = Pairs(pairs.shape[1], self._memory)
        for at in self._order:
            kept.add(pairs[at], pairs[self._memory + at])
        return kept

    def direction(self, gradient: Array) -> Array:
        """Return -H g, with the inverse Hessian's approximation H of the pairs.

        With R the upper triangle of S Y^T, D its diagonal and gamma = s . y / y . y of the last pair,

            H = gamma I + [S^T, gamma Y^T] [R^-T (D + gamma Y Y^T) R^-1, -R^-T; -R^-1, 0] [S; gamma Y].
        """
        if not len(self):
            return -gradient
        of_s, of_y = self._order, self._memory + self._order
        sy, yy = (
            products.take(of_s, axis=0).take(of_s, axis=1) for products in (self._sy, self._yy)
        )
        gamma = sy[-1, -1] / yy[-1, -1]
        along = (self._pairs @ gradient.astype(np.float32)).astype(float)
        R = np.asfortranarray(sy)  # of which its upper triangle is read
        a, _ = dtrtrs(R, along[of_s])
        b, _ = dtrtrs(R, np.diagonal(sy) * a + gamma * (yy @ a - along[of_y]), trans=1)
        weights = np.zeros(len(self._pairs), dtype=np.float32)
        weights[of_s], weights[of_y] = -b, gamma * a
        return np.asarray(weights @ self._pairs - gamma * gradient)


def step(objective: Objective, point: Iterate, pairs: Pairs) -> Iterate | None:
    """Take a step of the method, and remember it; None where no step lowers the objective.

    The length is bracketed until both of Wolfe's conditions hold, which needs no smoothness (Lewis &
    Overton 2013); what is not finite counts as higher. Where the pairs lead nowhere, they are
    forgotten.
    """
    for _ in range(2):
        way = pairs.direction(point.gradient)
        slope = float(way @ point.gradient)
        if slope < 0.0:
            length = 1.0 if len(pairs) else 1.0 / np.sqrt(-slope)
            found = _search(objective, point, way, slope, length)
            if found is not None:
                pairs.add(found.x - point.x, found.gradient - point.gradient)
                return found
        if not len(pairs):
            break
        pairs.clear()
    return None


def _search(
    objective: Objective, point: Iterate, way: Array, slope: float, length: float
) -> Iterate | None:
    low, high, found = 0.0, np.inf, None
    for _ in range(_TRIALS):
        trial = Iterate.of(objective, point.x + length * way)
        if not trial.value <= point.value + _LOWER * length * slope:
            high = length
        else:
            found = trial
            if trial.gradient @ way >= _FLATTER * slope:
                break
            low = length
        length = 0.5 * (low + high) if high < np.inf else 2.0 * low
    return found
