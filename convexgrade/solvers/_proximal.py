"""One proximal step of the program of a grade, by semismooth Newton steps in the predictions.

`newton` says what a proximal step is and which equations it comes down to, R(f) = 0 in the predictions
f alone. R is, up to the Hessian of F, the gradient of a convex function of theta = -grad F(f), the dual
of the step, and piecewise smooth: Newton's method with a line search on that function converges fast
(Li, Sun & Toh 2018 do the same for the lasso). The Newton system I + sigma A J A^T H has the columns of
active groups only, and of these only the directions along the face of K_g on which p_g lies: as many
as the optimum has degrees of freedom, however many groups and constraints the program has.

A loss with kinks is smoothed while its step is solved, the less the longer steps are, and the line
of the search is one of its gradient (`kinks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.cones import Cones, Tight
from convexgrade.losses import Hessian, Loss, Path
from convexgrade.program import Program
from convexgrade.solvers._faces import Face
from convexgrade.solvers._operator import Operator
from convexgrade.solvers._systems import System

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_ROUNDED = 1e6  # largest sigma alpha that rounding allows, in units of the largest ||x||
_EXACT = 0.5  # error that a proximal step may have, relative to its proximal terms
_LAST = 3.0  # gap that a step leaves, relative to the wanted one, at which it may be the last
_ARMIJO = 1e-4  # least gain of a step, relative to what its slope promises
_TURNED = 0.5  # slope uphill, relative to the one downhill at first, at which a step is too long
_LEAST_SHARE = 0.1  # least share of a length that was too long to be tried next
_MOST_SHARE = 0.5  # largest share of a length that was too long to be tried next
_TRIALS = 40  # lengths of a step that are tried, at most
_LONGER = 4.0  # first length that is tried, at most, in units of the last one that was taken
_ROUNDING = 1e-14  # rounding of the merit function, relative to the loss before the grade
_STALLED = 0.9  # share of its error that a step leaves if it leads nowhere


@dataclass(frozen=True)
class PaceLimits:
    """How fast proximal steps grow, and how many steps are taken, for a kind of loss."""

    growth: float  # of sigma, from a proximal step that was easy to the next one
    easy: int  # Newton steps up to which a proximal step was easy
    least: int  # Newton steps of a proximal step, at least
    most: int  # Newton steps of a proximal step, at most: one that takes as many was too long
    patience: int  # proximal steps without a smaller gap after which the method gives up


# Where kinks are smoothed, Newton steps lead less far. So a proximal step takes more of them, the
# next one is not so much longer, and the gap may wait longer for its fall.
_SMOOTH = PaceLimits(growth=6.0, easy=8, least=0, most=25, patience=8)
_KINKED = PaceLimits(growth=3.0, easy=30, least=1, most=150, patience=16)


def limits_of(loss: Loss) -> PaceLimits:
    """Return the limits that suit a loss."""
    return _KINKED if loss.kinked else _SMOOTH


class Unknowns(NamedTuple):
    """A point of the program: vectors of all groups, and coefficients of the unpenalised columns."""

    v: Array
    c: Array


class Pace(NamedTuple):
    """How far proximal steps go: sigma, and tau (q,) for the unpenalised columns.

    And within which distance kinks of the loss are smoothed.
    """

    sigma: float
    tau: Array
    smoothing: float

    def after(self, taken: int, point: Unknowns, alpha: float, limits: PaceLimits) -> Pace:
        """Return the next pace: longer after a step that was easy, shorter after one that was not.

        The same after one of fewer Newton steps than there have to be, as rounding allowed no more.
        """
        if taken < limits.least:
            growth = 1.0
        elif taken <= limits.easy:
            growth = limits.growth
        else:
            growth = 1.0 if taken < limits.most else 1.0 / limits.growth
        smoothing = self.smoothing / growth
        largest = float(np.linalg.norm(point.v, axis=1).max(initial=0.0))
        if growth * self.sigma * alpha > _ROUNDED * largest > 0.0:
            growth = min(growth, 1.0)
        return Pace(growth * self.sigma, growth * self.tau, smoothing)


class State(NamedTuple):
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
class Step:
    """One proximal step over a working set."""

    program: Program  # over the working set
    operator: Operator
    cones: Cones | None
    centre: Unknowns  # vectors of the working set
    pace: Pace
    loss_before: float  # mean loss before the grade: roundings are relative to it
    null_loss: float  # that of the grade without neurons: gaps and accuracies are relative to it
    limits: PaceLimits

    @property
    def noise(self) -> float:
        """By how much rounding moves the merit function."""
        return _ROUNDING * self.loss_before

    def state(self, f: Array, tight: Tight) -> State:
        """Evaluate the equations at f."""
        p, d = self.program, self.program.X.shape[1]
        gradient = p.mean_loss.gradient(f)
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
        return State(f, -gradient, active, projected, x, c, tight, residual, merit)

    def faces(self, state: State) -> Face:
        """Return the directions in which the active x_g answer to a change of theta."""
        groups = self.program.groups.take(state.active)
        normals = None
        if self.cones is not None:
            normals = self.cones.normals(groups.pattern, state.tight.take(state.active))
        return Face.of(
            state.active, groups.sign, state.p, normals, self.program.alpha, self.pace.sigma
        )

    def error(self, state: State, curvature: Hessian) -> float:
        """Return how far the step is from solved, as a part of the duality gap."""
        return 0.5 * _slope(state, curvature, state.residual)

    def moved(self, state: State) -> float:
        """Return the proximal terms |x - v|^2 / (2 sigma) + |c' - c|^2 / (2 tau)."""
        x = -self.centre.v
        x[state.active] += state.x
        c = state.c - self.centre.c
        free = float(np.vdot(c, c / self.pace.tau[:, None]))
        return 0.5 * (float(np.vdot(x, x)) / self.pace.sigma + free)

    def left(self, state: State) -> float:
        """Return what the gap will be about once the step is solved."""
        moved = np.linalg.norm(state.x - self.centre.v[state.active], axis=1)
        return float(moved @ np.linalg.norm(state.x, axis=1)) / self.pace.sigma

    def allowed(self, state: State, tol: float) -> float:
        """Return how large the error may be for the step to count as solved.

        With an error of a fixed share of the proximal terms, inexact proximal steps converge as exact
        ones do (Rockafellar 1976, criterion B; Solodov & Svaiter 1999). In the last step it is to be
        of the order of the square of the gap: certificates read the dual point off the prediction of
        x, which is as far from f as the root of the error.
        """
        left = self.left(state) / self.null_loss
        if left <= _LAST * tol:
            return self.null_loss * max(left, 0.1 * tol) ** 2
        return _EXACT * self.moved(state)

    def solve(self, state: State, system: System, tol: float) -> tuple[State, int]:
        """Take Newton steps until the error is small enough, or rounding hides which way is down.

        Far from its kinks a loss has next to no curvature. There an error that is measured by it is
        small whatever the residual: a step is taken before it is believed.

        Returns the state and the number of steps.
        """
        p = self.program
        length, last_merit, last_error = 1.0, np.inf, np.inf
        for taken in range(self.limits.most):
            curvature = p.mean_loss.hessian(state.f)
            error = self.error(state, curvature)
            stalled = last_merit - state.merit <= self.noise and error > _STALLED * last_error
            solved = taken >= self.limits.least and error <= self.allowed(state, tol)
            if stalled or solved:
                return state, taken
            last_merit, last_error = state.merit, error
            step = system.solve(self.faces(state), curvature, self.pace.tau, -state.residual)
            slope, path = _slope(state, curvature, step), p.loss.path(state.f, step, p.y)
            if -slope > self.noise:
                longest = min(path.longest, _LONGER * length)
                found = self._search(state, path, slope, longest)
            else:
                found = self._polished(state, path, curvature, error)
            if found is None:
                return state, taken
            state, length = found
        return state, self.limits.most

    def _polished(
        self, state: State, path: Path, curvature: Hessian, error: float
    ) -> tuple[State, float] | None:
        """Return the state after a whole step if that shrinks the residual, and with it the error.

        Once the merit function is flat to rounding, it is the residual that has digits left.
        """
        trial = self.state(path.at(path.longest), state.tight)
        better = self.error(trial, curvature) < 0.25 * error
        return (trial, 1.0) if better else None

    def _search(
        self, state: State, path: Path, slope: float, length: float
    ) -> tuple[State, float] | None:
        """Return a state along a path where the merit function is lower, and the length of the way.

        And where it does not rise steeply again. Its slope is about linear in the length but for the
        kinks where constraints join: the next length is where it vanishes by the slopes at both ends.
        None if no length is found.
        """
        for _ in range(_TRIALS):
            trial = self.state(path.at(length), state.tight)
            uphill = _slope(trial, self.program.mean_loss.hessian(trial.f), path.velocity(length))
            lower = trial.merit <= state.merit + _ARMIJO * length * slope + self.noise
            if lower and uphill <= -_TURNED * slope:
                return trial, length
            share = slope / (slope - uphill) if uphill > slope else np.inf
            length *= min(max(share, _LEAST_SHARE), _MOST_SHARE)
        return None


def _slope(state: State, curvature: Hessian, step: Array) -> float:
    """Return the slope of the merit function along a step: its gradient is the curvature times R."""
    return float(np.vdot(state.residual, curvature.times(step)))
