"""Programs of one feature over all patterns, under the squared error: a spline, in linear time.

On a line, a ReLU neuron is a kink: u = w (1, -t) and its mirror image w (-1, t) bend the output at t by
w, and cost |w| sqrt(1 + t^2). A sum of them is an affine function plus a piecewise linear one with kinks
s_j at t_j. With kinks at the distinct rows z_j alone (two kinks there that share an interval cost more
than one between them: by a factor of 1 + the squared distance of the rows / 8 at most), f = f(z) and
s = D f with D the second divided differences, the grade is

    minimise   sum_j W_j (f_j - g_j)^2 / 2 + sum_j lambda_j |s_j|,    lambda_j = alpha sqrt(1 + z_j^2)

(g the mean target and W the weight of the rows at z_j): trend filtering with weights, or the locally
adaptive regression spline of Mammen & van de Geer (1997). With s = p - q, p, q >= 0, and multipliers nu
of D f = s, |nu| <= lambda, an interior point method needs systems W + D^T C D with diagonal C: five
bands (Kim, Koh, Boyd & Gorinevsky 2009).

The affine part: the intercept is free; a slope beta at the left end comes from making some of the
neurons look left, sum of s over these = -beta, at no cost. If there are not enough kinks for that, the
slope has a cost that the program above leaves out, and this solver gives up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, solveh_banded

from convexgrade.groups import Groups
from convexgrade.program import Program
from convexgrade.solution import Solution, Status

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_STEPS = 100  # interior point steps, at most
_GAP = 1e-10  # gap, relative to the objective, at which the interior point method stops
_INSIDE = 0.99  # share of the way to the boundary that a step goes
_POLISHES = 20  # times that kinks of the wrong sign are dropped, at most


class Rows(NamedTuple):
    """The distinct rows of a line, ascending, their total weight and mean target."""

    z: Array
    weight: Array
    target: Array


class Kinks(NamedTuple):
    """A piecewise linear function: kinks ``s`` at rows ``at``, value and slope at the left end."""

    at: Index
    s: Array
    value: float
    slope: float


def suits(program: Program) -> bool:
    """Return whether a program is one that `solve` is made for."""
    p = program
    return (
        p.X.shape[1] == 2
        and p.cones
        and p.loss.quadratic
        and p.patterns.exhaustive
        and 1 in p.free
        and bool(p.X[:, 1].all())  # kinks need biases
        and len(p.groups) == len(p.every_group(p.patterns))
        and np.unique(p.X[:, 0]).size >= 3
    )


def solve(program: Program) -> Solution:
    """Solve a program of one feature over all its patterns.

    Returns
    -------
    Solution
        With status ``FAILED`` where a slope has a cost, which this method leaves out.
    """
    p = program
    z, row = np.unique(p.X[:, 0], return_inverse=True)
    weight = np.bincount(row, p.weights).astype(np.float64)
    blocks = np.zeros((len(p.groups), 2))
    unpenalised = np.zeros((p.free.size, p.n_outputs))
    status, steps = Status.OPTIMAL, 0
    for k in range(p.n_outputs):
        left = (p.y - p.offset)[:, k]
        rows = Rows(z, weight, np.bincount(row, p.weights * left) / weight)
        kinks, taken = _spline(rows, p.alpha * np.sqrt(1.0 + z[1:-1] ** 2))
        steps = max(steps, taken)
        free_slope = kinks.slope if 0 in p.free else 0.0
        turned = _turned(kinks, kinks.slope - free_slope)
        if turned is None:
            status = Status.FAILED
            break
        value = kinks.value - free_slope * z[0] - turned @ (z[kinks.at] - z[0])
        unpenalised[p.free == 0, k] = free_slope
        unpenalised[p.free == 1, k] = value
        _place(p, k, z, kinks, turned, blocks)
    return Solution(blocks, unpenalised, None, status, steps)


def _spline(rows: Rows, cost: Array) -> tuple[Kinks, int]:
    """Minimise the squared error plus the cost of kinks at the rows in between."""
    band = _Bands.of(rows)
    s, active, steps = _interior_point(rows, band, cost)
    sign = np.sign(s)
    for _ in range(_POLISHES):
        at = 1 + np.flatnonzero(active)
        kinks = _stationary(rows, at, cost[active] * sign[active])
        wrong = kinks.s * sign[active] <= 0.0
        if not wrong.any():
            break
        active[at[wrong] - 1] = False
    return kinks, steps


class _Bands(NamedTuple):
    """D, row by row: its entries in three neighbouring columns, shape (m - 2,) each."""

    before: Array
    here: Array
    after: Array

    @classmethod
    def of(cls, rows: Rows) -> _Bands:
        inverse = 1.0 / np.diff(rows.z)
        return cls(inverse[:-1], -inverse[:-1] - inverse[1:], inverse[1:])

    def times(self, f: Array) -> Array:
        return self.before * f[:-2] + self.here * f[1:-1] + self.after * f[2:]

    def transposed(self, nu: Array) -> Array:
        f = np.zeros(nu.size + 2)
        f[:-2] += self.before * nu
        f[1:-1] += self.here * nu
        f[2:] += self.after * nu
        return f

    def system(self, weight: Array, c: Array) -> Array:
        """Return W + D^T diag(c) D by its upper bands."""
        bands = np.zeros((3, weight.size))
        bands[2] = weight
        bands[2, :-2] += c * self.before**2
        bands[2, 1:-1] += c * self.here**2
        bands[2, 2:] += c * self.after**2
        bands[1, 1:-1] += c * self.before * self.here
        bands[1, 2:] += c * self.here * self.after
        bands[0, 2:] = c * self.before * self.after
        return bands


class _Point(NamedTuple):
    """f, the parts p and q of its kinks, and the multipliers of both: a = cost - nu, b = cost + nu.

    Also a direction: changes of all of them.
    """

    f: Array
    nu: Array
    p: Array
    q: Array
    a: Array
    b: Array

    def moved(self, step: float, direction: _Point) -> _Point:
        return _Point(*(x + step * dx for x, dx in zip(self, direction, strict=True)))

    @property
    def gap(self) -> float:
        return float(self.p @ self.a + self.q @ self.b)


class _Newton(NamedTuple):
    """The Newton system of the conditions p a = mu = q b, feasibility and stationarity at a point."""

    rows: Rows
    band: _Bands
    at: _Point
    c: Array
    bands: Array

    @classmethod
    def of(cls, rows: Rows, band: _Bands, at: _Point) -> _Newton:
        c = 1.0 / (at.p / at.a + at.q / at.b)
        return cls(rows, band, at, c, band.system(rows.weight, c))

    def direction(self, pa: Array, qb: Array) -> _Point:
        """Return the direction that takes products p a and q b down by these, to first order."""
        _, nu, p, q, a, b = at = self.at
        h = p - q - self.band.times(at.f) - pa / a + qb / b
        slope = self.rows.weight * (at.f - self.rows.target) + self.band.transposed(nu)
        right = self.band.transposed(self.c * h) - slope
        df = solveh_banded(self.bands, right, check_finite=False)
        dnu = self.c * (self.band.times(df) - h)
        return _Point(df, dnu, (p * dnu - pa) / a, (-q * dnu - qb) / b, -dnu, dnu)


def _interior_point(rows: Rows, band: _Bands, cost: Array) -> tuple[Array, NDArray[np.bool_], int]:
    """Return kinks, which of them are not zero, and the number of steps of Mehrotra's method.

    The target itself, with nu = 0, is a point at which primal and dual are feasible.
    """
    s = band.times(rows.target)
    spread = 0.1 * np.mean(np.abs(s)) + 1e-300
    p, q = np.maximum(s, 0.0) + spread, np.maximum(-s, 0.0) + spread
    point = _Point(rows.target, np.zeros_like(s), p, q, cost, cost)
    steps = 0
    while steps < _STEPS:
        _, _, p, q, a, b = point
        loss = 0.5 * rows.weight @ (point.f - rows.target) ** 2
        if point.gap <= _GAP * (loss + cost @ np.abs(p - q)):
            break
        try:
            newton = _Newton.of(rows, band, point)
            trial = newton.direction(p * a, q * b)
            after = point.moved(_step(point, trial), trial).gap
            mu = (after / point.gap) ** 3 * point.gap / (2 * cost.size)
            final = newton.direction(p * a + trial.p * trial.a - mu, q * b + trial.q * trial.b - mu)
        except LinAlgError:
            break
        point = point.moved(_INSIDE * _step(point, final), final)
        steps += 1
    _, _, p, q, a, b = point
    active = np.maximum(p, q) * cost > np.where(p > q, a, b) * np.mean(np.abs(p - q))
    return p - q, active, steps


def _step(point: _Point, direction: _Point) -> float:
    """Return the longest step, at most 1 / `_INSIDE`, that keeps p, q, a and b non-negative."""
    worst = max(float(np.max(-dx / x)) for x, dx in zip(point[2:], direction[2:], strict=True))
    return min(1.0 / _INSIDE, 1.0 / max(worst, 1e-300))


def _stationary(rows: Rows, at: Index, slope: Array) -> Kinks:
    """Minimise the squared error plus ``slope @ s`` over functions with kinks at the rows ``at``.

    In their values at the kinks and the ends, the system has three bands.
    """
    z, weight, target = rows
    knot = np.concatenate([[0], at, [z.size - 1]])
    left = np.clip(np.searchsorted(knot, np.arange(z.size), side="right") - 1, 0, knot.size - 2)
    share = (z - z[knot[left]]) / (z[knot[left + 1]] - z[knot[left]])
    n = knot.size
    bands = np.zeros((2, n))
    bands[1] = np.bincount(left, weight * (1 - share) ** 2, n)
    bands[1] += np.bincount(left + 1, weight * share**2, n)
    bands[0] = np.bincount(left + 1, weight * share * (1 - share), n)
    right = np.bincount(left, weight * (1 - share) * target, n)
    right += np.bincount(left + 1, weight * share * target, n)
    band = _Bands.of(Rows(z[knot], weight, target))
    values = solveh_banded(bands, right - band.transposed(slope))
    first = (values[1] - values[0]) / (z[knot[1]] - z[knot[0]])
    return Kinks(at, band.times(values), float(values[0]), float(first))


def _turned(kinks: Kinks, slope: float) -> Array | None:
    """Return the part of each kink made by a neuron that looks left; None if there are too few.

    They have to sum to minus a slope at the left end: the largest kinks of that sign, whole but for
    the last.
    """
    wanted, size = abs(slope), np.abs(kinks.s)
    fitting = np.flatnonzero(kinks.s * np.sign(slope) < 0.0)
    fitting = fitting[np.argsort(-size[fitting], kind="stable")]
    before = np.concatenate([[0.0], np.cumsum(size[fitting])])
    if before[-1] < wanted:
        return None
    share = np.zeros(kinks.s.size)
    share[fitting] = np.clip((wanted - before[:-1]) / size[fitting], 0.0, 1.0)
    return share * kinks.s


def _place(
    program: Program, output: int, z: Array, kinks: Kinks, turned: Array, blocks: Array
) -> None:
    """Add the neurons of some kinks to the blocks of their groups."""
    p = program
    first = np.unique(p.X[:, 0], return_index=True)[1]
    masks = p.patterns.masks[first]
    n_active, right = masks.sum(axis=0), masks[-1] & ~masks[0]
    for part, looks_right in ((kinks.s - turned, True), (turned, False)):
        used = np.flatnonzero(part != 0.0)
        pattern_of = np.full(z.size + 1, -1)
        listed = np.flatnonzero(right if looks_right else masks[0] & ~masks[-1])
        pattern_of[n_active[listed]] = listed
        at = kinks.at[used]
        pattern = pattern_of[z.size - 1 - at if looks_right else at + 1]
        group = p.groups.locate(
            Groups(pattern, np.sign(part[used]), np.full(used.size, output, dtype=np.intp))
        )
        w = np.abs(part[used]) * (1.0 if looks_right else -1.0)
        np.add.at(blocks, group, np.column_stack([w, -w * z[at]]))
