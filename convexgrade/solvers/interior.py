"""A primal-dual interior point method for the program of a grade.

With an epigraph t_g of each norm and slacks sigma_g, the program reads

    minimise    F(o + A (v, c)) + alpha sum_g t_g
    subject to  ||v_g|| <= t_g,    sigma_g = E_g X v_g >= 0                 (the latter with cones)

and with multipliers (alpha, w_g) of the second-order cones and z_g of the slacks, its solutions are
the points inside all cones that satisfy, for mu = 0,

    A_g^T grad F = w_g + (E_g X)^T z_g       Z^T grad F = 0       sigma_g = E_g X v_g
    (t_g, v_g) o (alpha, w_g) = mu (1, 0)    sigma_g z_g = mu.

The method takes Newton steps towards such points for falling mu, from inside the cones, infeasible
at first: Mehrotra's predictor and corrector with Gondzio's corrections, in the scaling of Nesterov
and Todd. Eliminating t, w, sigma and z leaves a system in v and c alone, with the blocks

    B_g = S_g + X^T diag(z_g / sigma_g) X,     S_g of the second-order cone, diagonal plus rank one;

E_g is gone, since E_g^2 = I. ``_kkt.py`` solves it. F enters through its Hessian at the point: that
is exact for the squared error; for others, a step ends where the model stops being good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program
from convexgrade.solution import Solution, Start, Status
from convexgrade.solvers import _kkt
from convexgrade.solvers import _second_order as soc
from convexgrade.solvers._operator import Operator

Array = NDArray[np.float64]

_PATIENCE = 15  # iterations without progress after which the method gives up
_FAIR = 1e-7  # error that is small: rounding may allow no smaller one
_FAIR_PATIENCE = 4  # iterations without progress after which it gives up, once its error is small
_FRACTION = 0.95  # share of the way to the boundary that a step may go
_LAG = 0.003  # share of the residuals in the error below which the gap need not fall
_TRUST = 2.0  # largest ratio of a change of gradient to its linear model
_REFINEMENTS = 5  # corrections of a linear solve, at most
_REFINED = 1e-3  # residual, relative to the right side, of a linear solve, in units of the error
_EXACT = 1e-12  # smallest residual, relative to the right side, that a linear solve has to reach
_ROUGH = 1e-9  # largest residual, relative to the right side, that a linear solve may leave
_CORRECTIONS = 2  # centrality corrections of a step, at most
_LONG = 0.9  # length of a step that needs no centrality correction
_NEAR, _FAR = 0.3, 3.0  # multiples of the target that bound the products after a correction


@dataclass(frozen=True)
class _Point:
    """A primal-dual point, or a step between two.

    ``primal`` has the rows (t_g, v_g), ``dual`` the rows (alpha, w_g). Without cones, ``slack`` and
    ``multiplier`` have no rows.
    """

    primal: Array  # (n_groups, 1 + d)
    dual: Array  # (n_groups, 1 + d)
    slack: Array  # (n_samples or 0, n_groups)
    multiplier: Array  # (n_samples or 0, n_groups)
    unpenalised: Array  # (q, n_outputs)

    @property
    def v(self) -> Array:
        """Vectors v_g."""
        return self.primal[:, 1:]

    @property
    def gap(self) -> float:
        """Sum of the products: primal minus dual objective once the residuals are zero."""
        return float(np.vdot(self.primal, self.dual) + np.vdot(self.slack, self.multiplier))

    @property
    def n_products(self) -> int:
        """Number of complementarity products."""
        return len(self.primal) + self.slack.size

    def plus(self, step: _Point, length: float) -> _Point:
        """Return the point after a step."""
        return _Point(
            self.primal + length * step.primal,
            self.dual + length * step.dual,
            self.slack + length * step.slack,
            self.multiplier + length * step.multiplier,
            self.unpenalised + length * step.unpenalised,
        )

    def reach(self, step: _Point) -> float:
        """Return the length, at most 1, that goes a fraction of the way to the boundary."""
        lengths = (
            soc.reach(_both(self), _both(step)),
            _reach(self.slack, step.slack),
            _reach(self.multiplier, step.multiplier),
        )
        return min(1.0, _FRACTION * min(lengths))


def _both(point: _Point) -> Array:
    """Return the elements of the second-order cones, primal and dual."""
    return np.concatenate([point.primal, point.dual])


def _reach(x: Array, step: Array) -> float:
    """Return the largest a with x + a step >= 0."""
    return 1.0 / max(float(np.max(-step / x, initial=0.0)), 1e-300)


@dataclass(frozen=True)
class _Residuals:
    """How far the linear conditions are from holding."""

    stationarity: Array  # A_g^T grad F - w_g - (E_g X)^T z_g, (n_groups, d)
    unpenalised: Array  # Z^T grad F, (q, n_outputs)
    slack: Array  # E_g X v_g - sigma_g, as columns

    def none(self) -> _Residuals:
        """Return zeros in their place."""
        return _Residuals(0.0 * self.stationarity, 0.0 * self.unpenalised, 0.0 * self.slack)


@dataclass(frozen=True)
class _Setup:
    """The program in the arrays of the method."""

    program: Program
    operator: Operator
    rows: Array  # X, or none of its rows without cones
    signs: Array  # diagonals of E_g as columns, (n_samples or 0, n_groups)
    null_loss: float  # the unit of accuracy
    response: float  # size of responses that change F by about as much

    @classmethod
    def of(cls, program: Program) -> _Setup:
        """Collect them."""
        p, f, loss = program, program.null_prediction, program.null_loss
        slope = np.vdot(p.weights, np.linalg.norm(p.loss.gradient(f, p.y), axis=1))
        curvature = np.sum(p.mean_loss.hessian(f).traces) / p.n_outputs
        rows = p.X if p.cones else p.X[:0]
        masks, pattern = p.patterns.masks, p.groups.pattern
        return cls(
            program=p,
            operator=Operator.build(p.X, p.Z, masks, p.groups, p.n_outputs),
            rows=rows,
            signs=np.where(masks[: len(rows), pattern], 1.0, -1.0),
            null_loss=loss,
            response=float(np.minimum(2.0 * loss / slope, np.sqrt(2.0 * loss / curvature))),
        )

    def start(self) -> _Point:
        """Return a point inside the cones, with v = 0 and products of a size to match the loss.

        Slacks are a group's share of the response, multipliers a row's share of the gradient, and
        the penalty is half of the loss. (0.3: measured; anything from 0.1 to 1 does.)
        """
        n_groups, d = len(self.program.groups), self.program.X.shape[1]
        t = np.full(n_groups, 0.5 * self.null_loss / (n_groups * self.program.alpha))
        gradient = 2.0 * self.null_loss / self.response
        return _Point(
            primal=soc.join(t, np.zeros((n_groups, d))),
            dual=soc.join(np.full(n_groups, self.program.alpha), np.zeros((n_groups, d))),
            slack=np.full(self.signs.shape, self.response / np.sqrt(n_groups)),
            multiplier=np.full(self.signs.shape, 0.3 * gradient / len(self.program.X)),
            unpenalised=self.program.null_coefficients,
        )

    def around(self, start: Start) -> _Point:
        """Return a point inside the cones near a given one, all products being equal to mu.

        They sum up to the gap of the start. With w = -alpha v / t, (t, v) o (alpha, w) = mu (1, 0)
        asks for t^2 - mu / alpha t = ||v||^2. A slack is the start's own response where that is large,
        and where it is not, of the size at which its multiplier is like those of `start`.
        """
        cold, v = self.start(), start.blocks
        mu = start.gap * self.null_loss / cold.n_products
        t = soc.positive_root(mu / self.program.alpha, np.vecdot(v, v))
        slack = soc.positive_root(self.cone_forward(v), (mu / cold.multiplier) ** 2)
        return _Point(
            primal=soc.join(t, v),
            dual=soc.join(cold.dual[:, 0], -self.program.alpha * v / t[:, None]),
            slack=slack,
            multiplier=mu / slack,
            unpenalised=start.unpenalised,
        )

    def predict(self, point: _Point) -> Array:
        """Return o + A (v, c)."""
        return self.program.offset + self.operator.forward(point.v, point.unpenalised)

    def cone_forward(self, v: Array) -> Array:
        """Return E_g X v_g as columns."""
        return np.asarray(self.signs * (self.rows @ v.T))

    def cone_adjoint(self, z: Array) -> Array:
        """Return (E_g X)^T z_g as rows."""
        return np.asarray((self.signs * z).T @ self.rows)

    def residuals(self, point: _Point, f: Array) -> _Residuals:
        """Return the residuals of the linear conditions at a point with this prediction."""
        groups, unpenalised = self.operator.adjoint(self.program.mean_loss.gradient(f))
        return _Residuals(
            groups - point.dual[:, 1:] - self.cone_adjoint(point.multiplier),
            unpenalised,
            self.cone_forward(point.v) - point.slack,
        )

    def error(self, point: _Point, residuals: _Residuals) -> float:
        """Return an estimate of the distance from the optimum, relative to the loss.

        It is the gap, and every residual times the size of what it multiplies in the difference of
        the primal and the dual objective.
        """
        r = residuals
        stationarity = np.linalg.norm(r.stationarity, axis=1).max() * point.primal[:, 0].sum()
        unpenalised = np.vdot(np.abs(r.unpenalised), np.abs(point.unpenalised) + self.response)
        slack = np.vdot(np.abs(r.slack), point.multiplier)
        return float(point.gap + stationarity + unpenalised + slack) / self.null_loss


class _Newton:
    """The Newton system at a point with the prediction f, factored."""

    def __init__(
        self, setup: _Setup, point: _Point, f: Array, grams: _kkt.ChannelGrams, error: float
    ) -> None:
        self.refined = min(max(_EXACT, _REFINED * error), _ROUGH)
        self.setup, self.point, self.f = setup, point, f
        self.scaling = soc.NesterovTodd.between(point.primal, point.dual)
        self.ratio = point.multiplier / point.slack
        self.curvature = setup.program.mean_loss.hessian(f)
        roots = _kkt.block_roots(setup.rows, self.ratio, self.scaling.roots())
        self.factors = _kkt.Factorisation.build(setup.operator, roots, self.curvature, grams)

    def products(self, point: _Point) -> tuple[Array, Array]:
        """Return (t, v) o (alpha, w) in scaled coordinates, and sigma z, of a point or a step."""
        primal, dual = self.scaling.invert(point.primal), self.scaling.apply(point.dual)
        return soc.product(primal, dual), point.slack * point.multiplier

    def direction(self, cone: Array, slack: Array, residuals: _Residuals) -> _Point:
        """Return the step that removes residuals and changes the products of the point.

        Parameters
        ----------
        cone : ndarray of shape (n_groups, 1 + d)
            Wanted change of (t, v) o (alpha, w), in scaled coordinates, to first order.
        slack : ndarray
            Wanted change of sigma z.
        residuals : _Residuals
            Residuals to remove.
        """
        setup, point, r = self.setup, self.point, residuals
        p = self.scaling.invert(soc.divide(cone, self.scaling.point))
        reduced = self.scaling.reduce(p)
        pull = (slack - point.multiplier * r.slack) / point.slack
        right = reduced - r.stationarity + setup.cone_adjoint(pull)
        dv, dc = self._solve(right, -r.unpenalised)
        dw = reduced - self.scaling.multiply(dv)
        dsigma = setup.cone_forward(dv) + r.slack
        return _Point(
            primal=soc.join(self.scaling.axis_step(p, dv), dv),
            dual=soc.join(np.zeros(len(dw)), dw),
            slack=dsigma,
            multiplier=(slack - point.multiplier * dsigma) / point.slack,
            unpenalised=dc,
        )

    def _solve(self, r: Array, r_free: Array) -> tuple[Array, Array]:
        """Solve for (v, c), and refine with the exact system for as long as that helps."""
        v, c = self.factors.solve(r, r_free)
        enough, before = self.refined * float(np.abs(r).max()), np.inf
        for _ in range(_REFINEMENTS):
            left, left_free = self._multiply(v, c)
            rest, rest_free = r - left, r_free - left_free
            size = max(float(np.abs(rest).max()), float(np.abs(rest_free).max(initial=0.0)))
            if size <= enough or size > 0.5 * before:
                break
            dv, dc = self.factors.solve(rest, rest_free)
            v, c, before = v + dv, c + dc, size
        return v, c

    def _multiply(self, v: Array, c: Array) -> tuple[Array, Array]:
        setup = self.setup
        theta = self.curvature.times(setup.operator.forward(v, c))
        groups, free = setup.operator.adjoint(theta)
        cones = setup.cone_adjoint(self.ratio * setup.cone_forward(v))
        return groups + self.scaling.multiply(v) + cones, free

    def trusted(self, step: _Point, length: float) -> float:
        """Return the length, at most ``length``, up to which the loss is near its model.

        There grad F changes along the step by at most `_TRUST` times what H predicts. Moves into
        the flat part of a log loss are free; moves out of it are not, as the model overshoots there
        by an exponential.
        """
        mean_loss = self.setup.program.mean_loss
        change = self.setup.operator.forward(step.v, step.unpenalised)
        gradient = mean_loss.gradient(self.f)
        model = float(np.vdot(change, self.curvature.times(change)))
        noise = 1e-13 * self.setup.null_loss
        for _ in range(120):
            rise = float(np.vdot(change, mean_loss.gradient(self.f + length * change) - gradient))
            if length * rise <= _TRUST * length**2 * model + noise:
                break
            length *= 0.7
        return length


def _next(newton: _Newton, residuals: _Residuals, floor: float) -> _Point:
    """Return the next point: predictor, corrector, corrections, and a step along their sum.

    The target of the products is Mehrotra's, a small part of their mean where the predictor went
    far; but from above ``floor`` it does not fall below.
    """
    point, mean = newton.point, newton.point.gap / newton.point.n_products
    cone, slack = newton.products(point)
    predictor = newton.direction(-cone, -slack, residuals)
    predicted = point.plus(predictor, point.reach(predictor)).gap / point.n_products
    target = max(min(floor, mean), mean * (predicted / mean) ** 3)
    centre = soc.join(np.full(len(cone), target), np.zeros_like(point.v))
    cone_rest, slack_rest = newton.products(predictor)
    step = newton.direction(centre - cone - cone_rest, target - slack - slack_rest, residuals)
    step, length = _centred(newton, step, target, residuals.none())
    return point.plus(step, newton.trusted(step, length))


def _centred(
    newton: _Newton, step: _Point, target: float, none: _Residuals
) -> tuple[_Point, float]:
    """Lengthen a step by correcting the products that stop it (Gondzio 1996); return how far it goes.

    Those are, of the products after a longer step than possible, the ones far from the target.
    """
    point, low, high = newton.point, _NEAR * target, _FAR * target
    length = point.reach(step)
    for _ in range(_CORRECTIONS):
        if length > _LONG:
            break
        wanted = min(1.0, 1.5 * length + 0.3)
        cone, slack = newton.products(point.plus(step, wanted))
        cone_change = soc.clip_eigenvalues(cone, low, high) - cone
        slack_change = np.clip(slack, low, high) - slack
        correction = newton.direction(
            soc.clip_eigenvalues(cone_change, -high, np.inf), np.maximum(slack_change, -high), none
        )
        corrected = step.plus(correction, 1.0)
        if (reached := point.reach(corrected)) < length + 0.1 * (wanted - length):
            break
        step, length = corrected, reached
    return step, length


class _Record(NamedTuple):
    iteration: int
    point: _Point
    error: float


def _path(setup: _Setup, point: _Point, tol: float) -> Iterator[_Record]:
    """Yield points, from the given one for as long as the linear algebra succeeds.

    Products far below what the tolerance asks for, or that run ahead of the residuals, only spoil
    the conditioning, and the curvature of a log loss: hence a floor for them.
    """
    grams = _kkt.ChannelGrams(setup.operator)
    for iteration in count():
        f = setup.predict(point)
        residuals = setup.residuals(point, f)
        error = setup.error(point, residuals)
        yield _Record(iteration, point, error)
        lag = error - point.gap / setup.null_loss
        floor = max(0.1 * tol, _LAG * lag) * setup.null_loss / point.n_products
        try:
            point = _next(_Newton(setup, point, f, grams, error), residuals, floor)
        except np.linalg.LinAlgError:
            return


def solve(
    program: Program, *, start: Start | None = None, tol: float = 1e-9, max_iter: int = 100
) -> Solution:
    """Solve a program by an interior point method.

    Parameters
    ----------
    program : Program
        The program of a grade, with at least one group.
    start : Start, optional
        A point near the optimum. Should the method fail from there, it begins anew without.
    tol : float, default=1e-9
        Largest duality gap, residuals included, relative to the loss of the grade without neurons.
    max_iter : int, default=100
        Iteration limit.

    Returns
    -------
    Solution
        The best point met; never an exception for a numerical failure. Status ``FAILED`` if its error
        is no less than the loss of the grade without neurons, as where the program is too large for
        direct linear algebra and there is no better start.
    """
    with np.errstate(all="ignore"):  # what is not finite compares false, or fails to factor
        setup = _Setup.of(program)
        firsts = [setup.start()] if start is None else [setup.around(start), setup.start()]
        ends = []
        for first in firsts:
            ends.append(_follow(setup, first, tol, max_iter))
            if ends[-1].best.error <= max(tol, _FAIR):
                break
    # Where none has an error that is a number, the last one is at least a point of finite numbers.
    best, status, iterations = min(reversed(ends), key=lambda end: end.best.error)
    return Solution(
        blocks=best.point.v,
        unpenalised=best.point.unpenalised,
        multipliers=best.point.multiplier if program.cones else None,
        status=status if best.error < 1.0 else Status.FAILED,
        iterations=iterations,
        gap=best.error,
    )


class _End(NamedTuple):
    """The best record of a path, how the path ended, and after how many iterations."""

    best: _Record
    status: Status
    iterations: int


def _follow(setup: _Setup, first: _Point, tol: float, max_iter: int) -> _End:
    """Follow the path from a point until the tolerance is met or nothing is gained any more."""
    best = _Record(0, first, np.inf)
    for last in _path(setup, first, tol):
        best = last if last.error < best.error else best
        if best.error <= tol:
            return _End(best, Status.OPTIMAL, last.iteration)
        if last.iteration == max_iter:
            return _End(best, Status.ITERATION_LIMIT, last.iteration)
        if last.iteration - best.iteration >= (_PATIENCE if best.error > _FAIR else _FAIR_PATIENCE):
            break
    return _End(best, Status.INACCURATE, last.iteration)
