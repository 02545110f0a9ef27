"""A proximal point method for the program of a grade, by semismooth Newton steps in the predictions.

Each step of the proximal point method (Rockafellar 1976) moves from v to the minimiser of

    F(o + A x + Z c') + alpha sum_g ||x_g|| + |x - v|^2 / (2 sigma) + |c' - c|^2 / (2 tau)

over all x_g in K_g and c'. With theta = -grad F(f) at the prediction f and b_g = s_g X^T D_g theta,
its solution has

    p_g = Proj_{K_g}(v_g / sigma + b_g),
    x_g = sigma (1 - alpha / ||p_g||)_+ p_g,        c' = c + tau Z^T theta,

so that all is said by n equations in f alone, R(f) = f - o - A x - Z c' = 0. R is, up to the Hessian
of F, the gradient of a convex function of theta, the dual of the step, and piecewise smooth: Newton's
method with a line search on that function converges fast (Li, Sun & Toh 2018 do the same for the
lasso). The Newton system I + sigma A J A^T H has the columns of active groups only, and of these only
the directions along the face of K_g on which p_g lies: as many as the optimum has degrees of freedom,
however many groups and constraints the program has. sigma grows from step to step, and the steps
converge the faster.

Few groups are ever active. The steps see a working set of them; after each step every group is priced,
exactly, and those that violate the dual constraint join. The method stops on the duality gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from convexgrade.cones import Cones, Tight
from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status
from convexgrade.solvers._faces import Face
from convexgrade.solvers._operator import Operator
from convexgrade.solvers._systems import Memory, System

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_WORKING = 100  # groups of a working set: so many of the highest price,
_SPARE = 1.5  # or this many for each neuron
_SIGMA = 0.6  # first sigma, in units of loss / (alpha times the highest price, or alpha),
_TINY = 1e-3  # but no smaller an alpha counts than this, in units of the highest price,
_WARM = 0.1  # and from a warm start, however small alpha is: that many times ||v||^2 / gap
_NEAREST = 1e-12  # gap below which no start is any nearer
_GROWTH = 6.0  # of sigma from step to step
_TAU = 1e4  # first tau, in units of the inverse curvature of an unpenalised column
_STEPS = 60  # proximal steps,
_ROUNDED = 1e6  # sigma alpha, in units of the largest ||x||, that rounding allows
_INNER, _EASY = 25, 8  # Newton steps in each, at most, and so few that the next may be longer
_EXACT = 0.5  # error of a proximal step, relative to its proximal terms
_LAST = 3.0  # gap that a step leaves, relative to the wanted one, at which it may be the last
_ARMIJO = 1e-4
_TURNED = 0.5  # slope uphill, relative to the one downhill at first, at which a step is too long
_SHORTER = 0.1, 0.5  # shares of its length that are tried next: no less and no more,
_TRIALS = 40  # so many times, at first with this many times the last length
_LONGER = 4.0
_ROUNDING = 1e-14  # of the merit function, relative to the loss before the grade
_VIOLATED = 1e-8  # violation of the cones, in units of the targets, that is no rounding
_LOST = 1.0  # gap to which a start has led that a method without does better
_PATIENCE = 8  # proximal steps without a smaller gap after which the method gives up
_TRIAL = 30  # Newton steps after which the gap tells a quick solve from a slow one


class _Point(NamedTuple):
    """A point of the program: vectors of all groups, and coefficients of the unpenalised columns."""

    v: Array
    c: Array


class _Pricing(NamedTuple):
    """What a dual point says: prices of all groups (bounds unless high, above alpha), and its value."""

    prices: Array
    tight: Tight
    dual: float


class _Pace(NamedTuple):
    """How far proximal steps go: sigma, and tau (q,) for the unpenalised columns."""

    sigma: float
    tau: Array

    def after(self, taken: int, point: _Point, alpha: float) -> _Pace:
        """Return the next pace: longer after a step that was easy, shorter after one that was not."""
        growth = _GROWTH if taken <= _EASY else 1.0 if taken < _INNER else 1.0 / _GROWTH
        largest = float(np.linalg.norm(point.v, axis=1).max(initial=0.0))
        if growth * self.sigma * alpha > _ROUNDED * largest > 0.0:
            growth = min(growth, 1.0)
        return _Pace(growth * self.sigma, growth * self.tau)


class _State(NamedTuple):
    """The equations of a proximal step at a prediction f."""

    f: Array  # (n_samples, n_outputs)
    theta: Array  # -grad F(f)
    active: Index  # groups with x != 0, as positions in the working set
    p: Array  # their p_g
    x: Array  # and x_g
    c: Array  # c'
    tight: Tight  # constraints that hold p_g back, for the whole working set
    residual: Array  # R(f)
    merit: float


@dataclass(frozen=True)
class _Step:
    """One proximal step over a working set."""

    program: Program  # over the working set
    operator: Operator
    cones: Cones | None
    centre: _Point  # vectors of the working set
    pace: _Pace

    def state(self, f: Array, tight: Tight) -> _State:
        """Evaluate the equations at f."""
        p, d = self.program, self.program.X.shape[1]
        gradient = p.weights[:, None] * p.loss.gradient(f, p.y)
        b, z = self.operator.adjoint(-gradient)
        u = self.centre.v / self.pace.sigma + b
        active = np.flatnonzero(np.linalg.norm(u, axis=1) > p.alpha)
        projected = u[active]
        if self.cones is not None:
            some = tight.take(active)
            cone = p.groups.pattern[active]
            projected, some = self.cones.project(cone, projected, some, enough=p.alpha)
            tight = tight.replaced(active, some)
        size = np.linalg.norm(projected, axis=1)
        alive = size > p.alpha
        active, projected, size = active[alive], projected[alive], size[alive]
        x = self.pace.sigma * (1.0 - p.alpha / size)[:, None] * projected
        c = self.centre.c + self.pace.tau[:, None] * z
        v = np.zeros((len(p.groups), d))
        v[active] = x
        residual = f - p.offset - self.operator.forward(v, c)
        merit = (
            float(np.vdot(gradient, f - p.offset))
            - p.mean_loss(f)
            + float(np.vdot(x, x)) / (2.0 * self.pace.sigma)
            + 0.5 * float(np.vdot(c, c / self.pace.tau[:, None]))
        )
        return _State(f, -gradient, active, projected, x, c, tight, residual, merit)

    def faces(self, state: _State) -> Face:
        """Return the directions in which the active x_g answer to a change of theta."""
        groups = self.program.groups.take(state.active)
        normals = None
        if self.cones is not None:
            normals = self.cones.normals(groups.pattern, state.tight.take(state.active))
        return Face.of(
            state.active, groups.sign, state.p, normals, self.program.alpha, self.pace.sigma
        )

    def curvature(self, state: _State) -> Array:
        """Return the Hessian of F at a state, shape (n_samples, n_outputs, n_outputs)."""
        p = self.program
        return np.asarray(p.weights[:, None, None] * p.loss.hessian(state.f, p.y))

    def error(self, state: _State, curvature: Array) -> float:
        """Return how far the step is from solved, as a part of the duality gap."""
        return 0.5 * _slope(state, curvature, state.residual)

    def moved(self, state: _State) -> float:
        """Return the proximal terms |x - v|^2 / (2 sigma) + |c' - c|^2 / (2 tau)."""
        x = -self.centre.v
        x[state.active] += state.x
        c = state.c - self.centre.c
        free = float(np.vdot(c, c / self.pace.tau[:, None]))
        return 0.5 * (float(np.vdot(x, x)) / self.pace.sigma + free)

    def left(self, state: _State) -> float:
        """Return what the gap will be about once the step is solved."""
        moved = np.linalg.norm(state.x - self.centre.v[state.active], axis=1)
        return float(moved @ np.linalg.norm(state.x, axis=1)) / self.pace.sigma

    def allowed(self, state: _State, before: float, tol: float) -> float:
        """Return how large the error may be for the step to count as solved.

        With an error of a fixed share of the proximal terms, inexact proximal steps converge as exact
        ones do (Rockafellar 1976, criterion B; Solodov & Svaiter 1999). In the last step it is to be
        of the order of the square of the gap: certificates read the dual point off the prediction of
        x, which is as far from f as the root of the error.
        """
        left = self.left(state) / before
        if left <= _LAST * tol:
            return before * max(left, 0.1 * tol) ** 2
        return _EXACT * self.moved(state)

    def solve(self, state: _State, system: System, tol: float) -> tuple[_State, int]:
        """Take Newton steps until the error is small enough; count them."""
        p = self.program
        before, length = p.mean_loss(p.offset), 1.0
        for taken in range(_INNER):
            curvature = self.curvature(state)
            if self.error(state, curvature) <= self.allowed(state, before, tol):
                return state, taken
            step = system.solve(self.faces(state), curvature, self.pace.tau, -state.residual)
            slope = _slope(state, curvature, step)
            if -slope > _ROUNDING * before:
                found = self._search(state, step, slope, min(1.0, _LONGER * length))
            else:
                found = self._polished(state, step, curvature)
            if found is None:
                return state, taken
            state, length = found
        return state, _INNER

    def _polished(
        self, state: _State, step: Array, curvature: Array
    ) -> tuple[_State, float] | None:
        """Return the state after a whole step if that shrinks the residual.

        Once the merit function is flat to rounding, it is the residual that has digits left.
        """
        trial = self.state(state.f + step, state.tight)
        better = self.error(trial, curvature) < 0.25 * self.error(state, curvature)
        return (trial, 1.0) if better else None

    def _search(
        self, state: _State, step: Array, slope: float, length: float
    ) -> tuple[_State, float] | None:
        """Return a state along a step where the merit function is lower, and the length of the way.

        And where it does not rise steeply again. Its slope is about linear in the length but for the
        kinks where constraints join: the next length is where it vanishes by the slopes at both ends.
        None if no length is found.
        """
        noise = _ROUNDING * self.program.mean_loss(self.program.offset)
        for _ in range(_TRIALS):
            trial = self.state(state.f + length * step, state.tight)
            uphill = _slope(trial, self.curvature(trial), step)
            lower = trial.merit <= state.merit + _ARMIJO * length * slope + noise
            if lower and uphill <= -_TURNED * slope:
                return trial, length
            share = slope / (slope - uphill) if uphill > slope else np.inf
            length *= min(max(share, _SHORTER[0]), _SHORTER[1])
        return None


