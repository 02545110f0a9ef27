"""The cone of one activation pattern, K = {v : E X v >= 0} with E = 2 D - I, and projections on it.

The neurons that realise a pattern D = diag(mask) on the rows of X are exactly the vectors of K. Two
facts make projections on K the common currency of programs and certificates:

* the largest inner product of b with a vector of K of length 1 at most is ||Proj_K(b)||, zero if b is
  in the polar;
* Proj_K(b) = b + (E X)^T rho for the rho >= 0 of least ||b + (E X)^T rho|| (Moreau), so *every*
  rho >= 0 gives an upper bound on that inner product, however inexact the minimisation was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from convexgrade.pieces import chunks

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

# Rows with E x . p >= -(_MISPLACED |p| + _ROUNDING |b|), |x| = 1, count as inside: in thin cones, the
# projection p of b is many digits shorter than b, and a violation that b hides would still move it.
_MISPLACED = 1e-12
_ROUNDING = 4e-16
_DEPENDENT = 1e-14  # ridge of normal equations, whose diagonal is 1
_REFINEMENTS = 4  # of their solution, at most
_HALF = 1e-8  # response of tight rows, for a point of length 1, that one more leaves nothing of
_SHORTEST = 1e-14  # length that rounding leaves of projections 0, for a point of length 1, at most
_LARGEST = 1e150  # length whose square is a number
_ROUNDS = 10  # rounds in which constraints join projections, for each dimension, at most
_MANY = 16  # dimensions from which on several constraints join at a time
_SHARE = 4  # dimensions for each of the constraints that join at a time
_TOGETHER = 32  # points whose responses are formed at a time, at least
_IN_CACHE = 1 << 17  # responses that are formed at a time: what stays in a processor's cache


class Tight(NamedTuple):
    """The constraints that hold a projection back, for several cones: of E x . v >= 0, |x| = 1.

    Row g lists ``number[g]`` rows of X, and their multipliers, all positive; the rest is padding: row
    -1, with multiplier 0.
    """

    rows: Index  # (n_cones, d)
    rho: Array  # (n_cones, d)
    number: Index  # (n_cones,)

    @classmethod
    def none(cls, n_cones: int, d: int) -> Tight:
        """Return no constraints for each of some cones."""
        return cls(
            np.full((n_cones, d), -1),
            np.zeros((n_cones, d)),
            np.zeros(n_cones, dtype=np.intp),
        )

    @property
    def used(self) -> Mask:
        """Which entries are no padding."""
        return np.asarray(np.arange(self.rows.shape[1]) < self.number[:, None])

    def narrowed(self) -> Tight:
        """Return the same without the columns that are padding in every row."""
        width = int(self.number.max(initial=0))
        return Tight(self.rows[:, :width], self.rho[:, :width], self.number)

    def take(self, index: Index | Mask) -> Tight:
        """Return the constraints of the cones at ``index``."""
        return Tight(self.rows[index], self.rho[index], self.number[index])

    def fitted(self, width: int) -> Tight:
        """Return a copy with room for so many constraints of each cone, none of which has more."""
        copy = Tight.none(len(self.rows), width)
        fits = min(width, self.rows.shape[1])
        copy.put(slice(None), Tight(self.rows[:, :fits], self.rho[:, :fits], self.number))
        return copy

    def put(self, index: Index | Mask | slice, other: Tight) -> None:
        """Replace the constraints of the cones at ``index``, none of which had more than fit."""
        width = other.rows.shape[1]
        self.rows[index, :width], self.rho[index, :width] = other.rows, other.rho
        self.number[index] = other.number

    def replaced(self, index: Index | Mask, other: Tight) -> Tight:
        """Return a copy with the constraints of the cones at ``index`` replaced."""
        copy = Tight(self.rows.copy(), self.rho.copy(), self.number.copy())
        copy.put(index, other)
        return copy


@dataclass(frozen=True)
class Cones:
    """Many cones over the same rows, to project on all at once.

    Attributes
    ----------
    rows : ndarray of shape (n_samples, d)
        Rows of X, of unit length.
    signs : ndarray of int8, shape (n_cones, n_samples)
        The diagonal of E of each cone.
    """

    rows: Array
    signs: NDArray[np.int8]

    @classmethod
    def of(cls, X: Array, masks: Mask) -> Cones:
        """Return the cones of the columns of ``masks`` (n_samples, n_cones)."""
        norms = np.linalg.norm(X, axis=1)
        norms[norms == 0.0] = 1.0
        signs = np.where(np.ascontiguousarray(masks.T), np.int8(1), np.int8(-1))
        return cls(X / norms[:, None], signs)

    def normals(self, cone: Index, tight: Tight) -> Array:
        """Return the normals E x of tight constraints, zero where there is padding, (m, k, d).

        k is the largest number of constraints that any of the m cones has.
        """
        tight = tight.narrowed()
        signs = np.where(tight.used, self.signs[cone[:, None], tight.rows], 0)
        return np.asarray(self.rows[tight.rows] * signs[:, :, None])

    def project(
        self, cone: Index, points: Array, tight: Tight | None = None, *, enough: float = 0.0
    ) -> tuple[Array, Tight]:
        """Project points on cones, by non-negative least squares on few rows.

        Only about d of the rows touch a projection. Those that a trial point violates most join its
        tight ones until none is violated: the distance to the cone of the tight rows grows with every
        round, so the loop ends. What can be done for all points in one call is: the products that find
        the rows they violate, and the small systems of those at which no multiplier turns negative.
        The other points are left to the active set method of Lawson & Hanson (1974), one by one.

        Parameters
        ----------
        cone : ndarray of int, shape (m,)
            The cone of each point.
        points : ndarray of shape (m, d)
            Points.
        tight : Tight, optional
            Constraints to begin with, say those of a nearby point; they save most of the work.
        enough : float, default=0
            Leave a point as soon as its distance from the polar cone, the length of its projection,
            is known to be at most this, or not more than rounding.

        Returns
        -------
        projections : ndarray of shape (m, d)
            Exact up to rounding, unless left at ``enough``.
        tight : Tight
            ``points + (E X)^T rho`` are the projections, with rows of X of unit length.
        """
        d = points.shape[1]
        tight = Tight.none(*points.shape) if tight is None else tight
        few = min(d // _SHARE, len(self.rows)) if d >= _MANY else 1
        work = _Projections(self, cone, points, tight.fitted(d + few))
        work.settle(np.flatnonzero(tight.number > 0))
        rounding = _SHORTEST * np.linalg.norm(points, axis=1)
        shortest = np.maximum(min(enough, _LARGEST), rounding) ** 2
        todo: Index = np.arange(cone.size)
        for _ in range(_ROUNDS * d):  # rounding can add and drop for ever
            some = work.result[todo]
            todo = work.join(todo[np.vecdot(some, some) > shortest[todo]], few)
            if todo.size == 0:
                break
            todo = work.settle(todo) if few == 1 else work.settle_each(todo)
        return work.result, work.tight.fitted(d)

    def longest(
        self, cone: Index, points: Array, tight: Tight, number: int, enough: float
    ) -> tuple[Array, Tight]:
        """Return the lengths of projections, exact for the longest that exceed ``enough``.

        At least ``number`` of them. The others are bounded, by no more than the least of these: the
        longest points go first, and what falls short of so many projections need not be projected.
        Arguments and tight constraints are those of `project`.
        """
        lengths = np.linalg.norm(points, axis=1)
        order = np.argsort(-lengths, kind="stable")
        tight = tight.fitted(points.shape[1])
        for first in range(0, order.size, 2 * number):
            some = order[first : first + 2 * number]
            some = some[lengths[some] > enough]
            if some.size == 0:
                break
            projected, found = self.project(
                cone[some], points[some], tight.take(some), enough=enough
            )
            lengths[some] = np.linalg.norm(projected, axis=1)
            tight.put(some, found)
            seen = lengths[order[: first + 2 * number]]
            if seen.size >= number:
                enough = max(enough, float(np.partition(seen, -number)[-number]))
        return lengths, tight

    def responses(self, cone: Index, points: Array) -> Iterator[tuple[slice, Array]]:
        """Yield E x . v of all rows, for a few points at a time."""
        n = len(self.rows)
        for some in chunks(cone.size, n, most=max(_IN_CACHE, _TOGETHER * n)):
            response = points[some] @ self.rows.T
            response *= self.signs[cone[some]]
            yield some, response


class _Projections:
    """Projections under way: the constraints found tight so far, and the points these lead to."""

    def __init__(self, cones: Cones, cone: Index, points: Array, tight: Tight) -> None:
        self._cones, self._cone, self._points = cones, cone, points
        self._lengths = np.linalg.norm(points, axis=1)
        self.tight = tight._replace(rho=np.zeros_like(tight.rho))  # another point's
        self.result = np.array(points, dtype=float)

    def join(self, todo: Index, few: int) -> Index:
        """Let a few of the rows that each point violates most join; return the points with any."""
        joined = []
        for some, response in self._cones.responses(self._cone[todo], self.result[todo]):
            which = todo[some]
            # A row that is tight already is violated by rounding alone.
            known = self.tight.used[which]
            response[np.nonzero(known)[0], self.tight.rows[which][known]] = 0.0
            length = np.linalg.norm(self.result[which], axis=1)
            limit = -(_MISPLACED * length + _ROUNDING * self._lengths[which])
            outside = response.min(axis=1) < limit
            joined.append(which[outside])
            self._append(joined[-1], response[outside], limit[outside], few)
        return np.concatenate(joined) if joined else todo

    def _append(self, which: Index, response: Array, limit: Array, few: int) -> None:
        """Let the rows of least response join; where they are several, those below the limit."""
        if few == 1:
            self.tight.rows[which, self.tight.number[which]] = response.argmin(axis=1)
            self.tight.number[which] += 1
            return
        rows = np.argpartition(response, few - 1, axis=1)[:, :few]
        violated = np.take_along_axis(response, rows, axis=1) < limit[:, None]
        place, column = np.nonzero(violated)
        at = self.tight.number[which][:, None] + np.cumsum(violated, axis=1) - 1
        self.tight.rows[which[place], at[place, column]] = rows[place, column]
        self.tight.number[which] += violated.sum(axis=1)

    def settle(self, todo: Index) -> Index:
        """Settle points by their tight constraints; return those for which that went well.

        All at once, as if no multiplier were to turn negative, and where one does, one by one.
        """
        some = self.tight.take(todo).narrowed()
        rho, point = self._multipliers(todo, some)
        wrong = (some.used & (rho <= 0.0)).any(axis=1) | (some.number > self._points.shape[1])
        good = todo[~wrong]
        self.tight.rho[good, : rho.shape[1]] = rho[~wrong]
        self.result[good] = point[~wrong]
        return np.concatenate([good, self.settle_each(todo[wrong])])

    def settle_each(self, todo: Index) -> Index:
        """Settle points by non-negative least squares; return those for which that went well."""
        return np.array([g for g in todo if self._settle_one(g)], dtype=np.intp)

    def _settle_one(self, g: int) -> bool:
        rows, rho, number = self.tight.rows[g], self.tight.rho[g], self.tight.number[g]
        T = self._cones.rows[rows[:number]] * self._cones.signs[self._cone[g], rows[:number], None]
        least = _least(T, self._points[g])
        found = rho[:number] if least is None else least  # or the point stays where it was
        keep = np.flatnonzero(found)
        kept = slice(0, keep.size)
        rows[kept], rho[kept] = rows[keep], found[keep]
        rows[keep.size :], rho[keep.size :] = -1, 0.0
        self.tight.number[g] = keep.size
        self.result[g] = self._points[g] + rho[kept] @ T[keep]
        return least is not None

    def _multipliers(self, todo: Index, tight: Tight) -> tuple[Array, Array]:
        """Return the rho of any sign for which point + T^T rho is shortest, and that point.

        T are the normals of the tight constraints. Few of the d places for them are taken in many
        dimensions: the padding that all cones share stays out of the systems.
        """
        points = self._points[todo, :, None]
        T = self._cones.normals(self._cone[todo], tight)
        transposed = T.transpose(0, 2, 1)
        gram = T @ transposed
        np.einsum("gii->gi", gram)[...] += np.where(tight.used, _DEPENDENT, 1.0)
        inverse = np.linalg.inv(gram)
        rho, most = -(inverse @ (T @ points)), _HALF * self._lengths[todo, None]
        # For the digits that the normal equations lose: they can decide a sign.
        for _ in range(_REFINEMENTS):
            point = points + transposed @ rho
            left = T @ point
            rho -= inverse @ left
            if np.all(np.abs(left[:, :, 0]) <= most):
                break
        point = points + transposed @ rho
        return np.asarray(rho[:, :, 0]), np.asarray(point[:, :, 0])


def _least(T: Array, point: Array) -> Array | None:
    """Return the rho >= 0 of least ||point + T^T rho||.

    None if the search goes round in circles, or takes more rows than can be independent.
    """
    try:
        rho, _ = nnls(T.T, -point, maxiter=30 * len(T) + 100)
    except RuntimeError:
        return None
    return rho if np.count_nonzero(rho) <= T.shape[1] else None
