"""The cone of one activation pattern, K = {v : E X v >= 0} with E = 2 D - I, and projections on it.

The neurons that realise a pattern D = diag(mask) on the rows of X are exactly the vectors of K. Two
facts make projections on K the common currency of programs and certificates:

* the largest inner product of b with a unit vector of K is ||Proj_K(b)||, zero if b is in the polar;
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

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

_FEASIBLE = 1e-13  # E X p >= -_FEASIBLE * |x_i| * |b| counts as inside: a few roundings of x . p
_MISPLACED = 1e-12  # the same for projections on many cones: E x . p >= -_MISPLACED * |b|, |x| = 1
_DEPENDENT = 1e-14  # ridge of their normal equations, whose diagonal is 1
_ADDITIONS = 10  # rounds in which constraints join projections, for each dimension
_POOLS = 60  # pools of constraints at most, before all rows are looked at for one after the other
_ALIKE = 0.9  # cosine from which two constraints of a pool do not join together
_AT_ONCE = 8  # constraints of one pool that join at a time
_MANY = 8  # rows for each of a pool, from which on constraints are sought in pools,
_POOLED = 1 << 22  # of so many floats in all
_IN_CACHE = 1 << 17  # floats that stay in a processor's cache


class Projection(NamedTuple):
    """Point ``b + (E X)^T rho`` with ``rho >= 0``: rows where rho > 0, and rho there."""

    point: Array
    rows: Index
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

    def put(self, index: Index | Mask, other: Tight) -> None:
        """Replace the constraints of the cones at ``index``, none of which had more than fit."""
        width = other.rows.shape[1]
        self.rows[index, :width], self.rho[index, :width] = other.rows, other.rho
        self.number[index] = other.number

    def replaced(self, index: Index | Mask, other: Tight) -> Tight:
        """Return a copy with the constraints of the cones at ``index`` replaced."""
        copy = Tight(self.rows.copy(), self.rho.copy(), self.number.copy())
        copy.put(index, other)
        return copy

    def keep(self, which: Mask, rho: Array) -> Tight:
        """Return the constraints marked in ``which``, with other multipliers."""
        which = which & self.used
        order = np.argsort(~which, axis=1, kind="stable")
        return Tight(
            np.take_along_axis(np.where(which, self.rows, -1), order, axis=1),
            np.take_along_axis(np.where(which, rho, 0.0), order, axis=1),
            which.sum(axis=1),
        )


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
        self, cone: Index, points: Array, tight: Tight, *, enough: float = 0.0
    ) -> tuple[Array, Tight]:
        """Project points on cones, all at once, by the active set method of Lawson & Hanson (1974).

        Parameters
        ----------
        cone : ndarray of int, shape (m,)
            The cone of each point.
        points : ndarray of shape (m, d)
            Points.
        tight : Tight
            Constraints to begin with, say those of a nearby point; they save most of the work.
        enough : float, default=0
            Leave a point as soon as its distance from the polar cone, the length of its projection,
            is known to be at most this.

        Returns
        -------
        projections : ndarray of shape (m, d)
            Exact up to rounding, unless left at ``enough``.
        tight : Tight
            ``points + (E X)^T rho`` are the projections.
        """
        d = points.shape[1]
        work = _Projections(self, cone, points, tight, enough)
        work.drop(np.flatnonzero(tight.number > 0))  # another point's: no place to walk from
        todo: Index = np.arange(cone.size)
        size = min(2 * d, _POOLED // max(1, points.size))
        few = min(_AT_ONCE, d // 8, size)
        left = todo if few > 1 and len(self.rows) >= _MANY * size else todo[:0]
        for _ in range(_POOLS):
            if left.size == 0:
                break
            left = work.add(left, _Pool.of(self, cone[left], work.result[left], size, few))
        work.add(todo, _EveryRow(self, cone))
        return work.result, work.tight

    def most_violated(self, cone: Index, points: Array) -> tuple[Index, Array]:
        """Return for each point the row it violates most, and E x . v there."""
        row, slack = np.zeros(cone.size, dtype=np.intp), np.zeros(cone.size)
        for some, response in self._responses(cone, points):
            row[some] = response.argmin(axis=1)
            slack[some] = response[np.arange(len(response)), row[some]]
        return row, slack

    def worst(self, cone: Index, points: Array, size: int) -> Index:
        """Return for each point the rows it violates most, in any order, (m, size)."""
        worst = np.empty((cone.size, size), dtype=np.intp)
        for some, response in self._responses(cone, points):
            worst[some] = np.argpartition(response, size - 1, axis=1)[:, :size]
        return worst

    def _responses(self, cone: Index, points: Array) -> Iterator[tuple[slice, Array]]:
        """Yield E x . v of all rows, for so few points at a time that it stays in the cache."""
        step = max(1, _IN_CACHE // len(self.rows))  # beyond, memory is the bottleneck
        for first in range(0, cone.size, step):
            some = slice(first, first + step)
            response = points[some] @ self.rows.T
            response *= self.signs[cone[some]]
            yield some, response


class _EveryRow(NamedTuple):
    """All rows as candidates of constraints that a projection violates."""

    cones: Cones
    cone: Index

    def most_violated(self, place: Index, points: Array) -> tuple[Index, Array]:
        """Return the row most violated by each of some points, and by how much, (m, 1)."""
        row, slack = self.cones.most_violated(self.cone[place], points)
        return row[:, None], slack[:, None]


class _Pool(NamedTuple):
    """A few candidates for each point: the rows it has violated most, while others join."""

    rows: Index  # (m, size)
    normals: Array  # (m, size, d)
    few: int  # how many it names at a time

    @classmethod
    def of(cls, cones: Cones, cone: Index, points: Array, size: int, few: int) -> _Pool:
        """Return the pools of some points."""
        rows = cones.worst(cone, points, size)
        return cls(rows, cones.rows[rows] * cones.signs[cone[:, None], rows][:, :, None], few)

    def most_violated(self, place: Index, points: Array) -> tuple[Index, Array]:
        """Return the rows most violated by each of some points, worst first, (m, few)."""
        slack = (self.normals[place] @ points[:, :, None])[:, :, 0]
        worst = np.argpartition(slack, self.few - 1, axis=1)[:, : self.few]
        worst = np.take_along_axis(
            worst, np.take_along_axis(slack, worst, axis=1).argsort(axis=1), axis=1
        )
        rows = np.take_along_axis(self.rows[place], worst, axis=1)
        slack = np.take_along_axis(slack, worst, axis=1)
        normals = self.normals[place[:, None], worst]
        alike = np.tril(normals @ normals.transpose(0, 2, 1) > _ALIKE, k=-1).any(axis=2)
        return rows, np.where(alike, np.inf, slack)


class _Left(NamedTuple):
    """Points with negative multipliers: their places, tight constraints, and those multipliers."""

    place: Index
    tight: Tight
    rho: Array


class _Projections:
    """Projections under way: the constraints found tight so far, and the points these lead to."""

    def __init__(
        self, cones: Cones, cone: Index, points: Array, tight: Tight, enough: float
    ) -> None:
        self._cones, self._cone, self._points = cones, cone, points
        self._limit = -_MISPLACED * np.linalg.norm(points, axis=1)
        self._enough = enough
        self.tight = Tight(tight.rows.copy(), tight.rho.copy(), tight.number.copy())
        self.result = np.array(points, dtype=float)

    def add(self, todo: Index, candidates: _EveryRow | _Pool) -> Index:
        """Add the rows most violated until no candidate is; return the points that have got any."""
        place, added = np.arange(todo.size), np.zeros(todo.size, dtype=bool)
        for _ in range(_ADDITIONS * self._points.shape[1]):  # rounding can add and drop for ever
            some = self.result[todo[place]]
            place = place[np.einsum("gi,gi->g", some, some) > self._enough**2]
            rows, slack = candidates.most_violated(place, self.result[todo[place]])
            joined = np.zeros(place.size, dtype=bool)
            for row, value in zip(rows.T, slack.T, strict=True):
                joined |= self._join(todo[place], row, value)
            place = place[joined]
            if place.size == 0:
                break
            added[place] = True
            self.walk(self.leap(todo[place]) if rows.shape[1] > 1 else todo[place])
        return todo[added]

    def _join(self, which: Index, row: Index, slack: Array) -> Mask:
        """Let a row join the tight ones of each point that violates it and has room."""
        room = self.tight.number[which] < self._points.shape[1]
        # A row that is tight already is violated by rounding alone.
        known = (self.tight.rows[which] == row[:, None]).any(axis=1)
        new = (slack < self._limit[which]) & room & ~known
        which, row = which[new], row[new]
        self.tight.rows[which, self.tight.number[which]] = row
        self.tight.number[which] += 1
        return np.asarray(new)

    def leap(self, todo: Index) -> Index:
        """Settle points at which several constraints have joined; return those for which it fails.

        All constraints whose multipliers turn out negative go at once: in few systems that mostly
        leads to a shorter point than before. Where it does not, nothing says that such steps end:
        these points get back what they had, from where `walk` goes on.
        """
        before, length = self.tight.take(todo), np.linalg.norm(self.result[todo], axis=1)
        self.drop(todo)
        failed = np.linalg.norm(self.result[todo], axis=1) >= length
        self.tight.put(todo[failed], before.take(failed))
        return todo[failed]

    def drop(self, todo: Index) -> None:
        """Settle points after dropping all constraints with negative multipliers, again and again."""
        left = self._solve(todo)
        while left is not None:
            self.tight.put(left.place, left.tight.keep(left.rho > 0.0, left.rho))
            left = self._solve(left.place)

    def walk(self, todo: Index) -> None:
        """Settle points by a walk from their multipliers; constraints where these reach zero go."""
        left = self._solve(todo)
        while left is not None:
            start, fall = left.tight.rho, left.tight.rho - left.rho
            negative = left.tight.used & (left.rho <= 0.0)
            way = np.divide(start, fall, out=np.ones_like(fall), where=negative & (fall > 0.0))
            way[negative & (fall <= 0.0)] = 0.0
            way[~negative] = np.inf
            length = way.min(axis=1, keepdims=True)
            self.tight.put(left.place, left.tight.keep(way > length, start - length * fall))
            left = self._solve(left.place)

    def _solve(self, todo: Index) -> _Left | None:
        """Settle the points whose multipliers are all positive; return the others, if any."""
        if todo.size == 0:
            return None
        some = self.tight.take(todo).narrowed()
        rho, point = self._multipliers(todo, some)
        wrong = np.asarray((some.used & (rho <= 0.0)).any(axis=1))
        good = ~wrong
        self.tight.rho[todo[good], : rho.shape[1]] = rho[good]
        self.result[todo[good]] = point[good]
        return _Left(todo[wrong], some.take(wrong), rho[wrong]) if wrong.any() else None

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
        rho = -np.linalg.solve(gram, T @ points)
        # Once more, for the digits that the normal equations lose: they can decide a sign.
        rho -= np.linalg.solve(gram, T @ (points + transposed @ rho))
        point = points + transposed @ rho
        return np.asarray(rho[:, :, 0]), np.asarray(point[:, :, 0])