def _slope(state: _State, curvature: Array, step: Array) -> float:
    """Return the slope of the merit function along a step: its gradient is the curvature times R."""
    return float(np.einsum("ik,ikl,il->", state.residual, curvature, step))


@dataclass(frozen=True)
class _Problem:
    """The whole program, and what does not change from step to step."""

    program: Program
    cones: Cones | None
    null: Array  # c of the grade without neurons
    before: float  # F there: the unit of accuracy
    curvatures: Array  # of F along the unpenalised columns there, (q,)

    @classmethod
    def of(cls, program: Program) -> _Problem:
        """Collect them."""
        p = program
        null = p.null_coefficients()
        f = p.offset + p.Z @ null
        hessian = p.loss.hessian(f, p.y)
        curvatures = np.einsum("i,iq,ikk->q", p.weights, p.Z**2, hessian) / p.n_outputs
        return cls(
            program=p,
            cones=Cones.of(p.X, p.patterns.masks) if p.cones else None,
            null=null,
            before=p.mean_loss(f),
            curvatures=np.maximum(curvatures, 1e-100),
        )

    def price(self, theta: Array, tight: Tight) -> _Pricing:
        """Price all groups against theta, exactly where that matters."""
        p = self.program
        b = p.adjoint(theta)
        prices = np.linalg.norm(b, axis=1)
        if self.cones is not None:
            above = np.flatnonzero(prices > p.alpha)
            cone, some = p.groups.pattern[above], tight.take(above)
            prices[above], some = self.cones.longest(cone, b[above], some, _WORKING, p.alpha)
            tight = tight.replaced(above, some)
        t = min(1.0, p.alpha / max(float(prices.max(initial=0.0)), 1e-300))
        q = -t * theta / p.weights[:, None]
        value = np.sum(q * p.offset, axis=1) - p.loss.conjugate(q, p.y)
        return _Pricing(prices, tight, float(p.weights @ value))

    def begin(self, start: Start | None) -> _Point:
        """Return the point to start from."""
        if start is None:
            return _Point(np.zeros((len(self.program.groups), self.program.X.shape[1])), self.null)
        return _Point(start.blocks, start.unpenalised)

    def dual(self, f: Array) -> Array:
        """Return theta = -grad F(f)."""
        return -self.program.weights[:, None] * self.program.loss.gradient(f, self.program.y)

    def first_pace(self, point: _Point, gap: float, prices: Array) -> _Pace:
        """Return the first pace: small from nowhere, larger the nearer the start is."""
        if point.v.any():
            distance = max(gap, _NEAREST) * self.before
            sigma = _WARM * float(np.vdot(point.v, point.v)) / distance
        else:
            price = max(float(prices.max(initial=0.0)), self.program.alpha)
            sigma = _SIGMA * self.before / (price * max(self.program.alpha, _TINY * price))
        return _Pace(sigma, _TAU / self.curvatures)

    def working(self, prices: Array, active: Index) -> Index:
        """Return the groups that a proximal step sees: the active ones and those of highest price."""
        size = max(_WORKING, int(_SPARE * active.size))
        return np.union1d(active, np.argsort(-prices, kind="stable")[:size])

    def advance(
        self,
        point: _Point,
        f: Array,
        tight: Tight,
        working: Index,
        pace: _Pace,
        memory: Memory,
        tol: float,
    ) -> tuple[_State, _Point, int]:
        """Take a proximal step from a point, over a working set; count its Newton steps."""
        p = self.program
        over = p.over(p.patterns, p.groups.take(working))
        operator = Operator.build(p.X, p.Z, p.patterns.masks, over.routing(), over.groups.pattern)
        step = _Step(over, operator, self.cones, _Point(point.v[working], point.c), pace)
        system = System(operator, over.groups.pattern, p.patterns.masks, memory)
        state = step.state(f, tight.take(working))
        state, taken = step.solve(state, system, tol)
        v = np.zeros_like(point.v)
        v[working[state.active]] = state.x
        return state, _Point(v, state.c), taken

    def multipliers(self, tight: Tight) -> csc_array | None:
        """Return rho (n_samples, n_groups) of tight constraints."""
        if self.cones is None:
            return None
        norms = np.linalg.norm(self.program.X, axis=1)
        group, _ = np.nonzero(tight.used)
        rows = tight.rows[tight.used]
        rho = tight.rho[tight.used] / np.where(norms[rows] > 0.0, norms[rows], 1.0)
        return csc_array((rho, (rows, group)), shape=(len(norms), tight.number.size))

    def gap(self, point: _Point, active: Index, pricing: _Pricing, theta: Array) -> float:
        """Return the duality gap relative to the loss before, unpenalised residuals included."""
        loose = np.abs(self.program.Z.T @ theta)
        reach = np.abs(point.c) + np.sqrt(2.0 * self.before / self.curvatures)[:, None]
        gap = self.objective(point, active) - pricing.dual + float(np.vdot(loose, reach))
        return gap / self.before if np.isfinite(gap) else np.inf

    def objective(self, point: _Point, groups: Index) -> float:
        """Return the objective of a point whose vectors are zero but for ``groups``."""
        p = self.program
        return p.over(p.patterns, p.groups.take(groups)).objective(point.v[groups], point.c)


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
    problem = _Problem.of(program)
    with np.errstate(all="ignore"):  # what is not finite compares false
        solution = _follow(problem, start, tol, max_iter, slow)
        if start is not None and not solution.gap <= _LOST:
            solution = _follow(problem, None, tol, max_iter, slow)
        return solution


