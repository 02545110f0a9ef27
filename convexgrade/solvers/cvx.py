"""The program of a grade in CVXPY: the readable definition, and the reference for every solver."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from convexgrade.program import Program
from convexgrade.solution import Solution, Status

Array = NDArray[np.float64]


# Mean losses: the loss with its parameters, predictions, targets and weights.
Stated = Callable[[Any, cp.Expression, Array, Array], cp.Expression]
Cost = Callable[[Any, cp.Expression, Array], cp.Expression]


def _squared_error(loss: Any, f: cp.Expression, y: Array, weights: Array) -> cp.Expression:
    return 0.5 * cp.sum_squares(cp.multiply(np.sqrt(weights)[:, None], f - y))


def _log_loss(loss: Any, f: cp.Expression, y: Array, weights: Array) -> cp.Expression:
    if y.shape[1] == 1:
        return weights @ (cp.logistic(f) - cp.multiply(y, f))[:, 0]
    return weights @ (cp.log_sum_exp(f, axis=1) - cp.sum(cp.multiply(y, f), axis=1))


def _mean(cost: Cost) -> Stated:
    """Return the mean of a loss that treats each output on its own."""
    return lambda loss, f, y, weights: weights @ cp.sum(cost(loss, f, y), axis=1)


def _poisson(loss: Any, f: cp.Expression, y: Array) -> cp.Expression:
    return cp.exp(f) - cp.multiply(y, f) + xlogy(y, y) - y


def _smoothed(loss: Any, f: cp.Expression, y: Array) -> cp.Expression:
    at, mid, half = loss.kink(y)
    mid = np.broadcast_to(mid, y.shape)
    r = f - at
    apart = cp.vstack([cp.vec(r, order="C"), np.full(y.size, loss.smoothing)])
    size = cp.reshape(cp.norm(apart, 2, axis=0), y.shape, order="C")
    least = half * loss.smoothing * np.sqrt(1.0 - (mid / half) ** 2)
    return cp.multiply(mid, r) + half * size - least


def _huber(loss: Any, f: cp.Expression, y: Array) -> cp.Expression:
    return cp.huber(f - y, loss.width) / (2.0 * loss.width)


def _squared_hinge(loss: Any, f: cp.Expression, y: Array) -> cp.Expression:
    return cp.square(cp.pos(1.0 - cp.multiply(2.0 * y - 1.0, f)))


LOSSES: Mapping[str, Stated] = {
    "squared_error": _squared_error,
    "absolute_error": _mean(_smoothed),
    "huber": _mean(_huber),
    "quantile": _mean(_smoothed),
    "poisson": _mean(_poisson),
    "log_loss": _log_loss,
    "squared_hinge": _mean(_squared_hinge),
    "hinge": _mean(_smoothed),
}

# Each at the accuracy it reaches, where the next digit starts to fail: a gap is of first order in the
# error of the dual, so that a certificate asks for more digits than the objective shows.
_OPTIONS: Mapping[str, dict[str, float]] = {
    "clarabel": {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11, "max_iter": 200},
    "ecos": {"abstol": 1e-9, "reltol": 1e-9, "feastol": 1e-9, "max_iters": 200},
    "scs": {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iters": 100_000},
}

SOLVERS = tuple(_OPTIONS)


_STATUS = {
    cp.OPTIMAL: Status.OPTIMAL,
    cp.OPTIMAL_INACCURATE: Status.INACCURATE,
    cp.USER_LIMIT: Status.ITERATION_LIMIT,
}


def solve(program: Program, *, solver: str, cap: Array | None = None) -> Solution:
    """Solve a program with one of CVXPY's solvers.

    Parameters
    ----------
    program : Program
        The program of a grade; with at least one group or unpenalised column.
    solver : {"clarabel", "ecos", "scs"}
        Solver that CVXPY calls.
    cap : ndarray of shape (n_samples, n_outputs), optional
        Largest distance of each prediction from its target: further constraints.

    Returns
    -------
    Solution
        With status ``FAILED`` and no usable point when the solver gave up; never an exception for
        a numerical failure.
    """
    if program.loss.name not in LOSSES:
        raise NotImplementedError(
            f"solver={solver!r} has no CVXPY form of loss={program.loss.name!r}; "
            f"available: {sorted(LOSSES)}."
        )
    V = cp.Variable((program.X.shape[1], len(program.groups)))
    c = cp.Variable((program.free.size, program.n_outputs)) if program.free.size else None
    # Sums over rows instead of means: ECOS needs numbers near 1 where there are exponential cones.
    scale = float(len(program.X)) if solver == "ecos" else 1.0
    problem, cone = _state(program, V, c, scale, cap)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "may be inaccurate": the status says it
            problem.solve(solver=solver.upper(), **_OPTIONS[solver])
    except cp.SolverError:
        return _failure(program)
    if V.value is None:
        return _failure(program)
    return Solution(
        blocks=np.ascontiguousarray(V.value.T),
        unpenalised=c.value if c is not None else np.zeros((0, program.n_outputs)),
        multipliers=None if cone is None else np.maximum(cone.dual_value, 0.0) / scale,
        status=_STATUS.get(problem.status, Status.INACCURATE),
        iterations=int(problem.solver_stats.num_iters or 0),
    )


def _state(
    program: Program, V: cp.Variable, c: cp.Variable | None, scale: float, cap: Array | None
) -> tuple[cp.Problem, cp.Constraint | None]:
    """State ``scale`` times the program; return it with its constraint E_g X v_g >= 0, if any."""
    masks = program.masks()
    scores = program.X @ V
    f = program.offset + cp.multiply(masks.astype(float), scores) @ program.routing()
    if c is not None:
        f = f + program.Z @ c
    loss = LOSSES[program.loss.name](program.loss, f, program.y, program.weights)
    penalty = program.alpha * cp.sum(cp.norm(V, 2, axis=0))
    cone = cp.multiply(2.0 * masks - 1.0, scores) >= 0 if program.cones else None
    constraints = [] if cone is None else [cone]
    if cap is not None:
        constraints.append(cp.abs(f - program.y) <= cap)
    return cp.Problem(cp.Minimize(scale * (loss + penalty)), constraints), cone


def _failure(program: Program) -> Solution:
    return Solution(
        blocks=np.zeros((len(program.groups), program.X.shape[1])),
        unpenalised=np.zeros((program.free.size, program.n_outputs)),
        multipliers=None,
        status=Status.FAILED,
        iterations=0,
    )
