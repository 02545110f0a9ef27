"""A proximal point method for the program of a grade, by semismooth Newton steps in the predictions.

Each step of the proximal point method (Rockafellar 1976) moves from v to the minimiser of

    F(o + A x + Z c') + alpha sum_g ||x_g|| + |x - v|^2 / (2 sigma) + |c' - c|^2 / (2 tau)

over all x_g in K_g and c'. With theta = -grad F(f) at the prediction f and b_g = s_g X^T D_g theta,
its solution has

    p_g = Proj_{K_g}(v_g / sigma + b_g),
    x_g = sigma (1 - alpha / ||p_g||)_+ p_g,        c' = c + tau Z^T theta,

so that all is said by n equations in f alone, R(f) = f - o - A x - Z c' = 0. Newton's method solves them
(`_proximal`). sigma grows from step to step, and the steps converge the faster.

Few groups are ever active. The steps see a working set of them; after each step every group is priced,
exactly, and those that violate the dual constraint join. The method stops on the duality gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from convexgrade.cones import Cones, Tight
from convexgrade.dual import lower_bound
from convexgrade.losses import Loss
from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status, status_of
from convexgrade.solvers._operator import Operator
from convexgrade.solvers._proximal import Pace, PaceLimits, Step, Unknowns, limits_of
from convexgrade.solvers._systems import Memory, System

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_WORKING = 100  # groups of the highest prices in a working set, at least
_SPARE = 1.5  # groups of the highest prices in a working set, at least, for each neuron
_SIGMA = 0.6  # first sigma without a start, in units of loss / (alpha times the highest price)
_TINY = 1e-3  # least alpha that the first sigma reckons with, in units of the highest price
_WARM = 0.1  # first sigma from a warm start, in units of ||v||^2 / gap
_NEAREST = 1e-12  # gap below which no start is any nearer
_TAU = 1e4  # first tau, in units of the inverse curvature of an unpenalised column
_STEPS = 60  # proximal steps, at most
_VIOLATED = 1e-8  # violation of the cones, over targets or |x| |v|, of a point that is none
_LOST = 1.0  # gap from which on a start has misled the method, for smooth losses: it begins anew
_ROBUST = 0.25  # exponent of means in which a few large numbers count little
_RARE = 1e-4  # least typical loss, in units of the mean, which a few outliers can raise
_TRIAL = 30  # Newton steps after which the gap tells a quick solve from a slow one


class _Pricing(NamedTuple):
    """What a dual point says of all groups, and of the point beside it."""

    prices: Array  # bounds unless high, above alpha
    tight: Tight
    gap: float  # relative to `Program.null_loss`


@dataclass(frozen=True)
class _Iterate:
    """Where the method is between two proximal steps, and what it gives to the next one."""

    point: Unknowns
    f: Array  # the prediction to begin with
    loss: Loss  # the program's, smoothed as the pace says
    tight: Tight  # of all groups
    working: Index  # groups that the next step sees
    pace: Pace


class _Moved(NamedTuple):
    """What a proximal step has led to."""

    point: Unknowns
    active: Index  # groups whose vectors are not zero
    f: Array
    theta: Array
    tight: Tight  # of all groups
    taken: int  # Newton steps


@dataclass(frozen=True)
class _Setup:
    """The whole program, and what does not change from step to step."""

    program: Program
    limits: PaceLimits
    cones: Cones | None
    null_loss: float  # the unit of accuracy
    typical: float  # the same where a loss has no kinks; else outliers count little in it
    distance: float  # of predictions there from where their loss is least
    curvatures: Array  # of F along the unpenalised columns there, (q,), kinks smoothed as widely

    @classmethod
    def of(cls, program: Program) -> _Setup:
        """Collect them."""
        p = program
        f, null_loss = p.null_prediction, p.null_loss
        if p.loss.kinked:
            robust = _robust_mean(p.loss.value(f, p.y), p.weights)
            slope = _robust_mean(np.linalg.norm(p.loss.gradient(f, p.y), axis=1), p.weights)
            typical = max(robust, _RARE * null_loss)
            distance = robust / slope if slope > 0.0 else 0.0
        else:
            typical, distance = null_loss, p.mean_loss.distance(f)
        bends = p.loss.smoothed(distance).hessian(f, p.y).traces
        curvatures = (p.Z**2).T @ (p.weights * bends) / p.n_outputs
        return cls(
            program=p,
            limits=limits_of(p.loss),
            cones=Cones.of(p.X, p.patterns.masks) if p.cones else None,
            null_loss=null_loss,
            typical=typical,
            distance=distance,
            curvatures=np.maximum(curvatures, 1e-100),
        )

    def price(self, point: Unknowns, active: Index, theta: Array, tight: Tight) -> _Pricing:
        """Price all groups against theta, exactly where that matters, and bound the gap of a point."""
        p = self.program
        b = p.adjoint(theta)
        prices = np.linalg.norm(b, axis=1)
        if self.cones is not None:
            above = np.flatnonzero(prices > p.alpha)
            cone, some = p.groups.pattern[above], tight.take(above)
            prices[above], some = self.cones.longest(cone, b[above], some, _WORKING, p.alpha)
            tight = tight.replaced(above, some)
        # Where Z^T theta is not 0, `gap` adds what that may cost.
        dual = lower_bound(p, -theta / p.weights[:, None], float(prices.max(initial=0.0)))
        return _Pricing(prices, tight, self.gap(point, active, theta, dual))

    def begin(self, start: Start | None) -> _Iterate:
        """Return what to begin with: at a start, or without neurons."""
        p = self.program
        if start is None:
            point = Unknowns(np.zeros((len(p.groups), p.X.shape[1])), p.null_coefficients)
        else:
            point = Unknowns(start.blocks, start.unpenalised)
        f, active = p.predict(point.v, point.c), np.flatnonzero(point.v.any(axis=1))
        pricing = self.price(point, active, -p.mean_loss.gradient(f), Tight.none(*point.v.shape))
        gap = min(pricing.gap, start.gap if start else np.inf)
        pace = self.first_pace(point, gap, pricing.prices)
        working = self.working(pricing.prices, active)
        return _Iterate(point, f, p.loss.smoothed(pace.smoothing), pricing.tight, working, pace)

    def following(self, last: _Iterate, moved: _Moved, pricing: _Pricing) -> _Iterate:
        """Return what the next step begins with: its pace, working set, and smoothed loss."""
        p = self.program
        pace = last.pace.after(moved.taken, moved.point, p.alpha, self.limits)
        loss = p.loss.smoothed(pace.smoothing)
        f = last.loss.carried(moved.f, p.y, loss)
        working = self.working(pricing.prices, moved.active)
        return _Iterate(moved.point, f, loss, pricing.tight, working, pace)

    def first_pace(self, point: Unknowns, gap: float, prices: Array) -> Pace:
        """Return the first pace: small from nowhere, larger the nearer the start is."""
        if self.program.loss.kinked:
            # A start says nothing of q = grad F, which is off by about the root of the gap: in
            # units of the typical loss, since an outlier of a million makes any gap look small.
            gap = float(np.sqrt(gap * self.null_loss / self.typical))
        if point.v.any():
            distance = max(gap, _NEAREST) * self.null_loss
            sigma = _WARM * float(np.vdot(point.v, point.v)) / distance
        else:
            price = max(float(prices.max(initial=0.0)), self.program.alpha)
            sigma = _SIGMA * self.typical / (price * max(self.program.alpha, _TINY * price))
        return Pace(sigma, _TAU / self.curvatures, min(1.0, gap) * self.distance)

    def working(self, prices: Array, active: Index) -> Index:
        """Return the groups that a proximal step sees: the active ones and those of highest price."""
        size = max(_WORKING, int(_SPARE * active.size))
        return np.union1d(active, np.argsort(-prices, kind="stable")[:size])

    def advance(self, at: _Iterate, memory: Memory, tol: float) -> _Moved:
        """Take a proximal step over the working set."""
        p, working = self.program, at.working
        over = replace(p.take(working), loss=at.loss)
        operator = Operator.build(p.X, p.Z, p.patterns.masks, over.groups, p.n_outputs)
        centre = Unknowns(at.point.v[working], at.point.c)
        before, null = p.loss_before, self.null_loss
        step = Step(over, operator, self.cones, centre, at.pace, before, null, self.limits)
        system = System(operator, over.groups.pattern, p.patterns.masks, memory)
        state, taken = step.solve(step.state(at.f, at.tight.take(working)), system, tol)
        active, v = working[state.active], np.zeros_like(at.point.v)
        v[active] = state.x
        tight = at.tight.replaced(working, state.tight)
        return _Moved(Unknowns(v, state.c), active, state.f, state.theta, tight, taken)

    def multipliers(self, tight: Tight) -> csc_array | None:
        """Return rho (n_samples, n_groups) of tight constraints."""
        if self.cones is None:
            return None
        norms = np.linalg.norm(self.program.X, axis=1)
        group, _ = np.nonzero(tight.used)
        rows = tight.rows[tight.used]
        rho = tight.rho[tight.used] / np.where(norms[rows] > 0.0, norms[rows], 1.0)
        return csc_array((rho, (rows, group)), shape=(len(norms), tight.number.size))

    def gap(self, point: Unknowns, active: Index, theta: Array, dual: float) -> float:
        """Return the duality gap relative to `Program.null_loss`, unpenalised residuals included."""
        loose = np.abs(self.program.Z.T @ theta)
        reach = np.abs(point.c) + np.sqrt(2.0 * self.null_loss / self.curvatures)[:, None]
        gap = self.objective(point, active) - dual + float(np.vdot(loose, reach))
        return gap / self.null_loss if np.isfinite(gap) else np.inf

    def objective(self, point: Unknowns, groups: Index) -> float:
        """Return the objective of a point whose vectors are zero but for ``groups``."""
        p = self.program
        return p.take(groups).objective(point.v[groups], point.c)


def solve(
    program: Program,
    *,
    start: Start | None = None,
    tol: float = 1e-9,
    max_iter: int = _STEPS,
    slow: float = np.inf,
) -> Solution:
    """Solve a program by proximal steps and semismooth Newton.

    Parameters
    ----------
    program : Program
        The program of a grade, with at least one group.
    start : Start, optional
        A point near the optimum. Should the method be lost from there, it begins anew without.
    tol : float, default=1e-9
        Largest duality gap, relative to the loss of the grade without neurons.
    max_iter : int, default=60
        Limit of proximal steps.
    slow : float, default=inf
        Largest gap after thirty Newton steps, relative as ``tol``, with which it is worth going on.

    Returns
    -------
    Solution
        The best point met, with multipliers. Status ``INACCURATE`` where the gap no longer fell, or
        fell slowly; ``FAILED`` if nothing finite and feasible was met; never an exception for a
        numerical failure.
    """
    setup = _Setup.of(program)
    with np.errstate(all="ignore"):  # what is not finite compares false
        solution = _follow(setup, start, tol, max_iter, slow)
        enough = tol if program.loss.kinked else _LOST
        if start is not None and not solution.gap <= enough:
            anew = _follow(setup, None, tol, max_iter, slow)
            solution = min(solution, anew, key=lambda found: found.gap)
        return solution


def _robust_mean(values: Array, weights: Array) -> float:
    """Return the power mean of a small exponent, times the sum of the weights."""
    total = float(weights.sum())
    positive = np.maximum(values, 0.0)  # rounding can leave a loss below 0
    return total * float(weights @ positive**_ROBUST / total) ** (1.0 / _ROBUST)


class _Best(NamedTuple):
    """The point of the smallest gap so far, and the step that led to it."""

    point: Unknowns
    gap: float
    step: int
    tight: Tight
    theta: Array | None = None  # none before the first step


def _follow(setup: _Setup, start: Start | None, tol: float, max_iter: int, slow: float) -> Solution:
    """Take proximal steps until the gap is small, or falls slowly, or no longer."""
    at, memory, newton_steps = setup.begin(start), Memory(), 0
    best = _Best(at.point, np.inf, 0, at.tight)
    for step in range(1, max_iter + 1):
        try:
            moved = setup.advance(at, memory, tol)
        except np.linalg.LinAlgError:
            break
        newton_steps += moved.taken
        pricing = setup.price(moved.point, moved.active, moved.theta, moved.tight)
        if pricing.gap < best.gap:
            best = _Best(moved.point, pricing.gap, step, pricing.tight, moved.theta)
        lost = step - best.step >= setup.limits.patience
        slowly = newton_steps >= _TRIAL and best.gap > slow
        if best.gap <= tol or lost or slowly:
            break
        at = setup.following(at, moved, pricing)
    return _solution(setup, best, tol, step, max_iter)


def _solution(setup: _Setup, best: _Best, tol: float, steps: int, max_iter: int) -> Solution:
    """Return the best point, and how far the steps have come."""
    p, gap = setup.program, best.gap
    longest = float(np.linalg.norm(best.point.v, axis=1).max(initial=0.0))
    response = float(np.linalg.norm(p.X, axis=1).max()) * longest  # at most
    if p.violation(best.point.v) > _VIOLATED * max(1.0 + np.abs(p.y).max(), response):
        gap = np.inf  # features of such scales that projections lose all digits
    short = Status.ITERATION_LIMIT if steps == max_iter else Status.INACCURATE
    status = status_of(gap, tol, short)
    rho = setup.multipliers(best.tight) if np.isfinite(gap) else None
    theta = best.theta if p.loss.kinked and np.isfinite(gap) else None
    return Solution(best.point.v, best.point.c, rho, status, steps, gap, theta)