class _Best(NamedTuple):
    point: _Point
    gap: float
    step: int
    tight: Tight


def _follow(
    problem: _Problem, start: Start | None, tol: float, max_iter: int, slow: float
) -> Solution:
    """Take proximal steps until the gap is small, or falls slowly, or no longer."""
    p, point = problem.program, problem.begin(start)
    f = p.predict(point.v, point.c)
    theta = problem.dual(f)
    pricing = problem.price(theta, Tight.none(*point.v.shape))
    active = np.flatnonzero(point.v.any(axis=1))
    gap = min(problem.gap(point, active, pricing, theta), start.gap if start else np.inf)
    working = problem.working(pricing.prices, active)
    best = _Best(point, np.inf, 0, pricing.tight)
    pace = problem.first_pace(point, gap, pricing.prices)
    memory, total = Memory(), 0
    for step in range(1, max_iter + 1):
        try:
            state, point, taken = problem.advance(
                point, f, pricing.tight, working, pace, memory, tol
            )
        except np.linalg.LinAlgError:
            break
        f, total = state.f, total + taken
        pricing = problem.price(state.theta, pricing.tight.replaced(working, state.tight))
        active = working[state.active]
        gap = problem.gap(point, active, pricing, state.theta)
        best = min(best, _Best(point, gap, step, pricing.tight), key=lambda found: found.gap)
        lost, slowly = step - best.step >= _PATIENCE, total >= _TRIAL and best.gap > slow
        if best.gap <= tol or lost or slowly:
            break
        working = problem.working(pricing.prices, active)
        pace = pace.after(taken, point, p.alpha)
    if p.violation(best.point.v) > _VIOLATED * (1.0 + np.abs(p.y).max()):
        best = best._replace(gap=np.inf)  # features of such scales that projections lose all digits
    if best.gap <= tol:
        status = Status.OPTIMAL
    elif not np.isfinite(best.gap):
        status = Status.FAILED
    else:
        status = Status.ITERATION_LIMIT if step == max_iter else Status.INACCURATE
    rho = problem.multipliers(best.tight) if np.isfinite(best.gap) else None
    return Solution(best.point.v, best.point.c, rho, status, step, best.gap)
