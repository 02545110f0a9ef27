"""Newton's method on the active groups, for programs without cones.

Where a vector is not zero its norm is smooth, and so is the objective. With u_g = v_g / ||v_g||,
Newton's method for the active v_g and c solves

    (A^T H A + alpha diag((I - u_g u_g^T) / ||v_g||, 0)) step = -(A^T grad F + alpha (u_g, 0)),

A being the columns D_g X of the active groups and Z, and H the Hessian of F. A vector that a step of
length t carries to the far side of zero, u_g . (v_g + t step_g) <= 0, becomes zero; a line search on the
objective chooses t. Short steps leave all vectors on their side, so that one is always found.

After some steps all groups are priced. Those at zero whose price ||b_g||, b = -A^T grad F, is above
alpha join, the highest first, along (1 - alpha / ||b_g||) b_g, in which the objective falls. The method
stops on the duality gap.

A system has as many columns as active groups have numbers. Where these become many more than a system
over the rows would have, the method leaves the rest to others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.dual import dual_point, lower_bound
from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status, status_of
from convexgrade.solvers._symmetric import solved
from convexgrade.solvers._systems import PatternGrams

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_ROUNDS = 60  # rounds of pricing, at most
_JOIN = 20  # groups that join in a round, at most, or as many as are active, if these are more
_INNER = 8  # Newton steps in a round, at most
_ENOUGH = 0.2  # gain of a Newton step, as a share of the gap, up to which it is the last of a round
_ARMIJO = 1e-4  # least gain of a step, relative to what its slope promises
_WHOLE = 0.1  # gain, relative to what its slope promises, at which a whole step is taken as it is
_TRIALS = 40  # lengths of a step that are tried, by halves
_ROUNDING = 1e-15  # rise of the objective, relative to `Program.null_loss`, that is none
_PATIENCE = 8  # rounds without half the gap after which the method gives up
_RIDGE = 1e-10  # ridge, relative to the diagonal, for groups that can stand in for each other
_BEYOND = 1e-9  # excess, relative to the way there, of a step with which a vector reaches zero
_COLUMNS = 1250  # most columns of a system that has more columns than rows
_ANY = 200  # columns that a system may have, however few its rows
_A_ROW = 1.6  # most columns for each row of a system that has more columns than `_ANY`
_DIMENSIONS = 20  # columns of X up to which the method suits, however many groups there are
_EVERY = 2500  # columns of all groups, if no more than rows, with which it suits in any dimension


class _Point(NamedTuple):
    """A point of the program, its prediction, and its objective."""

    v: Array  # (n_groups, d)
    c: Array  # (q, n_outputs)
    f: Array  # (n_samples, n_outputs)
    objective: float

    @property
    def active(self) -> Index:
        """Groups whose vectors are not zero."""
        return np.flatnonzero(self.v.any(axis=1))


class _Step(NamedTuple):
    """A direction in which the objective falls, in the vectors of some groups and in c."""

    groups: Index
    v: Array  # (m, d)
    c: Array
    side: Array  # (m, d): vectors v_g stay where side_g . v_g > 0
    slope: float


class _Pricing(NamedTuple):
    """What a point is worth: b_g of all groups, and the gap relative to `Program.null_loss`."""

    b: Array
    gap: float


@dataclass(frozen=True)
class _Setup:
    """The whole program, and what does not change from step to step."""

    program: Program
    null_loss: float  # the unit of accuracy
    grams: dict[int, PatternGrams] = field(default_factory=dict)  # of each output

    @classmethod
    def of(cls, program: Program) -> _Setup:
        """Collect them."""
        return cls(program, program.null_loss)

    def begin(self, start: Start | None) -> _Point:
        """Return the point to start from."""
        if start is None:
            v = np.zeros((len(self.program.groups), self.program.X.shape[1]))
            return self.at(v, self.program.null_coefficients)
        return self.at(start.blocks, start.unpenalised)

    def at(self, v: Array, c: Array) -> _Point:
        """Return a point with its prediction."""
        active = np.flatnonzero(v.any(axis=1))
        f = self.program.take(active).predict(v[active], c)
        return _Point(v, c, f, self.program.mean_loss(f) + self.program.penalty(v))

    def price(self, point: _Point) -> _Pricing:
        """Price all groups, and bound how far the point is from optimal."""
        dual = dual_point(self.program, point.f)
        b = self.program.adjoint(dual.theta)
        bound = lower_bound(self.program, dual.q, self.program.largest_dual_norm(b))
        gap = (point.objective - bound) / self.null_loss
        return _Pricing(b, gap if np.isfinite(gap) else np.inf)

    def joining(self, point: _Point, b: Array) -> _Step | None:
        """Return the step in which groups of the highest prices leave zero; None if there are none."""
        p, active = self.program, point.active
        prices = np.linalg.norm(b, axis=1)
        prices[active] = 0.0
        above = np.flatnonzero(prices > p.alpha)
        above = above[np.argsort(-prices[above], kind="stable")[: max(_JOIN, active.size)]]
        v = (1.0 - p.alpha / prices[above])[:, None] * b[above]
        change = self.program.take(above).predict(v, np.zeros_like(point.c)) - p.offset
        slope = float(np.vdot(self.program.mean_loss.gradient(point.f), change)) + p.penalty(v)
        bend = float(np.vdot(change, p.mean_loss.hessian(point.f).times(change)))
        if not (slope < 0.0 < bend):
            return None
        v *= -slope / bend
        return _Step(above, v, np.zeros_like(point.c), v, slope * -slope / bend)

    def newton(self, point: _Point) -> _Step:
        """Return the Newton step of all active groups and c."""
        p, active = self.program, point.active
        some, v = self.program.take(active), point.v[active]
        size = np.linalg.norm(v, axis=1)
        side = v / size[:, None]
        gradient = self.program.mean_loss.gradient(point.f)
        slope_v = some.adjoint(gradient) + p.alpha * side
        slope_c = p.Z.T @ gradient
        bent = (p.alpha / size)[:, None, None] * (
            np.eye(v.shape[1]) - side[:, :, None] * side[:, None, :]
        )
        curvature = p.mean_loss.hessian(point.f).D
        step_v, step_c = np.zeros_like(v), np.zeros_like(point.c)
        for k in range(p.n_outputs):
            own = np.flatnonzero(some.groups.output == k)
            matrix = self._gram(k, curvature[:, k], some.groups.pattern[own])
            place = len(point.c) + np.arange(v[own].size).reshape(v[own].shape)
            matrix[place[:, :, None], place[:, None, :]] += bent[own]
            right = np.concatenate([slope_c[:, k], slope_v[own].ravel()])
            np.einsum("ii->i", matrix)[...] *= 1.0 + _RIDGE
            step = -solved(matrix, right)
            step_c[:, k], step_v[own] = step[: len(point.c)], step[place]
        slope = float(np.vdot(slope_v, step_v)) + float(np.vdot(slope_c, step_c))
        return _Step(active, step_v, step_c, side, slope)

    def _gram(self, k: int, curvature: Array, patterns: Index) -> Array:
        """Return A^T H A of one output, over [Z, D_p X for p in patterns]."""
        p, grams = self.program, self.grams.get(k)
        if grams is None or not np.array_equal(grams.curvature, curvature):
            self.grams[k] = grams = PatternGrams(p.X, p.Z, p.patterns.masks, curvature)
        found = grams.at(patterns)
        if found is None:
            raise np.linalg.LinAlgError("too many patterns")
        return found

    def along(
        self, point: _Point, step: _Step, *, least: float = _ARMIJO, trials: int = _TRIALS
    ) -> _Point | None:
        """Return the first point along a step that is lower; None if there is none.

        Lengths are tried by halves, but for the one at which the first vector reaches zero.
        """
        length, noise = 1.0, _ROUNDING * self.null_loss
        ahead = np.vecdot(step.side, step.v)
        there = -np.vecdot(step.side, point.v[step.groups]) / ahead
        first = (1.0 + _BEYOND) * float(there[ahead < 0.0].min(initial=np.inf))
        for _ in range(trials):
            v, c = point.v.copy(), point.c + length * step.c
            v[step.groups] += length * step.v
            gone = np.vecdot(step.side, v[step.groups]) <= 0.0
            v[step.groups[gone]] = 0.0
            trial = self.at(v, c)
            if trial.objective <= point.objective + least * length * step.slope + noise:
                return trial
            length = first if 0.5 * length < first < length else 0.5 * length
        return None

    def lowered(self, point: _Point, pricing: _Pricing) -> _Point:
        """Let groups join, and take Newton steps until they gain little of the gap."""
        joining = self.joining(point, pricing.b)
        if joining is not None:
            point = self.along(point, joining) or point
        for _ in range(_INNER):
            if self.too_large(point):
                break
            step = self.newton(point)
            found = self.after(point, step)
            if found is None:
                break
            little = -step.slope / self.null_loss <= _ENOUGH * pricing.gap
            settled = found.active.size == point.active.size
            point = found
            if little and settled:
                break
        return point

    def after(self, point: _Point, step: _Step) -> _Point | None:
        """Return a lower point by way of a Newton step; None if there is none.

        After the whole step, or without the groups that it carries past zero, or after a part of it.
        """
        if not step.slope < 0.0:
            return None
        whole = self.along(point, step, least=_WHOLE, trials=1)
        return whole or self.without(point, step) or self.along(point, step)

    def without(self, point: _Point, step: _Step) -> _Point | None:
        """Return the point after a step of those groups alone that a step does not carry past zero.

        Those that joined in a wrong direction would hold all others back. None if none are carried
        past zero, or if the objective is not lower without them.
        """
        lost = np.vecdot(step.side, point.v[step.groups] + step.v) <= 0.0
        if not lost.any():
            return None
        v = point.v.copy()
        v[step.groups[lost]] = 0.0
        left = self.at(v, point.c)
        found = self.along(left, self.newton(left))
        return found if found and found.objective < point.objective else None

    def too_large(self, point: _Point) -> bool:
        """Return whether a system over the active groups is one for other methods."""
        rows = len(self.program.X) * self.program.n_outputs
        columns = point.active.size * self.program.X.shape[1]
        return columns > max(rows, min(_COLUMNS, max(_ANY, _A_ROW * rows)))


def suits(program: Program) -> bool:
    """Return whether a program is one for this method: no cones, signs, kinks or coupled outputs.

    And of few columns, or of few variables in all: where groups have many numbers, a few of them make
    systems too large.
    """
    loss = program.loss
    if program.cones or loss.kinked or loss.coupled or (program.groups.sign < 0.0).any():
        return False
    n, d = program.X.shape
    return d <= _DIMENSIONS or d * len(program.groups) <= min(_EVERY, n * program.n_outputs)


def solve(
    program: Program, *, start: Start | None = None, tol: float = 1e-9, max_iter: int = _ROUNDS
) -> Solution:
    """Solve a program that `suits`.

    Parameters
    ----------
    program : Program
        The program of a grade, with at least one group.
    start : Start, optional
        A point near the optimum.
    tol : float, default=1e-9
        Largest duality gap, relative to the loss of the grade without neurons.
    max_iter : int, default=60
        Limit of rounds of pricing.

    Returns
    -------
    Solution
        The best point met. Status ``INACCURATE`` where systems became too large, or the gap no longer
        fell; ``FAILED`` if nothing finite was met; never an exception for a numerical failure.
    """
    with np.errstate(all="ignore"):  # what is not finite compares false
        return _follow(_Setup.of(program), start, tol, max_iter)


class _Best(NamedTuple):
    """The point of the smallest gap so far, and how long half of an earlier gap has been waited for."""

    point: _Point
    gap: float
    mark: float  # the gap when waiting began: half of it ends the wait
    waited: int  # rounds since then

    def updated(self, point: _Point, gap: float) -> _Best:
        """Return the best point after another round."""
        halved = gap < 0.5 * self.mark
        mark, waited = (gap, 0) if halved else (self.mark, self.waited + 1)
        point, gap = (point, gap) if gap < self.gap else (self.point, self.gap)
        return _Best(point, gap, mark, waited)


def _follow(setup: _Setup, start: Start | None, tol: float, max_iter: int) -> Solution:
    """Price and lower a point in turn, until the gap is small or nothing is gained any more."""
    point, step, otherwise = setup.begin(start), 0, Status.INACCURATE
    best = _Best(point, np.inf, np.inf, 0)
    while step < max_iter:
        step += 1
        try:
            pricing = setup.price(point)
            best = best.updated(point, pricing.gap)
            if best.gap <= tol or best.waited >= _PATIENCE or setup.too_large(point):
                break
            point = setup.lowered(point, pricing)
        except np.linalg.LinAlgError:
            break
    else:
        otherwise = Status.ITERATION_LIMIT
    status = status_of(best.gap, tol, otherwise)
    return Solution(best.point.v, best.point.c, None, status, step, best.gap)
