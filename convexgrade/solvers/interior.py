"""A primal-dual interior point method for the program of a grade.

With an epigraph t_g of each norm and slacks sigma_g, the program reads

    minimise    F(o + A (v, c)) + alpha sum_g t_g
    subject to  ||v_g|| <= t_g,    sigma_g = E_g X v_g >= 0                     (the latter with cones)

and with multipliers (alpha, w_g) of the second-order cones and z_g of the slacks its solutions are
the points inside both families of cones at which

    A_g^T grad F = w_g + (E_g X)^T z_g      Z^T grad F = 0      sigma_g = E_g X v_g
    (t_g, v_g) o (alpha, w_g) = mu (1, 0)   sigma_g z_g = mu    for mu = 0.

Newton steps towards such points for falling mu, from inside the cones and infeasible at first, are
Mehrotra's predictor and corrector with Gondzio's corrections, in the scaling of Nesterov and Todd.
Eliminating t_g, w_g, sigma_g and z_g leaves a system in v and c alone, with the blocks

    B_g = S_g + X^T diag(z_g / sigma_g) X,        S_g of the second-order cone, diagonal plus rank one;

E_g is gone, as E_g^2 = I. ``_kkt.py`` solves it. F enters through its Hessian at the point: exact for
the squared error, otherwise Newton's model, and a step ends where that model stops being good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convexgrade.program import Program
from convexgrade.solution import Solution, Status
from convexgrade.solvers import _kkt
from convexgrade.solvers import _second_order as soc

Array = NDArray[np.float64]

_FRACTION = 0.95  # of the way to the boundary that a step may go
_CORRECTIONS = 2  # most centrality corrections a step
_LONG = 0.9  # step length beyond which none is tried
_PATIENCE = 15  # iterations without progress after which the method gives up
_REFINEMENTS = 5  # most corrections of a linear solve
_EXACT = 1e-12  # loss, relative to that before the grade, that counts as none
_LAG = 0.003  # part of the residuals' share in the error below which the gap need not fall
_TRUST = 2.0  # largest ratio of a change of gradient to its linear model


@dataclass(frozen=True)
class _Point:
    """A primal-dual point, or a step between two.

    ``primal`` has the rows (t_g, v_g), ``dual`` the rows (alpha, w_g). Without cones ``slack`` and
    ``multiplier`` have no rows.
    """

    primal: Array  # (n_groups, 1 + d)
    dual: Array  # (n_groups, 1 + d)
    slack: Array  # (n_samples or 0, n_groups)
    multiplier: Array  # (n_samples or 0, n_groups)
    unpenalised: Array  # (q, n_outputs)

    def plus(self, step: _Point, length: float) -> _Point:
        """Return the point after a step."""
        return _Point(
            self.primal + length * step.primal,
            self.dual + length * step.dual,
            self.slack + length * step.slack,
            self.multiplier + length * step.multiplier,
            self.unpenalised + length * step.unpenalised,
        )

    @property
    def gap(self) -> float:
        """Complementarity gap: primal minus dual objective once the residuals are zero."""
        return float(np.vdot(self.primal, self.dual) + np.vdot(self.slack, self.multiplier))

    @property
    def mu(self) -> float:
        """Mean complementarity product."""
        return self.gap / self.degree

    @property
    def degree(self) -> int:
        """Number of complementarity products."""
        return self.primal.shape[0] + self.slack.size

    def reach(self, step: _Point) -> float:
        """Return the length, at most 1, of the step that keeps a fraction of every distance."""
        lengths = (
            soc.reach(self.primal, step.primal),
            soc.reach(self.dual, step.dual),
            _reach(self.slack, step.slack),
            _reach(self.multiplier, step.multiplier),
        )
        return min(1.0, _FRACTION * min(lengths))


def _reach(x: Array, step: Array) -> float:
    """Return the largest a with x + a step >= 0."""
    return 1.0 / max(float(np.max(-step / x, initial=0.0)), 1e-300)


@dataclass(frozen=True)
class _Residuals:
    """How far the linear conditions are from holding."""

    stationarity: Array  # A_g^T grad F - w_g - (E_g X)^T z_g, (n_groups, d)
    unpenalised: Array  # Z^T grad F, (q, n_outputs)
    slack: Array  # E_g X v_g - sigma_g

    def scaled(self, factor: float) -> _Residuals:
        """Return a multiple."""
        return _Residuals(
            factor * self.stationarity, factor * self.unpenalised, factor * self.slack
        )


@dataclass(frozen=True)
class _Problem:
    """The program in the arrays of the method."""

    program: Program
    operator: _kkt.Operator
    rows: Array  # X, or no rows of it without cones
    signs: Array  # E_g as columns, (n_samples or 0, n_groups)
    null: Array  # c of the grade without neurons
    loss: float  # F there: the unit of accuracy
    response: float  # size of a response that changes F by about as much

    @classmethod
    def of(cls, program: Program, null: Array) -> _Problem:
        """Collect them; ``null`` are the coefficients c of the grade without neurons."""
        p = program
        f = p.offset + p.Z @ null
        loss = p.mean_loss(f)
        curvature = float(np.einsum("i,ikk->", p.weights, p.loss.hessian(f, p.y))) / p.n_outputs
        rows = p.X if p.cones else p.X[:0]
        return cls(
            program=p,
            operator=_kkt.Operator.build(
                p.X, p.Z, p.patterns.masks, p.routing(), p.groups.pattern
            ),
            rows=rows,
            signs=np.where(p.masks()[: len(rows)], 1.0, -1.0),
            null=null,
            loss=loss,
            response=float(np.sqrt(2.0 * loss / curvature)),
        )

    def start(self) -> _Point:
        """Return a point inside the cones, v = 0, with products of the size of the loss.

        Slacks are a group's share of the response, multipliers a row's share of the gradient, and
        the penalty is half of the loss.
        """
        p, (n, d), n_groups = self.program, self.program.X.shape, len(self.program.groups)
        primal, dual = np.zeros((n_groups, 1 + d)), np.zeros((n_groups, 1 + d))
        primal[:, 0] = 0.5 * self.loss / (n_groups * p.alpha)
        dual[:, 0] = p.alpha
        slack = np.full(self.signs.shape, self.response / np.sqrt(n_groups))
        gradient = 2.0 * self.loss / self.response
        multiplier = np.full(self.signs.shape, 0.3 * gradient / n)
        return _Point(primal, dual, slack, multiplier, self.null)

    def predict(self, point: _Point) -> Array:
        """Return offset + A (v, c)."""
        forward = self.operator.forward(point.primal[:, 1:], point.unpenalised)
        return np.asarray(self.program.offset + forward)

    def gradient(self, f: Array) -> Array:
        """Return grad F at a prediction."""
        p = self.program
        return np.asarray(p.weights[:, None] * p.loss.gradient(f, p.y))

    def cone_forward(self, v: Array) -> Array:
        """Return E_g X v_g as columns."""
        return np.asarray(self.signs * (self.rows @ v.T))

    def cone_adjoint(self, z: Array) -> Array:
        """Return (E_g X)^T z_g as rows."""
        return np.asarray((self.signs * z).T @ self.rows)

    def residuals(self, point: _Point) -> _Residuals:
        """Return the residuals of the linear conditions."""
        channels, unpenalised = self.operator.adjoint(self.gradient(self.predict(point)))
        return _Residuals(
            channels - point.dual[:, 1:] - self.cone_adjoint(point.multiplier),
            unpenalised,
            self.cone_forward(point.primal[:, 1:]) - point.slack,
        )

    def error(self, point: _Point, residuals: _Residuals) -> float:
        """Return a bound on the distance from the optimum, relative to the loss.

        Complementarity gap, and each residual times the size of what it multiplies in the
        difference of the primal and the dual objective.
        """
        r = residuals
        dual = np.linalg.norm(r.stationarity, axis=1).max() * point.primal[:, 0].sum()
        free = np.vdot(np.abs(r.unpenalised), np.abs(point.unpenalised) + self.response)
        slack = np.vdot(np.abs(r.slack), point.multiplier)
        return float(point.gap + dual + free + slack) / self.loss


class _Newton:
    """The Newton system at a point, factored."""

    def __init__(self, problem: _Problem, point: _Point, grams: _kkt.Grams) -> None:
        p = problem.program
        self.problem, self.point = problem, point
        self.scaling = soc.Scaling.between(point.primal, point.dual)
        self.ratio = point.multiplier / point.slack
        self.f = problem.predict(point)
        self.curvature = p.weights[:, None, None] * p.loss.hessian(self.f, p.y)
        roots = _kkt.block_roots(problem.rows, self.ratio, self.scaling.roots())
        self.factors = _kkt.Factorisation.build(problem.operator, roots, self.curvature, grams)

    def direction(self, cone: Array, slack: Array, residuals: _Residuals) -> _Point:
        """Return the step that changes the products of the point as asked, and removes residuals.

        Parameters
        ----------
        cone : ndarray of shape (n_groups, 1 + d)
            Wanted change of (t, v) o (alpha, w), in the scaled coordinates.
        slack : ndarray
            Wanted change of sigma z.
        residuals : _Residuals
            Residuals to remove.
        """
        problem, point, r = self.problem, self.point, residuals
        p = self.scaling.invert(soc.divide(cone, self.scaling.point))
        reduced = self.scaling.reduce(p)
        pull = (slack - point.multiplier * r.slack) / point.slack
        dv, dc = self._solve(
            reduced - r.stationarity + problem.cone_adjoint(pull), -r.unpenalised
        )
        dsigma = problem.cone_forward(dv) + r.slack
        dw = reduced - self.scaling.multiply(dv)
        return _Point(
            primal=soc.join(self.scaling.axis_step(p, dv), dv),
            dual=soc.join(np.zeros(len(dw)), dw),
            slack=dsigma,
            multiplier=(slack - point.multiplier * dsigma) / point.slack,
            unpenalised=dc,
        )

    def products(self, point: _Point) -> tuple[Array, Array]:
        """Return (t, v) o (alpha, w), scaled, and sigma z, of a point or a step."""
        primal, dual = self.scaling.invert(point.primal), self.scaling.apply(point.dual)
        return soc.product(primal, dual), point.slack * point.multiplier

    def _solve(self, r: Array, r_free: Array) -> tuple[Array, Array]:
        """Solve for (v, c), and refine with the exact system while that helps."""
        v, c = self.factors.solve(r, r_free)
        size, previous = float(np.abs(r).max()), np.inf
        for _ in range(_REFINEMENTS):
            left, left_free = self._multiply(v, c)
            rest, rest_free = r - left, r_free - left_free
            error = max(float(np.abs(rest).max()), float(np.abs(rest_free).max(initial=0.0)))
            if error <= 1e-13 * size or error > 0.5 * previous:
                break
            more, more_free = self.factors.solve(rest, rest_free)
            v, c, previous = v + more, c + more_free, error
        return v, c

    def _multiply(self, v: Array, c: Array) -> tuple[Array, Array]:
        problem = self.problem
        theta = _apply(self.curvature, problem.operator.forward(v, c))
        channels, free = problem.operator.adjoint(theta)
        cones = problem.cone_adjoint(self.ratio * problem.cone_forward(v))
        return channels + self.scaling.multiply(v) + cones, free

    def trusted(self, step: _Point, length: float) -> float:
        """Return the length up to which the loss is near its model.

        That is where grad F changes along the step by at most ``_TRUST`` times what H predicts. Moves
        into the flat part of a log loss are free, moves out of it are not: the model there would
        overshoot by an exponential.
        """
        change = self.problem.operator.forward(step.primal[:, 1:], step.unpenalised)
        gradient = self.problem.gradient(self.f)
        model = float(np.vdot(change, _apply(self.curvature, change)))
        for a in length * 0.8 ** np.arange(60):
            rise = float(np.vdot(change, self.problem.gradient(self.f + a * change) - gradient))
            if a * rise <= _TRUST * a**2 * model + 1e-13 * self.problem.loss:
                break
        return float(a)


def _apply(curvature: Array, f: Array) -> Array:
    """Return H f, row by row."""
    return np.einsum("ikl,il->ik", curvature, f)


def _step(newton: _Newton, residuals: _Residuals, floor: float) -> _Point:
    """Return the next point."""
    point, mu = newton.point, newton.point.mu
    cone, slack = newton.products(point)
    predictor = newton.direction(-cone, -slack, residuals)
    reached = point.plus(predictor, point.reach(predictor))
    target = max(min(floor, mu), (reached.mu / mu) ** 3 * mu)  # Mehrotra: centre where the predictor made little of it
    identity = soc.join(np.ones(len(cone)), np.zeros((len(cone), cone.shape[1] - 1)))
    second_cone, second_slack = newton.products(predictor)
    step = newton.direction(
        target * identity - cone - second_cone, target - slack - second_slack, residuals
    )
    step = _centred(newton, step, target, residuals.scaled(0.0))
    return point.plus(step, newton.trusted(step, point.reach(step)))


def _centred(newton: _Newton, step: _Point, target: float, none: _Residuals) -> _Point:
    """Lengthen a step by correcting the products that it would leave far from the target.

    (Gondzio 1996.) Products at a longer step than possible are moved part of the way into
    [0.3, 3] times the target.
    """
    point = newton.point
    length = point.reach(step)
    for _ in range(_CORRECTIONS):
        if length > _LONG:
            break
        wanted = min(1.0, 1.5 * length + 0.3)
        cone, slack = newton.products(point.plus(step, wanted))
        low, high = 0.3 * target, 3.0 * target
        correction = newton.direction(
            soc.clip_eigenvalues(soc.clip_eigenvalues(cone, low, high) - cone, -high, np.inf),
            np.maximum(np.clip(slack, low, high) - slack, -high),
            none,
        )
        corrected = step.plus(correction, 1.0)
        gained = point.reach(corrected) - length
        if gained < 0.1 * (wanted - length):
            break
        step, length = corrected, length + gained
    return step


def solve(program: Program, *, tol: float = 1e-9, max_iter: int = 100) -> Solution:
    """Solve a program by an interior point method.

    Parameters
    ----------
    program : Program
        The program of a grade, with at least one group.
    tol : float, default=1e-9
        Largest duality gap, residuals counted in, relative to the loss without neurons.
    max_iter : int, default=100
        Iteration limit.

    Returns
    -------
    Solution
        The best point met; with status ``FAILED`` when there was none, or when the program is too
        large for direct linear algebra. Never an exception for a numerical failure.
    """
    null = program.null_coefficients()
    if _nothing_left(program, null):
        blocks = np.zeros((len(program.groups), program.X.shape[1]))
        return Solution(blocks, null, None, Status.OPTIMAL, 0)
    with np.errstate(all="ignore"):  # what is not finite fails a comparison, and ends the loop
        problem = _Problem.of(program, null)
        best, status = _Record(problem.start(), np.inf, 0), Status.INACCURATE
        for iteration, (point, error) in enumerate(_path(problem, tol)):
            if error < best.error:
                best = _Record(point, error, iteration)
            if error <= tol:
                status = Status.OPTIMAL
                break
            if iteration == max_iter:
                status = Status.ITERATION_LIMIT
                break
            if not iteration - best.iteration < _PATIENCE:
                break
    if not best.error < 1.0:
        status = Status.FAILED
    return Solution(
        blocks=best.point.primal[:, 1:],
        unpenalised=best.point.unpenalised,
        multipliers=best.point.multiplier if program.cones else None,
        status=status,
        iterations=iteration,
    )


def _nothing_left(program: Program, null: Array) -> bool:
    """Return whether the unpenalised columns alone fit: then they are optimal, losses being >= 0."""
    before = program.mean_loss(program.offset)
    return program.mean_loss(program.offset + program.Z @ null) <= _EXACT * before


class _Record(NamedTuple):
    """The best point so far."""

    point: _Point
    error: float
    iteration: int


def _path(problem: _Problem, tol: float) -> Iterator[tuple[_Point, float]]:
    """Yield points and their errors, from the start for as long as linear algebra succeeds."""
    grams, point = _kkt.Grams(problem.operator), problem.start()
    while True:
        residuals = problem.residuals(point)
        error = problem.error(point, residuals)
        yield point, error
        lag = error - point.gap / problem.loss
        floor = max(0.1 * tol, _LAG * lag) * problem.loss / point.degree
        try:
            point = _step(_Newton(problem, point, grams), residuals, floor)
        except np.linalg.LinAlgError:
            return
